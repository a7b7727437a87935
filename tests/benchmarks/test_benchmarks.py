"""Every benchmark starts, prints a table, and ends with one line of JSON; no time is asserted."""

import json
import os

import pytest
import soundfile
import torch

from benchmarks import (
    bench_decode,
    bench_features,
    bench_loader,
    bench_predict,
    bench_train,
    cli,
    corpus,
    parity,
    timing,
)
from melgpu.audio import worker
from melgpu.errors import InputError
from melgpu.features.parity import MAX_ERROR_DB, MAX_MEAN_ERROR_DB
from melgpu.recipe import load_recipe
from tests.helpers import run_script, write_audio


def last_line(result) -> dict:
    assert result.returncode == 0 or "implausible" in result.stderr, (
        result.stderr
    )  # rates of so short a time may exceed their limits
    return json.loads(result.stdout.splitlines()[-1])


def run(capsys, module, *arguments) -> dict:
    """A benchmark's result; its exit code may be 1, as rates of so short a time may exceed their limits."""
    assert module.main([*map(str, arguments)]) in (0, 1, None)
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_bench_features(tmp_path):
    arguments = ["--recipe", "demo", "--batch-sizes", "1", "3", "--seconds", "0.01", "--device", "cpu"]
    completed = run_script(
        "-m", "benchmarks.bench_features", *arguments, "--out", tmp_path / "x.json", "--plot", tmp_path / "x.png"
    )
    result = last_line(completed)
    assert result == json.loads((tmp_path / "x.json").read_text())
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
    names = {row["front_end"] for row in result["rows"]}
    assert {"melgpu nnaudio", "melgpu fft", "stock nnAudio", "torchaudio", "librosa"} <= names
    assert {row["batch_size"] for row in result["rows"]} == {1, 3}
    assert all(len(row["samples_s"]) >= 5 and min(row["samples_s"]) > 0 for row in result["rows"])
    assert result["device"]
    assert result["packages"]["torch"]
    assert "torchaudio" in completed.stdout


def test_the_limit_is_that_of_the_fastest_batch_size(monkeypatch):
    seconds, batch_sizes = {1: 0.5, 2: 0.5, 4: 0.5, 8: 4.0}, []

    def measure(call, device, total_s):
        call()
        return [seconds[batch_sizes[-1]], 9.0]

    monkeypatch.setattr(torch, "stft", lambda waves, *args, **kwargs: batch_sizes.append(len(waves)))
    monkeypatch.setattr(timing, "measure", measure)
    assert bench_features.limit(load_recipe([]).mel, torch.zeros(8, 10)) == ("bare FFT", 8.0)  # 4 in half a second


def test_a_front_end_that_fails_costs_its_rows(monkeypatch):
    def fail():
        raise ModuleNotFoundError("no such library")

    broken = {"broken": fail, "fine": lambda: lambda waves: waves}
    monkeypatch.setattr(bench_features, "baselines", lambda recipe, device: broken)
    result = bench_features.run(load_recipe(["demo"]), [2], torch.device("cpu"), 0.01)
    assert [row["front_end"] for row in result["rows"]] == ["melgpu nnaudio", "melgpu fft", "fine"]
    assert result["failed"] == {"broken": "ModuleNotFoundError: no such library"}


def test_an_engine_is_not_measured_on_pictures_that_it_does_not_draw():
    recipe = load_recipe([], ["mel.channels='viridis'"])
    with pytest.raises(InputError, match="fused renders grey pictures"):
        bench_features.engines(recipe, torch.device("cuda"))["fused"]()
    with pytest.raises(InputError, match=r"loader\.pcm_cache"):
        bench_loader.with_cache(recipe, "tape")


def test_a_machine_that_others_load_is_warned_of(monkeypatch, capsys):
    monkeypatch.setattr(timing, "num_usable_cores", lambda: 2)
    monkeypatch.setattr(os, "getloadavg", lambda: (2.5, 0.0, 0.0))
    assert timing.describe_machine(torch.device("cpu"))["load_average"] == 2.5
    assert "load average 2.5 on 2 cores" in capsys.readouterr().err
    monkeypatch.setattr(os, "getloadavg", lambda: (2.0, 9.0, 9.0))
    timing.describe_machine(torch.device("cpu"))
    assert capsys.readouterr().err == ""


def test_parity(tmp_path, capsys):
    path = write_audio(tmp_path / "x.ogg", 10, 44_100, 2)
    result = run(capsys, parity, path, "--recipe", "demo", "--device", "cpu")
    assert result["windows"] == 3
    assert set(result["engines"]) == {"nnaudio", "fft"}
    for row in result["engines"].values():
        assert 0 < row["max_db"] <= MAX_ERROR_DB
        assert 0 < row["mean_db"] <= MAX_MEAN_ERROR_DB
        assert max(row["max_db_by_band"].values()) == pytest.approx(row["max_db"])


