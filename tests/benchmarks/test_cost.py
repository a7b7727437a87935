"""The cost of the recipe from example rates; each expected value is computed beside it."""

import json
from dataclasses import replace

import numpy as np
import pytest

from benchmarks import __main__, timing
from benchmarks.commands import cost, library, rates
from benchmarks.commands.rates import Rates
from melgpu.data import windows
from melgpu.errors import InputError
from melgpu.recipe import load_recipe
from tests.helpers.benchmarks import TINY, run

ZALO = load_recipe([])
NAMES = sorted({name for spec in ZALO.rounds for name in spec.backbones})
FAST = Rates(dict.fromkeys(NAMES, 100.0), audio=1e9, pictures=1e9, views=1000.0, batch_size=32, shared=False)


def test_the_competitions_tracks_and_their_windows():
    assert sum(cost.CLASS_TRACKS.values()) == 5158
    labels = [label for label, tracks in cost.CLASS_TRACKS.items() for _ in range(tracks)]
    index = windows.training_windows(np.arange(5158), labels, ZALO.audio, ZALO.windows)
    assert len(index) == 191 * 21 + 4967 * 11 == 58_648  # classes 1, 9 and 10 are dense
    assert cost.epoch_windows(ZALO, 1, 32) == 46_912  # 1,466 batches of four fifths
    assert cost.epoch_windows(ZALO, 2, 32) == 56_768  # and 866.5 test tracks of 11.37 windows each: 1,774 batches


def test_training_is_epochs_with_validation():
    epoch_s = 46_912 / 100 + 5158 / 5 * 11 / 1000
    assert cost.training_s(ZALO, FAST, 1, 20) == pytest.approx(3 * 2 * 20 * epoch_s)
    assert cost.training_s(ZALO, FAST, 1, None) == pytest.approx(3 * 2 * (1 + 100) * epoch_s)
    later_s = 56_768 / 100 + 5158 / 5 * 11 / 1000
    epochs = 4 * (1 + 100) + (1 + 40) + (1 + 25)  # of resnet50 and xception fewer
    assert cost.training_s(ZALO, FAST, 2, None) == pytest.approx(3 * epochs * later_s)


def test_prediction_is_one_pass_of_all_networks_and_both_views():
    count = 5158 * 11 + 1733 * 21
    assert cost.prediction_s(ZALO, FAST, 2) == pytest.approx(count * 18 * 2 / 1000)


def total_s(changed: Rates) -> float:
    """Seconds of the first library, of a thousand tracks."""
    return library.libraries(ZALO, changed, None)[0].total_s


def test_a_library_takes_the_time_of_the_stages_that_limit_it():
    assert total_s(FAST) == pytest.approx(1000 * 11 * 36 / 1000)
    slow_files = replace(FAST, audio=10.0)
    assert total_s(slow_files) == pytest.approx(1000 * 11 / 10)
    slow_pictures = replace(slow_files, pictures=5.0)
    assert total_s(slow_pictures) == pytest.approx(1000 * 11 * (1 / 5 + 36 / 1000))
    on_cpu = replace(slow_pictures, shared=True)
    assert total_s(on_cpu) == pytest.approx(1000 * 11 * (1 / 10 + 1 / 5 + 36 / 1000))
    stages = library.libraries(ZALO, on_cpu, None)[0]
    assert stages.audio_s + stages.pictures_s + stages.networks_s == pytest.approx(stages.total_s)


def test_libraries_have_a_price_and_parts_of_an_hour():
    rows = {row.tracks: row for row in library.libraries(ZALO, FAST, 2.5)}
    assert [*rows] == [1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000]
    hours = 1_000_000 * 11 * 36 / 1000 / 3600  # 110.0
    assert rows[1_000_000].price == pytest.approx(2.5 * hours)
    assert rows[1_000_000].parts == 111  # the pictures take a moment beyond 110 hours
    assert rows[1_000].parts == 1
    assert rows[100_000_000].parts == 1_000  # of 11 hours each: an array is not longer
    assert library.libraries(ZALO, FAST, None)[0].price is None


def test_numbers_have_three_digits_at_least():
    assert [library.number(value) for value in (4.6e-5, 0.001, 0.25, 99.96, 1234.5)] == [
        "< 0.001",
        "0.001",
        "0.25",
        "100",
        "1,234",
    ]


