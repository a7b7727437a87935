"""melgpu and its baselines: every variant is measured, ratios are correct, pictures are equal."""

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
    assert [spec["backbones"] for spec in result["recipe"]["rounds"]] == [["resnet10t", "test_efficientnet"]]
    assert {compare.BASE, compare.CACHED, compare.ORIGINAL, compare.READ_BACK} <= set(rows)
    assert {"melgpu's loader, torchaudio", "melgpu's loader, stock nnAudio"} <= set(rows)
    assert rows[compare.BASE]["base_is_times_as_fast"] == [1.0, 1.0, 1.0]
    assert rows[compare.CACHED]["disk_bytes"] == pytest.approx(4 * 18 * 11_025 * compare.TRACKS)
    assert rows[compare.ORIGINAL]["disk_bytes"] > 0 == rows[compare.BASE]["disk_bytes"]
    track_windows = rows[compare.ORIGINAL]["wait_s"] * rows[compare.ORIGINAL]["windows_per_s"] / compare.TRACKS
    assert track_windows == pytest.approx(round(track_windows))  # it renders every window of every track first
    assert track_windows > 0
    assert rows["melgpu's loader, torchaudio"]["wait_s"] == rows[compare.BASE]["wait_s"] > 0  # both check all files
    assert rows[compare.READ_BACK]["wait_s"] is None


def test_every_core_gets_a_process(short_music, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(12)))
    calls, counts = [], []

    def observe(bench):
        monkeypatch.setattr(compare.bench_loader, "time_original", lambda *args: calls.append(args) or {})
        next(compare.original_pictures(bench))
        counts.extend([bench.workers, bench.recipe.loader.workers])
        raise InputError("stop here")

    monkeypatch.setattr(compare, "run", observe)
    with pytest.raises(InputError, match="stop here"):
        __main__.main(["compare", "--quick", "--music", str(short_music), "--device", "cpu"])
    ((paths, _, _, workers),) = calls
    assert (len(paths), workers, *counts) == (12, 12, 12, 12)


def test_librosa_is_named_as_working_in_one_process():
    names = compare.front_ends(load_recipe([]), torch.device("cpu"))
    assert "librosa in one process" in names
    assert "librosa" not in names


def test_ratios_are_taken_sample_by_sample():
    assert compare.ratio([10.0, 20.0, 30.0], [5.0, 20.0, 10.0]) == [2.0, 1.0, 3.0]


def test_durations_have_a_suitable_unit():
    assert [compare.duration(seconds) for seconds in (3.25, 600, 7200, 20 * 86_400)] == [
        "3.2 s",
        "10.0 min",
        "2.0 h",
        "20.0 days",
    ]


def test_dali_renders_the_same_pictures():
    pytest.importorskip("nvidia.dali")
    recipe, device = load_recipe([]), torch.device("cuda" if torch.cuda.is_available() else "cpu")
    waves = measurement.noise(recipe, 2, device)
    pictures = compare.front_ends(recipe, device)["NVIDIA DALI"]()(waves)
    assert (pictures - measurement.front_end(recipe, device)(waves)).abs().mean() < 1e-3
