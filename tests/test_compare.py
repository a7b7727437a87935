"""melgpu beside its rivals: every way is measured, ratios are right, pictures are the same."""

import pytest
import torch
from test_suite import flags, run

from benchmarks import compare, stages
from melgpu import recipe


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
    assert rows[compare.ORIGINAL]["wait_s"] > rows["melgpu's stream, torchaudio"]["wait_s"] > 0
    assert rows[compare.LATER]["wait_s"] is None


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
    settings, device = recipe.load([]), torch.device("cuda" if torch.cuda.is_available() else "cpu")
    waves = stages.noise(settings, 2, device)
    drawn = compare.front_ends(settings, device)["NVIDIA DALI"](waves)
    assert (drawn - stages.front_end(settings, device)(waves)).abs().mean() < 1e-3
