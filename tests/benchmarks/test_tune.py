"""Tuned settings: selected by measured rates, an overlay on a recipe, and without effect on results."""

import contextlib
import shutil

import numpy as np
import pytest
import torch

from benchmarks import __main__, bench_train, measurement
from benchmarks.commands import search, tune
from benchmarks.commands.search import Trial
from melgpu import toml_tables
from melgpu.errors import InputError
from melgpu.models import inference
from melgpu.recipe import load_recipe
from melgpu.runs import environment
from tests.helpers.benchmarks import flags, run

CPU = torch.device("cpu")
NEEDS_COMPILER = pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile makes C++ here")


def test_a_faster_value_is_selected():
    rates = {8: [[100.0], [101.0, 99.0]], 16: [[120.0], [121.0, 119.0]], 4: [[50.0], [50.0]]}
    trial = Trial("machine.feature_batch", 8, rates)
    assert (trial.best, trial.selected) == (16, 16)
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


def test_a_pcm_cache_is_a_hint_and_not_selected():
    off = Trial("loader.pcm_cache", "off", {"off": [[1.0], [1.0]], "disk": [[9.0], [9.0]]})
    assert (off.best, off.selected) == ("disk", "off")
    assert "9.0 times as fast" in search.hints([off])[0]
    disk = Trial("loader.pcm_cache", "disk", {"disk": [[1.0], [1.0]], "gpu": [[9.0], [9.0]]})
    assert (disk.selected, search.hints([disk])) == ("gpu", [])


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
    assert [trial["setting"] for trial in result["trials"]][-1] == "loader.pcm_cache"
    assert (result["quick"], result["batch_size"]) == (True, 4)
    assert result["precision"] in ("float32", "bfloat16")
    assert [spec["backbones"] for spec in result["recipe"]["rounds"]] == [["resnet10t", "test_efficientnet"]]
    assert all(trial["samples_windows_per_s"] for trial in result["trials"])
    assert len(result["versus"]["training"]["tuned"]) == len(result["versus"]["training"]["default"]) > 0
    tuned = load_recipe(["zalo2019", str(path)])
    assert tuned.machine.tuned_on == environment.tuning_signature(CPU)
    assert tuned.model_copy(update={"mel": load_recipe([]).mel}).digest() == load_recipe([]).digest()
    assert set(toml_tables.read(path)) <= {"machine", "loader", "mel"}


def test_a_recipes_pcm_cache_stays_and_is_used_for_prediction(short_music, tmp_path, monkeypatch):
    (tmp_path / "cache.toml").write_text("[loader]\npcm_cache = 'disk'\n")
    caches, observed = [], []

    class RecordingLoader(tune.WindowLoader):
        def __init__(self, *arguments):
            caches.append(arguments[-1])
            super().__init__(*arguments)

    def observe(bench, quick):
        with contextlib.closing(tune.prediction_from_files(bench, bench.recipe, "resnet10t")) as loop:
            next(loop)
        observed.append((bench.recipe.loader.pcm_cache, caches == [bench.pcm_cache]))
        raise InputError("stop here")

    monkeypatch.setattr(tune, "WindowLoader", RecordingLoader)
    monkeypatch.setattr(tune, "run", observe)
    with pytest.raises(InputError, match="stop here"):
        __main__.main(
            ["tune", *map(str, [*flags(short_music), "--recipe", "demo", "--recipe", tmp_path / "cache.toml"])]
        )
    assert observed == [("disk", True)]


@pytest.mark.parametrize(
    "tuned",
    [
        "[machine]\nchannels_last = false\nfeature_batch = 3\n[mel]\nengine = 'nnaudio'\n",
        pytest.param("[machine]\ncompile = true\n", marks=[pytest.mark.slow, NEEDS_COMPILER]),
    ],
)
def test_tuned_settings_do_not_change_results(tmp_path, tuned):
    """The same losses and probabilities, but for the last digits of float32."""
    path = tmp_path / "tuned.toml"
    path.write_text(tuned)
    overrides = ["optim.precision='float32'", "mel.image_size=75", "backbone.dropout=0.0"]
    results = []
    for names in (["demo"], ["demo", str(path)]):
        recipe = load_recipe(names, overrides)
        torch.manual_seed(0)
        state, front_end = bench_train.new_training("resnet10t", recipe, CPU), measurement.front_end(recipe, CPU)
        batches = measurement.repeat_batch(measurement.noise(recipe, 8, CPU))
        loop = bench_train.training_loop(state, "resnet10t", recipe, front_end, batches)
        losses = [state.metric_sums[0].item() for _, _ in zip(range(3), loop, strict=False)]
        ((_, probs),) = inference.window_probs([state.model], front_end, [next(batches)], flip=True, bfloat16=False)
        results.append((losses, probs[0].numpy()))
    (losses, probs), (tuned_losses, tuned_probs) = results
    assert losses == pytest.approx(tuned_losses, rel=1e-3)
    np.testing.assert_allclose(probs, tuned_probs, atol=1e-3)