def test_bench_decode(tmp_path, capsys):
    for name in ("a.ogg", "b.flac"):
        write_audio(tmp_path / name, 3, 44_100, 2)
    arguments = ["--music", tmp_path, "--workers", "1", "--repeats", "2", "--plot", tmp_path / "x.png"]
    result = run(capsys, bench_decode, *arguments, "--out", tmp_path / "x.json")
    assert result == json.loads((tmp_path / "x.json").read_text())
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
    variants = [row["way"] for row in result["rows"]]
    assert {"limit", "soundfile, soxr", "melgpu", "NumPy's mean", "seeking", "librosa"} == set(variants)
    assert all(row["times_real_time"] > 0 and len(row["samples_s"]) == 2 for row in result["rows"])


def test_bench_loader(tmp_path, capsys):
    for i in range(4):
        write_audio(tmp_path / f"{i}.ogg", 8, 44_100, 2, seed=i)
    arguments = ["--music", tmp_path, "--recipe", "demo", "--epochs", "2", "--originals", "1", "--device", "cpu"]
    result = run(capsys, bench_loader, *arguments, "--plot", tmp_path / "x.png")
    rows = {row["way"]: row for row in result["rows"]}
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
    variants = ["decoded on the fly", "PCM cache on disk", "device cache on cpu"]
    pictures = [f"{variant}, pictures" for variant in variants]
    assert {*variants, *pictures, "librosa, matplotlib, JPEG"} == set(rows)
    assert all(row["windows_per_s"] > 0 and row["first_batch_s"] > 0 for row in rows.values())
    assert all(len(rows[variant]["memory_mib"]) == 2 for variant in pictures)


def test_synthetic_music_is_two_minutes_of_stereo(tmp_path):
    first, second, link = corpus.compose(tmp_path, "flac", 3, pieces=2)
    info = soundfile.info(first)
    assert (info.samplerate, info.channels, info.frames) == (44_100, 2, 120 * 44_100)
    assert os.path.samefile(first, link)
    assert not os.path.samefile(first, second)
    assert corpus.select(tmp_path, 2) == [first, link]


def test_only_files_that_libsndfile_reads_are_selected(tmp_path):
    (tmp_path / "a.m4a").touch()
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(InputError, match=folder.name):
            bench_decode.main(["--music", str(folder)])
        args = cli.make_parser("", tracks=2).parse_args(["--music", str(folder)])
        with pytest.raises(InputError, match=folder.name):
            cli.paths_of(args, tmp_path)
    path = write_audio(tmp_path / "b.ogg")
    assert corpus.select(tmp_path, 2) == [str(path)]


def test_a_file_with_an_error_stops_the_measurement(tmp_path):
    path, target = tmp_path / "a.flac", tmp_path / "pcm"
    path.write_bytes(b"no music")
    target.touch()
    with pytest.raises(InputError, match=r"a\.flac: not readable"):
        bench_decode.measure(worker.decode_to_file, (8000, 8000, str(target), 0), [str(path)], 0, 1)


def test_there_are_at_least_so_many_calls():
    calls = []
    samples = timing.measure(lambda: calls.append(1), torch.device("cpu"), seconds=0, min_calls=7)
    assert (len(samples), len(calls)) == (7, 9)
    assert timing.median_and_quartiles([3.0, 1.0, 2.0, 4.0, 5.0])[0] == 3.0


def test_peak_memory_counts_freed_memory():
    code = (
        "import torch; from benchmarks import timing; cpu = torch.device('cpu')\n"
        "before = timing.reset_peak_memory(cpu); torch.ones(200 * 2**20, dtype=torch.uint8)\n"
        "print(timing.peak_memory(cpu) - before)"
    )
    assert 190 < float(run_script("-c", code).stdout) < 300


def test_bench_train(tmp_path, capsys):
    for i in range(3):
        write_audio(tmp_path / f"{i}.ogg", 8, 44_100, 2, seed=i)
    arguments = ["--music", tmp_path, "--recipe", "demo", "--backbones", "resnet10t", "--batch-size", "2"]
    arguments += ["--steps", "2", "--repeats", "2", "--device", "cpu", "--plot", tmp_path / "x.png"]
    result = run(capsys, bench_train, *arguments)
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
    (row,) = result["rows"]
    assert len(row["seconds_a_step"]) == 3
    assert all(seconds > 0 for seconds in row["seconds_a_step"].values())
    assert {"audio", "pictures", "network"} <= row["stage_shares"].keys()
    assert row["stage_shares"]["network"] > row["stage_shares"]["other"]


def test_bench_predict(tmp_path, capsys):
    for i in range(2):
        write_audio(tmp_path / f"{i}.ogg", 8, 44_100, 2, seed=i)
    rounds = "rounds=[{backbones=['resnet10t', 'test_efficientnet'], folds=[0, 1], blend={cnn=1.0}}]"
    arguments = ["--music", tmp_path, "--recipe", "demo", "--set", rounds, "--repeats", "2", "--device", "cpu"]
    result = run(capsys, bench_predict, *arguments)
    assert (result["models"], result["tracks"], result["windows"]) == (4, 2, 6)
    assert result["tracks_per_s"] > 0
    assert all(len(samples) == 2 for samples in result["samples_s"].values())
