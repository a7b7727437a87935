"""Tuned settings: selected by measured rates, an overlay on a recipe, and without effect on results."""

import shutil

import pytest
import torch

from benchmarks.commands import search, tune
from benchmarks.commands.search import Trial
from melgpu import toml_tables
from melgpu.recipe import load_recipe
from melgpu.runs import environment
from tests.helpers.benchmarks import flags, run

CPU = torch.device("cpu")
NEEDS_COMPILER = pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile makes C++ here")


def test_a_faster_value_is_selected():
    rates = {8: [[100.0], [101.0, 99.0]], 16: [[120.0], [121.0, 119.0]], 4: [[50.0], [50.0]]}
    trial = Trial("machine.feature_batch", 8, rates)
    assert trial.selected == 16
    assert trial.gain(16) == pytest.approx(1.2)
    assert Trial("machine.feature_batch", 8, {8: [[100.0]] * 2, 16: [[102.0]] * 2}).selected == 8  # too small a gain
    assert (
        Trial("machine.feature_batch", 8, {8: [[90.0, 100.0, 130.0]], 16: [[80.0, 110.0, 140.0]]}).selected == 8
    )  # noise
    assert Trial("machine.compile", False, {}, {False: "no compiler"}).selected is False


def test_a_gain_must_be_present_in_every_round():
    """Separated over all samples, but in the second round the initial value was faster."""
    drifted = Trial("machine.feature_batch", 8, {8: [[100.0] * 9, [130.0]], 16: [[120.0] * 9, [120.0]]})
    assert drifted.gain(16) == 1.2
    assert drifted.selected == 8


def test_rounds_go_forth_and_back():
    measured = []
    recipe = load_recipe([])
    search.try_values(
        recipe, "machine.feature_batch", [3, 5], lambda tried: measured.append(tried.machine.feature_batch)
    )
    assert measured == [0, 3, 5, 5, 3, 0]


def test_values_that_are_equal_in_effect_are_left_out():
    assert search.distinct(4, [1, 2], lambda count: min(count, 2)) == [1]  # four processes on two cores are two
    assert search.distinct(0, [4, 8, 16, 32, 64], lambda size: min(size or 8, 32)) == [4, 16, 32]


def test_a_value_that_fails_is_rejected():
    def measure(recipe):
        if recipe.machine.feature_batch == 3:
            raise RuntimeError("no memory\nat all")
        return [float(recipe.machine.feature_batch + 1)] * 2

    trial = search.try_values(load_recipe([]), "machine.feature_batch", [3, 5], measure)
    assert trial.rates == {0: [[1.0] * 2] * 2, 5: [[6.0] * 2] * 2}
    assert trial.rejected == {3: "no memory"}
    assert trial.selected == 5


def test_an_engine_that_fails_the_parity_gate_is_rejected(monkeypatch):
    monkeypatch.setattr(tune.parity, "MAX_ERROR_DB", 0.0)
    bench = type("Bench", (), {"device": CPU})
    trial = search.try_values(
        load_recipe(["demo"]), "mel.engine", ["fft"], lambda tried: tune.feature_rates(bench, tried)
    )
    assert trial.rates == {}
    assert set(trial.rejected) == {"auto", "fft"}
    assert all("parity gate" in reason for reason in trial.rejected.values())


def test_the_ratio_is_taken_sample_by_sample():
    assert tune.ratios({"default": [1.0, 2.0, 4.0], "tuned": [2.0, 6.0, 4.0]}) == (2.0, 1.0, 3.0)


def test_tune(short_music, quick_roofline, tmp_path, capsys):
    path = tmp_path / "tuned.toml"
    result = run(capsys, "tune", *flags(short_music), "--write", path, "--plot", tmp_path / "x.png")
    assert [trial["setting"] for trial in result["trials"]][-1] == "loader.predict_batch_size"
    assert (result["quick"], result["batch_size"]) == (True, 4)
    assert result["precision"] in ("float32", "bfloat16")
    assert [spec["backbones"] for spec in result["recipe"]["rounds"]] == [["resnet10t", "test_efficientnet"]]
    assert all(trial["samples_windows_per_s"] for trial in result["trials"])
    assert len(result["versus"]["training"]["tuned"]) == len(result["versus"]["training"]["default"]) > 0
    tuned = load_recipe(["zalo2019", str(path)])
    assert tuned.machine.tuned_on == environment.tuning_signature(CPU)
    assert tuned.model_copy(update={"mel": load_recipe([]).mel}).digest() == load_recipe([]).digest()
    assert set(toml_tables.read(path)) <= {"machine", "loader", "mel"}
