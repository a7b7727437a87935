"""The cost of the recipe from example rates; each expected value is computed beside it."""

import json

import numpy as np
import pytest

from benchmarks import __main__, timing
from benchmarks.commands import cost
from benchmarks.commands.cost import Rates
from melgpu.data import windows
from melgpu.errors import InputError
from melgpu.recipe import load_recipe
from tests.helpers.benchmarks import TINY

ZALO = load_recipe([])
NAMES = sorted({name for spec in ZALO.rounds for name in spec.backbones})
FAST = Rates(dict.fromkeys(NAMES, 100.0), audio=1e9, pictures=1e9, views=1000.0, shared=False)


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
    assert cost.training_s(ZALO, FAST, 1, None) == pytest.approx(3 * 2 * 100 * epoch_s)
    later_s = 56_768 / 100 + 5158 / 5 * 11 / 1000
    max_epochs = 4 * 100 + 40 + 25  # of resnet50 and xception fewer
    assert cost.training_s(ZALO, FAST, 2, None) == pytest.approx(3 * max_epochs * later_s)


def test_prediction_is_one_pass_of_all_networks_and_both_views():
    count = 5158 * 11 + 1733 * 21
    assert cost.prediction_s(ZALO, FAST, 2) == pytest.approx(count * 18 * 2 / 1000)
    assert cost.libraries(ZALO, FAST)[1000] == pytest.approx(1000 * 11 * 36 / 1000)
    slow_files = Rates(FAST.train, audio=10.0, pictures=1e9, views=1000.0, shared=False)
    assert cost.libraries(ZALO, slow_files)[1000] == pytest.approx(1000 * 11 / 10)
    slow_pictures = Rates(FAST.train, audio=10.0, pictures=5.0, views=1000.0, shared=False)
    assert cost.libraries(ZALO, slow_pictures)[1000] == pytest.approx(1000 * 11 * (1 / 5 + 36 / 1000))
    on_cpu = Rates(FAST.train, audio=10.0, pictures=5.0, views=1000.0, shared=True)
    assert cost.libraries(ZALO, on_cpu)[1000] == pytest.approx(1000 * 11 * (1 / 10 + 1 / 5 + 36 / 1000))


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
    assert cost.suite_rates(result(), ZALO, "x") == FAST
    rows = [row for row in result()["rows"] if row["way"] not in ("resnet50, from files", "files to batches")]
    with pytest.raises(InputError, match="no rates of resnet50, loader;"):
        cost.suite_rates(result(rows=rows), ZALO, "x")
    with pytest.raises(InputError, match=r"no rates of resnet50, loader \(a preview, --quick\);"):
        cost.suite_rates(result(rows=rows, quick=True), ZALO, "x")
    with pytest.raises(InputError, match=r"another recipe \(mel differs"):
        cost.suite_rates(result(), load_recipe([], ["mel.image_size=80"]), "x")


def test_the_cost_from_a_saved_result(tmp_path, capsys):
    path = tmp_path / "suite.json"
    path.write_text(json.dumps(result()))
    assert __main__.main(["cost", "--from", str(path), "--out", str(tmp_path / "cost.json")]) == 0
    output = capsys.readouterr().out
    estimate = json.loads(output.splitlines()[-1])
    assert estimate == json.loads((tmp_path / "cost.json").read_text())
    assert estimate["whole_s"][0] == pytest.approx(sum(typical_s for _, typical_s, _ in estimate["steps"]))
    assert "GPU-hours" in output
    assert "5,158 training tracks" in output
    assert [int(tracks) for tracks in estimate["libraries_s"]] == [1_000, 100_000, 10_000_000]


@pytest.mark.parametrize("content", ["", "[]", '{"benchmark": "decode"}', '{"benchmark": "suite", "schema": 0}'])
def test_other_files_are_rejected(tmp_path, content):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(InputError, match="not a result of"):
        cost.read_suite(tmp_path / "x.json")


def test_a_saved_result_excludes_a_new_measurement(tmp_path):
    (tmp_path / "x.json").write_text(json.dumps(result()))
    with pytest.raises(InputError, match="beside --from"):
        __main__.main(["cost", "--quick", "--from", str(tmp_path / "x.json")])


def test_missing_rates_are_measured(monkeypatch, short_music, capsys):
    monkeypatch.setattr(cost.suite, "run", lambda bench, names: result(rows=[], stages=names))
    with pytest.raises(InputError, match="no rates of"):
        __main__.main(["cost", "--quick", "--music", str(short_music), "--set", TINY, "--device", "cpu"])