def test_a_network_takes_its_share_of_training_in_prediction():
    uneven = replace(FAST, train={**FAST.train, "resnet50": 400.0})
    mean_s = (5 / 100 + 1 / 400) / 6
    assert uneven.views_of("resnet50") == pytest.approx(1000 * mean_s * 400)
    assert uneven.from_files(NAMES * 3, 2) == pytest.approx(FAST.from_files(NAMES * 3, 2))  # the mean is as measured
    speeds = {(row.networks, row.views): row for row in library.speeds(ZALO, uneven)}
    assert len(speeds) == 8
    fastest, slowest, each, ensemble = (row for row in speeds.values() if row.views == 1)
    assert fastest.networks == "1: resnet50"
    assert fastest.tracks_per_s == pytest.approx(4 * slowest.tracks_per_s, rel=1e-4)
    assert each.tracks_per_s == pytest.approx(3 * ensemble.tracks_per_s, rel=1e-4)
    assert ensemble.tracks_per_s == pytest.approx(2 * speeds[ensemble.networks, 2].tracks_per_s, rel=1e-4)
    limits = [row.limited_by for row in library.speeds(ZALO, replace(uneven, audio=500.0)) if row.views == 1]
    assert limits == ["audio", "audio", "networks", "networks"]


def result(**extra) -> dict:
    rows = [{"stage": "train", "way": f"{name}, from files", "windows_per_s": 100.0} for name in NAMES]
    rows += [{"stage": "loader", "way": "files to batches", "windows_per_s": 1e9}]
    features = {"stage": "features", "way": "fft, batch of 32", "engine": "fft", "batch_size": 32}
    rows += [{**features, "windows_per_s": 1e9}, {**features, "batch_size": 8, "windows_per_s": 1.0}]
    rows += [{"stage": "predict", "way": "6 networks, networks alone", "windows_per_s": 1000 / 12, "models": 6}]
    tables = {name: ZALO.model_dump(mode="json")[name] for name in ("audio", "windows", "mel")}
    metadata = {"benchmark": "suite", "schema": timing.SCHEMA, "recipe": tables, "on_gpu": True, "batch_size": 32}
    metadata["engine"] = "fft"
    machine = dict.fromkeys(("device", "driver", "packages", "git_commit", "date", "platform", "python"), "x")
    return {"rows": rows, **metadata, **machine, "cores": 16, "threads": 1, **extra}


def test_rates_come_from_a_suite():
    assert rates.rates_of(result(), ZALO, "x") == FAST
    rows = [row for row in result()["rows"] if row["way"] not in ("resnet50, from files", "files to batches")]
    with pytest.raises(InputError, match="no rates of resnet50, loader;"):
        rates.rates_of(result(rows=rows), ZALO, "x")
    with pytest.raises(InputError, match=r"no rates of resnet50, loader \(a preview, --quick\);"):
        rates.rates_of(result(rows=rows, quick=True), ZALO, "x")
    with pytest.raises(InputError, match=r"another recipe \(mel differs"):
        rates.rates_of(result(), load_recipe([], ["mel.image_size=80"]), "x")


def gpu_result(**extra) -> dict:
    step_s = {"pictures ready": 0.16, "from files": 0.32}
    steps = {
        "training": {name: {"windows_per_s": 200.0, "step_s": step_s} for name in NAMES},
        "prediction": {
            "18 networks": {"windows_per_s": {"networks alone": 1000 / 36, "from files": 20.0}, "views": 36}
        },
        "loader": {"decoded": {"windows_per_s": 1e9}},
        "features": {"auto, batch of 32": {"windows_per_s": 1e9}, "auto, batch of 8": {"windows_per_s": 1.0}},
    }
    steps = {name: {"rows": rows} for name, rows in steps.items()}
    tables = result()["recipe"]
    machine = {key: result()[key] for key in ("device", "driver", "packages", "git_commit", "date", "platform")}
    metadata = {"benchmark": "gpu", "gpu_schema": rates.GPU_SCHEMA, "schema": timing.SCHEMA, "small": False}
    metadata["networks"] = NAMES
    return {**metadata, **machine, "python": "x", "cores": 16, "threads": 1, "recipe": tables, "steps": steps, **extra}


def test_rates_come_from_a_result_of_a_gpu():
    assert rates.rates_of(gpu_result(), ZALO, "x") == FAST
    steps = gpu_result()["steps"]
    steps["training"]["rows"]["resnet50"] = {"error": "out of memory"}
    del steps["loader"]
    with pytest.raises(InputError, match="no rates of resnet50, loader; python -m benchmarks gpu --out x"):
        rates.rates_of(gpu_result(steps=steps), ZALO, "x")
    with pytest.raises(InputError, match="measured on a CPU"):
        rates.rates_of(gpu_result(small=True), ZALO, "x")
    with pytest.raises(InputError, match=r"another recipe \(mel differs"):
        rates.rates_of(gpu_result(), load_recipe([], ["mel.image_size=80"]), "x")


STUDENT = load_recipe(["student"])


