"""melgpu beside its rivals: every way is measured, ratios are right, pictures are the same."""

import os

import pytest
import torch

from benchmarks import __main__, measurement
from benchmarks.commands import compare
from melgpu.errors import InputError
from melgpu.recipe import load_recipe
from tests.helpers.benchmarks import flags, run


def test_compare(short_music, tmp_path, capsys):
    result = run(capsys, "compare", *flags(short_music), "--plot", tmp_path / "x.png")
    rows = {row["way"]: row for row in result["rows"]}
    assert (result["quick"], result["batch_size"]) == (True, 4)
    assert result["precision"] in ("float32", "bfloat16")
    assert [one["backbones"] for one in result["recipe"]["rounds"]] == [["resnet10t", "test_efficientnet"]]
    assert {compare.BASE, compare.BANK, compare.ORIGINAL, compare.LATER} <= set(rows)
    assert {"melgpu's stream, torchaudio", "melgpu's stream, stock nnAudio"} <= set(rows)
    assert rows[compare.BASE]["base_is_times_as_fast"] == [1.0, 1.0, 1.0]
    assert rows[compare.BANK]["disk_bytes"] == pytest.approx(4 * 18 * 11_025 * compare.TRACKS)
    assert rows[compare.ORIGINAL]["disk_bytes"] > 0 == rows[compare.BASE]["disk_bytes"]
    windows = rows[compare.ORIGINAL]["wait_s"] * rows[compare.ORIGINAL]["windows_per_s"] / compare.TRACKS
    assert windows == pytest.approx(round(windows))  # it waits for every window of every track
    assert windows > 0
    assert rows["melgpu's stream, torchaudio"]["wait_s"] == rows[compare.BASE]["wait_s"] > 0  # both look at all files
    assert rows[compare.LATER]["wait_s"] is None


def test_every_core_gets_a_process(short_music, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 12)
    jobs = []

    def look(bench):
        monkeypatch.setattr(compare.bench_stream, "time_original", lambda *given: jobs.append(given) or {})
        next(compare.originals(bench))
        jobs.append((bench.workers, bench.recipe.loader.workers))
        raise InputError("seen enough")

    monkeypatch.setattr(compare, "run", look)
    with pytest.raises(InputError, match="seen enough"):
        __main__.main(["compare", "--quick", "--music", str(short_music), "--device", "cpu"])
    (paths, _, _, workers), own = jobs
    assert (len(paths), workers, own) == (12, 12, (12, 12))


def test_librosa_is_told_to_work_in_one_process():
    found = compare.front_ends(load_recipe([]), torch.device("cpu"))
    assert "librosa in one process" in found
    assert "librosa" not in found


def test_ratios_are_taken_sample_by_sample():
    assert compare.ratio([10.0, 20.0, 30.0], [5.0, 20.0, 10.0]) == [2.0, 1.0, 3.0]


def test_durations_have_the_unit_that_suits():
    assert [compare.duration(seconds) for seconds in (3.25, 600, 7200, 20 * 86_400)] == [
        "3.2 s",
        "10.0 min",
        "2.0 h",
        "20.0 days",
    ]


def test_dali_draws_the_same_pictures():
    pytest.importorskip("nvidia.dali")
    settings, device = load_recipe([]), torch.device("cuda" if torch.cuda.is_available() else "cpu")
    waves = measurement.noise(settings, 2, device)
    drawn = compare.front_ends(settings, device)["NVIDIA DALI"](waves)
    assert (drawn - measurement.front_end(settings, device)(waves)).abs().mean() < 1e-3
