"""The whole suite and its commands run once with a tiny recipe; no time is asserted."""

import json

import pytest
import torch

from benchmarks import __main__, timing
from benchmarks.commands import bench, stages
from melgpu.errors import InputError
from melgpu.models import classifier
from melgpu.recipe import load_recipe
from tests.helpers import run_script
from tests.helpers.benchmarks import TINY, flags, run

PNG = b"\x89PNG"


def test_the_suite(short_music, quick_roofline, tmp_path, capsys):
    result = run(capsys, *flags(short_music), "--out", tmp_path / "x.json", "--plots", tmp_path)
    assert result == json.loads((tmp_path / "x.json").read_text())
    assert [(tmp_path / name).read_bytes()[:4] for name in ("bars.png", "curves.png", "roofline.png")] == 3 * [PNG]
    assert list(dict.fromkeys(row["stage"] for row in result["rows"])) == list(__main__.STAGES)
    for row in result["rows"]:
        assert row["limit"]
        assert row["limit_windows_per_s"] > 0
        assert min(row["samples_windows_per_s"]) <= row["windows_per_s"] <= max(row["samples_windows_per_s"])
    assert {"schema", "date", "device", "driver", "cores", "git_commit", "packages"} <= result.keys()
    assert [finding.split(":")[0] for finding in result["findings"]] == [
        "train resnet10t",
        "train test_efficientnet",
        "predict 2 networks",
    ]


def test_one_stage_alone(short_music, quick_roofline, capsys):
    result = run(capsys, *flags(short_music), "--only", "copy")
    assert [row["way"] for row in result["rows"]] == ["pcm_cache=disk"]
    assert result["findings"] == []


def test_networks_of_all_rounds_are_trained_and_checked(short_music, tmp_path):
    assert bench.networks(load_recipe([]))[:3] == ["densenet201", "inception_v3", "densenet169"]
    assert sorted(bench.networks(load_recipe([]))) == sorted(classifier.BACKBONES)
    args = __main__.suite().parse_args([*map(str, flags(short_music)), "--set", TINY.replace("resnet10t", "resnet5")])
    with pytest.raises(InputError, match="no network resnet5"):
        bench.prepare(args, tmp_path)


def test_the_suite_trains_the_first_rounds_networks(short_music, tmp_path, monkeypatch):
    first = "{backbones=['test_resnet', 'resnet10t'], folds=[0], blend={cnn=1.0}}"
    args = __main__.suite().parse_args([*map(str, flags(short_music)), "--set", TINY.replace("[{", f"[{first}, {{", 1)])
    trained = []
    monkeypatch.setattr(stages, "_train_network", lambda bench, loader, recipe, name: trained.append(name) or [])
    monkeypatch.setattr(stages, "_train_curve_row", lambda bench, name, batch_size: [])
    for _, measure in stages.train(bench.prepare(args, tmp_path)):
        measure()
    assert trained == ["test_resnet", "resnet10t", "test_efficientnet"]


def test_a_limit_that_is_exceeded_is_measured_again():
    rates = iter([5.0, 3.0, 11.0, 99.0])
    limit = bench.Limit("x", lambda: next(rates))
    assert limit.best_for(4.0) == 5.0
    assert limit.best_for(10.0) == 11.0
    assert limit.best_for(10.0) == 11.0
    too_low = bench.Limit("y", lambda: 1.0)
    assert too_low.best_for(10.0) == 1.0
    assert timing.exceeds_limit({"windows_per_s": 10.0, "limit_windows_per_s": too_low.best})


def test_every_process_gets_several_files(monkeypatch, tmp_path):
    measured = []
    monkeypatch.setattr(
        bench.bench_decode, "measure", lambda call, args, paths, *counts: measured.extend(paths) or [2.0]
    )
    decoding = bench.Bench(load_recipe([]), ["a", "b", "c"], None, tmp_path, bench.Effort(4, (), 1, 1, 0.1, 1))
    assert decoding.rates_in_processes(None, (), workers=12) == [48 * 11 / 2.0]
    assert measured == 16 * ["a", "b", "c"]


def test_only_a_cpu_trains_from_files_with_a_short_prefetch(tmp_path):
    recipe = load_recipe([], ["loader.prefetch_tracks=99", "loader.workers=1"])
    for device, prefetch_tracks in (("cuda", 99), ("cpu", 1)):
        training = bench.Bench(recipe, [], torch.device(device), tmp_path, bench.effort(torch.device(device), True))
        assert training.with_short_prefetch(recipe).loader.prefetch_tracks == prefetch_tracks


def test_powers_of_two():
    assert bench.powers_of_two(1) == [1]
    assert bench.powers_of_two(6) == [1, 2, 4, 6]
    assert bench.powers_of_two(16) == [1, 2, 4, 8, 16]


def test_help_does_not_import_torch():
    code = "import sys; from benchmarks import __main__ as m\n"
    code += "for parser in m.COMMANDS.values(): assert 'example' in parser().format_help()\n"
    code += "sys.exit('torch' in sys.modules)"
    completed = run_script("-c", code)
    assert completed.returncode == 0, completed.stderr