def test_a_network_that_was_not_measured_is_as_fast_as_the_slowest_that_was():
    steps = gpu_result()["steps"]
    steps["training"]["rows"]["densenet201"]["windows_per_s"] = 50.0
    steps["loader"]["rows"]["decoded"]["windows_per_s"] = 20.0
    measured = rates.rates_of(gpu_result(steps=steps), ZALO, "x")
    bounded = rates.rates_of(gpu_result(steps=steps), STUDENT, "x")
    assert "tf_efficientnet_lite0 on 128 x 128 pixels was not measured" in bounded.bounds
    assert "densenet201 on 512 x 512, which has 17" in bounded.bounds  # 171 times, by timm's published figures
    assert measured.bounds == ""
    assert bounded.stages(["tf_efficientnet_lite0"], 1) == pytest.approx(measured.stages(["densenet201"], 1))
    (*_, row) = library.libraries(STUDENT, bounded, 2.5)
    assert row.total_s == row.audio_s == pytest.approx(100_000_000 * 11 / 20)
    assert row.networks_s == pytest.approx(100_000_000 * 11 / measured.views_of("densenet201"))
    speeds = list(library.speeds(STUDENT, bounded))
    assert [(speed.networks, speed.views) for speed in speeds] == [
        ("1: tf_efficientnet_lite0", views) for views in (1, 2)
    ]


def test_networks_and_pictures_that_may_be_slower_than_all_that_were_measured_are_refused(monkeypatch):
    for change in ("mel.hop_length=256", "mel.image_size=1024", "windows.predict_hop_s=5", "audio.track_s=60"):
        with pytest.raises(InputError, match=r"no rates of tf_efficientnet_lite0; .* without --from measures them"):
            rates.rates_of(gpu_result(), load_recipe(["student"], [change]), "x")
    monkeypatch.setattr(rates, "_flops", lambda name, recipe: 1e9 if name in NAMES else 1.01e8)
    with pytest.raises(InputError, match="lite0 on 128 x 128 pixels, which has more than 1/10 of the operations of"):
        rates.rates_of(gpu_result(), STUDENT, "x")


@pytest.mark.parametrize("saved", [result(), gpu_result()], ids=["suite", "gpu"])
def test_the_cost_from_a_saved_result(tmp_path, capsys, saved):
    path = tmp_path / "saved.json"
    path.write_text(json.dumps(saved))
    out = tmp_path / "cost.json"
    assert __main__.main(["cost", "--from", str(path), "--price", "2.5", "--out", str(out)]) == 0
    output = capsys.readouterr().out
    estimate = json.loads(output.splitlines()[-1])
    assert estimate == json.loads(out.read_text())
    assert estimate["whole_s"][0] == pytest.approx(sum(typical_s for _, typical_s, _ in estimate["steps"]))
    assert "GPU-hours" in output
    assert "5,158 training tracks" in output
    price = 2.5 * 100_000_000 * 11 * 36 / 1000 / 3600
    assert estimate["libraries"][-1]["price"] == pytest.approx(price)
    assert f"{price:,.2f}"[:7] in output  # 27,500.0...


def test_a_price_below_zero_is_refused(tmp_path):
    (tmp_path / "x.json").write_text(json.dumps(result()))
    for price in ("-1", "nan"):
        with pytest.raises(InputError, match="not a price of an hour"):
            __main__.main(["cost", "--from", str(tmp_path / "x.json"), "--price", price])


OTHER_FILES = ["", "[]", '{"benchmark": []}', '{"benchmark": "decode"}', '{"benchmark": "suite", "schema": 0}']


@pytest.mark.parametrize("content", [*OTHER_FILES, '{"benchmark": "gpu", "schema": 2}'])
def test_other_files_are_rejected(tmp_path, content):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(InputError, match="not a result of"):
        rates.read_result(tmp_path / "x.json")


def test_a_saved_result_excludes_a_new_measurement(tmp_path):
    (tmp_path / "x.json").write_text(json.dumps(result()))
    with pytest.raises(InputError, match="beside --from"):
        __main__.main(["cost", "--quick", "--from", str(tmp_path / "x.json")])


def test_missing_rates_are_measured(monkeypatch, short_music, capsys):
    monkeypatch.setattr(cost.suite, "run", lambda bench, names: result(rows=[], stages=names))
    with pytest.raises(InputError, match="no rates of"):
        __main__.main(["cost", "--quick", "--music", str(short_music), "--set", TINY, "--device", "cpu"])


def test_a_student_is_measured(quick_roofline, short_music, capsys):
    network = "rounds=[{backbones=['test_efficientnet'], folds=[0], blend={}}]"
    flags = ["--music", short_music, "--set", network, "--set", "loader.workers=1", "--device", "cpu"]
    estimate = run(capsys, "cost", "--quick", "--recipe", "demo", "--recipe", "student", *flags)
    assert [*estimate["rates"]["train"]] == ["test_efficientnet"]
    assert (estimate["networks"], estimate["views"], estimate["unit"]) == (1, 1, "core-hours")
    row = estimate["libraries"][-1]
    assert row["total_s"] == pytest.approx(row["audio_s"] + row["pictures_s"] + row["networks_s"])
    assert any("pictures of 128 x 128" in line for line in estimate["assumptions"])
    assert any("the teacher" in line for line in estimate["assumptions"])
