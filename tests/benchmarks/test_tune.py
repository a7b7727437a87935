"""Tuned settings: chosen by what was measured, laid over a recipe, and without a trace in the results."""

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


def test_a_value_is_kept_where_it_gains():
    rates = {8: [[100.0], [101.0, 99.0]], 16: [[120.0], [121.0, 119.0]], 4: [[50.0], [50.0]]}
    one = Trial("machine.feature_batch", 8, rates)
    assert (one.best, one.kept) == (16, 16)
    assert one.gain(16) == pytest.approx(1.2)
    assert Trial("machine.feature_batch", 8, {8: [[100.0]] * 2, 16: [[102.0]] * 2}).kept == 8  # too little
    assert Trial("machine.feature_batch", 8, {8: [[90.0, 100.0, 130.0]], 16: [[80.0, 110.0, 140.0]]}).kept == 8  # noise
    assert Trial("machine.compile", False, {}, {False: "broken"}).kept is False


def test_a_gain_has_to_come_in_every_round():
    """Apart as a whole, but in the second round the machine was faster with the value before."""
    drifted = Trial("machine.feature_batch", 8, {8: [[100.0] * 9, [130.0]], 16: [[120.0] * 9, [120.0]]})
    assert drifted.gain(16) == 1.2
    assert drifted.kept == 8


def test_rounds_go_there_and_back():
    asked = []
    wanted = load_recipe([])
    search.attempt(wanted, "machine.feature_batch", [3, 5], lambda now: asked.append(now.machine.feature_batch))
    assert asked == [0, 3, 5, 5, 3, 0]


def test_values_that_are_equal_in_effect_are_left_out():
    assert search.distinct(4, [1, 2], lambda count: min(count, 2)) == [1]  # four processes of two cores are two
    assert search.distinct(0, [4, 8, 16, 32, 64], lambda size: min(size or 8, 32)) == [4, 16, 32]


def test_a_bank_is_told_and_not_taken():
    off = Trial("loader.pcm_cache", "off", {"off": [[1.0], [1.0]], "disk": [[9.0], [9.0]]})
    assert (off.best, off.kept) == ("disk", "off")
    assert "9.0 times as fast" in search.hints([off])[0]
    disk = Trial("loader.pcm_cache", "disk", {"disk": [[1.0], [1.0]], "gpu": [[9.0], [9.0]]})
    assert (disk.kept, search.hints([disk])) == ("gpu", [])


def test_what_does_not_work_here_is_left_out():
    def measure(settings):
        if settings.machine.feature_batch == 3:
            raise RuntimeError("no memory\nat all")
        return [float(settings.machine.feature_batch + 1)] * 2

    tried = search.attempt(load_recipe([]), "machine.feature_batch", [3, 5], measure)
    assert tried.rates == {0: [[1.0] * 2] * 2, 5: [[6.0] * 2] * 2}
    assert tried.refused == {3: "no memory"}
    assert tried.kept == 5


def test_an_engine_that_misses_the_gate_is_refused(monkeypatch):
    monkeypatch.setattr(tune.parity, "MAX_DB", 0.0)
    bench = type("Bench", (), {"device": CPU})
    tried = search.attempt(load_recipe(["demo"]), "mel.engine", ["fft"], lambda now: tune.drawing(bench, now))
    assert tried.rates == {}
    assert set(tried.refused) == {"auto", "fft"}
    assert all("inexact" in why for why in tried.refused.values())


def test_the_ratio_is_taken_sample_by_sample():
    assert tune.ratios({"default": [1.0, 2.0, 4.0], "tuned": [2.0, 6.0, 4.0]}) == (2.0, 1.0, 3.0)


def test_tune(short_music, quick_limits, tmp_path, capsys):
    path = tmp_path / "tuned.toml"
    result = run(capsys, "tune", *flags(short_music), "--write", path, "--plot", tmp_path / "x.png")
    assert [one["setting"] for one in result["trials"]][-1] == "loader.pcm_cache"
    assert (result["quick"], result["batch_size"]) == (True, 4)
    assert result["precision"] in ("float32", "bfloat16")
    assert [one["backbones"] for one in result["recipe"]["rounds"]] == [["resnet10t", "test_efficientnet"]]
    assert all(one["samples_windows_per_s"] for one in result["trials"])
    assert len(result["versus"]["training"]["tuned"]) == len(result["versus"]["training"]["default"]) > 0
    made = load_recipe(["zalo2019", str(path)])
    assert made.machine.tuned_on == environment.tuning_signature(CPU)
    assert made.model_copy(update={"mel": load_recipe([]).mel}).digest() == load_recipe([]).digest()
    assert set(toml_tables.read(path)) <= {"machine", "loader", "mel"}


def test_a_recipes_own_bank_stays_and_serves_prediction(short_music, tmp_path, monkeypatch):
    (tmp_path / "own.toml").write_text("[loader]\npcm_cache = 'disk'\n")
    given, seen = [], []

    class Watched(tune.Stream):
        def __init__(self, *arguments):
            given.append(arguments[-1])
            super().__init__(*arguments)

    def look(bench, quick):
        with contextlib.closing(tune.prediction(bench, bench.recipe, "resnet10t")) as loop:
            next(loop)
        seen.append((bench.recipe.loader.pcm_cache, given == [bench.pcm_cache]))
        raise InputError("seen enough")

    monkeypatch.setattr(tune, "WindowLoader", Watched)
    monkeypatch.setattr(tune, "run", look)
    with pytest.raises(InputError, match="seen enough"):
        __main__.main(["tune", *map(str, [*flags(short_music), "--recipe", "demo", "--recipe", tmp_path / "own.toml"])])
    assert seen == [("disk", True)]


@pytest.mark.parametrize(
    "tuned",
    [
        "[machine]\nchannels_last = false\nfeature_batch = 3\n[mel]\nengine = 'nnaudio'\n",
        pytest.param("[machine]\ncompile = true\n", marks=[pytest.mark.slow, NEEDS_COMPILER]),
    ],
)
def test_tuned_settings_leave_results_as_they_are(tmp_path, tuned):
    """The same losses and probabilities, but for the last digits of float32."""
    path = tmp_path / "tuned.toml"
    path.write_text(tuned)
    overrides = ["optim.precision='float32'", "mel.image_size=75", "backbone.dropout=0.0"]
    found = []
    for names in (["demo"], ["demo", str(path)]):
        settings = load_recipe(names, overrides)
        torch.manual_seed(0)
        state, draw = bench_train.begin("resnet10t", settings, CPU), measurement.front_end(settings, CPU)
        batches = measurement.same_batch(measurement.noise(settings, 8, CPU))
        loop = bench_train.training_loop(state, "resnet10t", settings, draw, batches)
        losses = [state.sums[0].item() for _, _ in zip(range(3), loop, strict=False)]
        ((_, probs),) = inference.window_probs([state.model], draw, [next(batches)], flip=True, bfloat16=False)
        found.append((losses, probs[0].numpy()))
    (losses, probs), (other_losses, other_probs) = found
    assert losses == pytest.approx(other_losses, rel=1e-3)
    np.testing.assert_allclose(probs, other_probs, atol=1e-3)
