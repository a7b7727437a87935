"""The bottleneck of a pipeline and what to change, on example rates."""

import pytest

from benchmarks.commands import bottleneck
from benchmarks.commands.bottleneck import Change

RATES = {"audio": 100.0, "pictures": 400.0, "network": 200.0}  # 10, 2.5 and 5 ms a window


def test_audio_overlaps_on_a_gpu_and_all_share_a_cpu():
    assert bottleneck.combined_rate(RATES, shared=False) == 100
    busy = {"audio": 5000.0, "pictures": 3000.0, "network": 1000.0}  # on the device 1/3 and 1 ms, in sequence
    assert bottleneck.combined_rate(busy, shared=False) == pytest.approx(750)
    assert bottleneck.gain(busy, Change("pictures", "", 3.0), shared=False) == pytest.approx(1.2)
    assert bottleneck.gain(busy, Change("audio", "", 9.0), shared=False) == 1.0
    assert bottleneck.combined_rate(RATES, shared=True) == pytest.approx(1 / 0.0175)
    fractions = {"audio": 10 / 17.5, "pictures": 2.5 / 17.5, "network": 5 / 17.5}
    assert bottleneck.time_fractions(RATES) == pytest.approx(fractions)
    assert bottleneck.slowest(RATES) == "audio"


def test_a_gain_ends_where_the_next_stage_limits():
    faster = Change("audio", "loader.workers 2 -> 8", 4.0)
    assert bottleneck.gain(RATES, faster, shared=False) == pytest.approx(400 / 3 / 100)  # the device's 7.5 ms
    assert bottleneck.gain(RATES, faster, shared=True) == pytest.approx(17.5 / 10)
    assert bottleneck.gain(RATES, Change("pictures", "", 9.0), shared=False) == 1.0


def test_the_best_change_has_the_largest_gain_above_the_minimum():
    changes = [Change("audio", "a", 1.5), Change("audio", "b", 1.8), Change("pictures", "c", 1.1)]
    assert bottleneck.best(RATES, changes, shared=True)[0].description == "b"
    assert bottleneck.best(RATES, changes[2:], shared=True) is None  # 17.5 ms become 17.3
    assert bottleneck.best(RATES, [Change("network", "d", 50.0)], shared=False) is None
    assert bottleneck.best(RATES, [Change("copy", "no such stage", 9.0)], shared=True) is None


def test_a_gpu_is_limited_by_the_stages_that_alternate_on_it():
    """Audio is the slowest stage, and yet does not limit."""
    rates = {"audio": 900.0, "pictures": 1000.0, "network": 950.0}
    text = bottleneck.summarize("x", rates, 480.0, [], shared=False)
    assert text.startswith("x: network limits (950.0 windows/s alone, 51% of the GPU's work on a window); 480.0")


def test_a_measured_gain_and_a_bound_are_reported_separately():
    changes = [Change("audio", "a", 2.0), Change("network", "b", 5.0, at_most=True)]
    text = bottleneck.summarize("x", RATES, 50.0, changes, shared=True)
    assert "Change a: predicted 1.40 times as fast. To try: b; at most 1.30 times as fast." in text
    assert "No setting is known" in bottleneck.summarize("x", RATES, 50.0, [], shared=True)
    assert "Change a: predicted 1.11 times" in bottleneck.summarize(
        "x", RATES, 180.0, changes, shared=True
    )  # the network's 200
    assert "No setting is known" in bottleneck.summarize("x", RATES, 199.0, changes[:1], shared=True)


def row(stage, variant, rate, limit=1000.0, **extra):
    return {"stage": stage, "way": variant, "windows_per_s": rate, "limit_windows_per_s": limit, **extra}


def result(**extra):
    rows = [
        row("decode", "2 processes", 110.0, workers=2),
        row("decode", "4 processes", 220.0, workers=4),
        row("copy", "pcm_cache=disk", 5000.0),
        row("features", "nnaudio, batch of 8", 400.0, engine="nnaudio", batch_size=8),
        row("features", "fused, batch of 8", 1600.0, engine="fused", batch_size=8),
        row("features", "fused, batch of 16", 9999.0, engine="fused", batch_size=16),
        row("loader", "files to batches", 100.0),
        row("train", "resnet50, pictures ready", 210.0, 420.0),
        row("train", "resnet50, from files", 99.0),
        row("predict", "6 networks, networks alone", 20.0, 80.0),
        row("predict", "6 networks, files to probabilities", 19.0),
    ]
    machine = {"workers": 2, "batch_size": 8, "engine": "nnaudio", "on_gpu": True, "precision": "bfloat16"}
    recipe = {"audio": {"sample_rate": 22_050}, "machine": {"compile": False, "channels_last": True}}
    machine |= {"track_s": 120.0, "recipe": recipe}
    return {"rows": rows, "roofline": {"peaks_flops": {"float32": 1.0, "bfloat16": 8.0}}, **machine, **extra}


def test_findings_name_the_bottleneck_the_setting_and_the_gain():
    train, predict = bottleneck.findings(result())
    assert train.startswith("train resnet50: audio limits (100.0 windows/s alone); 99.0 windows/s together")
    assert "Change loader.workers 2 -> 4: predicted 1.38 times" in train  # from 100 to 1 / (1 / 400 + 1 / 210)
    assert predict.startswith("predict 6 networks: network limits (20.0 windows/s alone, 95% of the GPU's work on a")
    assert "at most 3.50 times as fast" in predict  # from 52.5 ms to 12.5 + 2.5
    assert "To try: machine.compile (python" in predict  # channels_last is set already


def test_a_setting_in_use_is_not_proposed():
    tuned = result()
    tuned["recipe"]["machine"]["compile"] = True
    assert not any("machine." in text for text in bottleneck.findings(tuned))


def test_changes_come_from_measured_rates():
    by_name = {change.description: change for change in bottleneck.changes(result())}
    assert by_name["loader.workers 2 -> 4"].factor == 2.0
    cache = "loader.pcm_cache off -> disk (10.6 MB a track)"  # 120 s x 22,050 x 4 bytes
    assert by_name[cache].factor == 50.0
    assert by_name["mel.engine nnaudio -> fused"].factor == 4.0
    in_float32 = {change.description: change for change in bottleneck.changes(result(precision="float32"))}
    assert any(change.at_most and change.factor == 8.0 for change in in_float32.values())
