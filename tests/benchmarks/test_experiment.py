"""A comparison of recipes: its cells, their resuming after a kill, and its statistics against independent ones."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest

from benchmarks import __main__
from benchmarks.experiments import cells, comparison, spec, statistics, tables
from benchmarks.experiments.cells import CellMetadata, CellResult
from melgpu import files, metrics
from melgpu.data.manifest import Split
from melgpu.errors import InputError
from melgpu.models.metadata import Environment
from tests.helpers import ROOT, write_audio, write_labelled_tracks, write_list

ENVIRONMENT = Environment(python="3", platform="x", device="cpu", device_name="a CPU", packages={}, git_commit="abc")
VARIANTS = """
folds = [1, 0]
seeds = [0, 5]
pairs = [["b", "a"]]
[base]
recipes = ["quick"]
backbone.pretrained = true
optim.lr = 3e-3
[variants.a]
recipes = ["scratch"]
[variants.b]
optim.lr = 1e-3
loader.workers = 1
"""


@pytest.fixture
def variants(tmp_path):
    path = tmp_path / "variants.toml"
    path.write_text(VARIANTS)
    return path


def made_cells(path, *overrides) -> list[spec.Cell]:
    return spec.make_cells(spec.read(path), path.parent / "settings", list(overrides), on_cpu=True)


def result_of(variant: str, fold: int, seed: int, right: dict[str, bool], settings=None) -> CellResult:
    """A cell of two classes, that is right on some tracks: `v0` is a validation track of fold 0, `t` a test track."""
    splits = {"v": Split.VALID, "t": Split.PUBLIC, "p": Split.PRIVATE}
    correct = np.array(list(right.values()))
    metadata = CellMetadata(
        variant=variant,
        fold=fold,
        seed=seed,
        settings=settings or {},
        best_epoch=3,
        seconds=90.0,
        resumed=False,
        date="today",
        environment=ENVIRONMENT,
    )
    return CellResult(
        ids=tuple(right),
        splits=tuple(splits[name[0]] for name in right),
        labels=("x",) * len(right),
        probs=np.where(correct[:, None], [0.6, 0.4], [0.1, 0.9]),
        window_accuracy=np.where(correct, 0.75, 0.25),
        class_names=("x", "y"),
        metadata=metadata,
    )


def naive_means(values: np.ndarray, resample_trainings: bool, count: int = 4000) -> np.ndarray:
    """Resamples by drawing rows and columns with replacement."""
    rng = np.random.default_rng(7)
    num_trainings, num_tracks = values.shape
    means = []
    for _ in range(count):
        rows = rng.integers(num_trainings, size=num_trainings) if resample_trainings else np.arange(num_trainings)
        means.append(np.nanmean(values[np.ix_(rows, rng.integers(num_tracks, size=num_tracks))]))
    return np.array(means)


@pytest.mark.parametrize("resample_trainings", [False, True])
@pytest.mark.parametrize("nested", [False, True])
def test_the_bootstrap_is_that_of_drawn_rows_and_columns(resample_trainings, nested):
    rng = np.random.default_rng(1)
    values = rng.integers(-1, 2, (6, 60)) + rng.normal(0, 0.5, (6, 1))
    if nested:  # each training was evaluated on the tracks of its fold
        values[np.arange(6)[:, None] % 3 != np.arange(60)[None] % 3] = np.nan
    means = statistics.resampled_means(values, resample_trainings)
    naive = naive_means(values, resample_trainings)
    assert means.mean() == pytest.approx(naive.mean(), abs=0.01)
    assert means.std() == pytest.approx(naive.std(), rel=0.06)
    assert np.quantile(means, (0.025, 0.975)) == pytest.approx(np.quantile(naive, (0.025, 0.975)), abs=0.03)


def test_an_estimate_has_the_standard_error_of_the_mean():
    values = np.random.default_rng(2).normal(0.1, 1, (1, 400))
    estimate = statistics.estimate(values)
    error = values.std() / 20
    assert estimate.mean == pytest.approx(values.mean())
    assert (estimate.low, estimate.high) == pytest.approx(
        (values.mean() - 1.96 * error, values.mean() + 1.96 * error), abs=0.005
    )
    assert estimate.detectable == pytest.approx(2.8 * error, rel=0.02)
    assert (estimate.low_all, estimate.num_tracks) == (None, 400)


def test_a_difference_that_could_have_been_seen_is_seen_in_four_of_five_draws(monkeypatch):
    monkeypatch.setattr(statistics, "NUM_RESAMPLES", 400)
    rng = np.random.default_rng(3)
    spread = 0.6
    true_difference = statistics.DETECTABLE_ERRORS * spread / 10  # of 100 tracks
    draws = [statistics.estimate(rng.normal(true_difference, spread, (1, 100))) for _ in range(300)]
    assert np.mean([draw.low > 0 for draw in draws]) == pytest.approx(0.8, abs=0.07)
    assert np.mean([draw.detectable for draw in draws]) == pytest.approx(true_difference, rel=0.05)


def test_where_no_track_differs_the_interval_is_not_a_point():
    estimate = statistics.estimate(np.zeros((3, 27)))
    assert estimate.mean == 0
    assert (estimate.low, estimate.high) == pytest.approx(metrics.gain_interval(np.zeros(27)))
    assert estimate.detectable == estimate.high - estimate.low > 0.2


@pytest.mark.parametrize("path", sorted(ROOT.glob("benchmarks/experiments/*.toml")), ids=lambda path: path.stem)
def test_the_experiments_that_come_with_melgpu_have_valid_recipes(path, tmp_path):
    experiment = spec.read(path)
    one_training = experiment.model_copy(update={"folds": (0,), "seeds": (0,)})
    names = [cell.name for cell in spec.make_cells(one_training, tmp_path, [], on_cpu=True)]
    assert len(set(names)) == len(experiment.variants) + 1


def test_every_variant_comes_on_one_fold_before_the_next_fold(variants):
    order = [(cell.seed, cell.fold, cell.variant) for cell in made_cells(variants)]
    assert order == [(seed, fold, name) for seed in (0, 5) for fold in (1, 0) for name in ("base", "a", "b")]


def test_a_variant_changes_the_base_and_a_cell_its_seed_and_fold(variants):
    base, scratch, slow, *_, last = made_cells(variants)
    assert [cell.recipe.optim.lr for cell in (base, scratch, slow)] == [3e-3, 1e-3, 1e-3]
    assert scratch.recipe.backbone.pretrained is False
    assert (last.recipe.seed, last.recipe.rounds[0].folds, last.recipe.is_one_step) == (5, (0,), True)
    assert {"backbones": ("tf_efficientnet_lite0",), "blend": {}}.items() <= dict(base.recipe.rounds[0]).items()


def test_a_cell_is_named_by_settings_that_count(variants):
    _, _, slow, *_ = made_cells(variants)
    assert len({cell.name for cell in made_cells(variants)}) == 12
    elsewhere = made_cells(variants, "loader.workers=3", "machine.save_minutes=1", "backbone.weights_dir='/w'")
    assert [cell.name for cell in elsewhere] == [cell.name for cell in made_cells(variants)]
    variants.write_text(VARIANTS.replace("variants.b", "variants.renamed").replace('"b", "a"', '"renamed", "a"'))
    assert made_cells(variants)[2].name == slow.name


def test_a_cell_without_the_overrides_of_its_network_is_another_one(variants):
    resnet = 'rounds = [{ backbones = ["resnet50"], folds = [0], blend = {} }]'
    variants.write_text(
        f"""
        folds = [0]
        seeds = [0]
        [base]
        {resnet}
        [variants.none]
        optim_overrides = {{}}
        [variants.of-another]
        optim_overrides.xception.lr = 0.1
        [variants.own]
        optim_overrides.resnet50.lr = 0.1
        """
    )
    base, none, of_another, own = [cell.name for cell in made_cells(variants)]
    assert base == of_another
    assert len({base, none, own}) == 3


def test_a_cell_stays_when_recipes_gain_settings(tmp_path, variants, monkeypatch):
    base, *_ = made_cells(variants)
    now = spec.settings(base.recipe)
    before = {key: value for key, value in now.items() if key != "augment.mixup_alpha"} | {"optim.gone": "1"}
    cells.save(result_of("base", 1, 0, {"t0": True}, before), cells.cell_path(tmp_path, base))
    assert cells.load_finished(tmp_path, base).correct.tolist() == [True]
    name = base.name
    default = spec._default_settings() | {"new.setting": "1"}
    monkeypatch.setattr(spec, "_default_settings", lambda: default)
    monkeypatch.setattr(spec, "settings", lambda recipe: now | {"new.setting": "1"})
    assert base.name == name


def test_a_cell_of_other_settings_is_refused(tmp_path, variants):
    base, *_ = made_cells(variants)
    changed = spec.settings(base.recipe) | {"optim.batch_size": "7"}
    cells.save(result_of("base", 1, 0, {"t0": True}, changed), cells.cell_path(tmp_path, base))
    with pytest.raises(InputError, match=r"optim\.batch_size: 7, now 32\); delete it"):
        cells.load_finished(tmp_path, base)
    cells.cell_path(tmp_path, base).write_bytes(b"PK")
    with pytest.raises(InputError, match="not a cell"):
        cells.load_finished(tmp_path, base)


@pytest.mark.parametrize(
    ("before", "after", "problem"),
    [
        ("[variants.b]", "[variants.base]", "cannot be named base"),
        ('"b", "a"', '"b", "c"', "no variant c"),
        ("seeds = [0, 5]", "seeds = [5, 5]", "duplicates"),
        ("[base]", "[other]", "base"),
        ("optim.lr = 1e-3", "optim.lrs = 1e-3", "optim.lrs: there is no such setting; did you mean optim.lr"),
        ('recipes = ["scratch"]', "recipes = 3", "a list of names"),
        ("pretrained = true", 'pretrained = "auto"', 'b: backbone.pretrained = "auto" may differ between cells'),
        ("optim.lr = 1e-3", 'backbone.weights_dir = "w"', "b: backbone.weights_dir must be the same in all cells"),
        ("optim.lr = 3e-3", 'backbone.weights_dir = "w"', "base: backbone.weights_dir must be the same"),
        ("folds = [1, 0]", "folds = [1, 9]", "folds: there is no fold 9 of 5"),
    ],
)
def test_wrong_variants_are_refused(variants, before, after, problem):
    variants.write_text(VARIANTS.replace(before, after))
    with pytest.raises(InputError, match=problem):
        made_cells(variants)


def test_only_trainings_that_both_variants_have_are_compared():
    base = {(0, 0): result_of("base", 0, 0, {"v0": True, "t0": True, "t1": False, "p0": False})}
    base |= {(0, 1): result_of("base", 1, 0, {"v1": False, "t0": True, "t1": False, "p0": True})}
    other = {(0, 1): result_of("b", 1, 0, {"v1": True, "t0": True, "t1": True, "p0": False})}
    accuracy, of_other, difference = comparison.rows({"base": base, "b": other, "a": {}}, [("b", "base"), ("b", "a")])
    assert (accuracy.num_cells, of_other.num_cells, difference.num_cells) == (2, 1, 1)
    assert accuracy.estimates["test", "network"].mean == pytest.approx(3 / 6)
    assert accuracy.estimates["validation", "network"].mean == pytest.approx(1 / 2)
    assert accuracy.estimates["test", "windows"].mean == pytest.approx(0.5)
    # Both trainings: t0 0.6, t1 0.1, p0 (0.1 + 0.6) / 2
    assert accuracy.estimates["test", "ensemble"].mean == pytest.approx(1 / 3)
    assert (difference.variant, difference.against) == ("b", "base")
    assert difference.estimates["test", "network"].mean == pytest.approx((0 + 1 - 1) / 3)
    assert difference.estimates["validation", "network"].mean == pytest.approx(1)


def test_other_folds_are_compared_on_the_validation_tracks_that_both_have():
    base = {(0, 0): result_of("base", 0, 0, {"v0": True, "v1": True, "t0": False})}
    other = {(0, 0): result_of("b", 0, 0, {"v1": False, "v2": False, "t0": False})}
    *_, difference = comparison.rows({"base": base, "b": other}, [])
    assert difference.estimates["validation", "network"].mean == -1
    assert difference.estimates["validation", "ensemble"].num_tracks == 1
    assert difference.estimates["test", "network"].mean == 0
    disjoint = {(0, 0): result_of("b", 0, 0, {"v2": True, "t0": True})}
    *_, difference = comparison.rows({"base": base, "b": disjoint}, [])
    assert ("validation", "network") not in difference.estimates
    assert difference.estimates["test", "network"].mean == 1


def test_tracks_with_one_id_in_two_sets_are_two_tracks():
    names = {"v0": True, "t0": True, "p0": False}
    cell = replace(result_of("base", 0, 0, names), ids=("0001",) * 3, labels=("x", "x", "y"))
    (row,) = comparison.rows({"base": {(0, 0): cell}}, [])
    means = {tracks: row.estimates[tracks, "ensemble"].mean for tracks in comparison.SPLITS}
    assert means == {"test": 1, "validation": 1, "public": 1, "private": 1}  # p0 is y, as its network says
    (row,) = comparison.rows({"base": {(0, 0): replace(cell, labels=("x", "x", "x"))}}, [])
    assert row.estimates["test", "network"].num_tracks == 2
    for measure in ("network", "ensemble"):
        means = {tracks: row.estimates[tracks, measure].mean for tracks in comparison.SPLITS}
        assert means == {"test": 0.5, "validation": 1, "public": 1, "private": 0}


def test_cells_of_other_tracks_are_refused():
    first = {(0, 0): result_of("base", 0, 0, {"t0": True, "t1": True})}
    second = {(0, 0): result_of("b", 0, 0, {"t0": True, "t2": True})}
    with pytest.raises(InputError, match="cell b, fold 0, seed 0 is of other tracks than base"):
        comparison.rows({"base": first, "b": second}, [])


@pytest.fixture
def fake_cells(monkeypatch):
    """Cells that are made at once, and fail for the variant `a`; returns the titles of those that were tried."""
    tried = []

    def make(cell, sources, folder, device):
        tried.append(cell.title)
        if cell.variant == "a":
            raise InputError("the training diverged")
        right = {f"v{cell.fold}": True, "t0": cell.variant == "b", "t1": cell.seed == 5}
        result = result_of(cell.variant, cell.fold, cell.seed, right, spec.settings(cell.recipe))
        cells.save(result, cells.cell_path(folder, cell))

    monkeypatch.setattr(cells, "make", make)
    return tried


def run(*arguments) -> int:
    return __main__.main(["experiment", *map(str, arguments), "--device", "cpu"])


def test_missing_cells_are_made_and_a_failure_costs_its_own(tmp_path, variants, fake_cells, capsys):
    folder = tmp_path / "out"
    arguments = [variants, "--labels", "x.csv", "--folder", folder]
    assert run(*arguments, "--only", "base") == 0
    assert fake_cells == [f"base, fold {fold}, seed {seed}" for seed in (0, 5) for fold in (1, 0)]
    fake_cells.clear()
    assert run(*arguments) == 2
    assert len(fake_cells) == 8
    assert "base, fold 1, seed 0" not in fake_cells
    output = capsys.readouterr().out
    assert "error: a, fold 0, seed 5: the training diverged" in output
    assert "8 of 12 cells are finished" in output
    result = json.loads((folder / "results.json").read_text())
    (row,) = (row for row in result["rows"] if row["against"])
    assert row["estimates"].keys() == {
        f"{tracks} {measure}" for tracks in ("test", "validation", "public") for measure in comparison.MEASURES
    }
    assert (row["variant"], row["against"], row["cells"]) == ("b", "base", 4)
    assert row["estimates"]["test network"]["mean"] == 0.5
    assert {"benchmark", "schema", "device", "packages", "git_commit", "date"} <= result.keys()
    assert tables.as_json(tables.from_json(result["rows"])) == result["rows"]
    assert [cell["commit"] for cell in result["cells"]] == ["abc"] * 8
    assert "| b | 4 | 0.750 | +0.500 (+0.000 to +1.000) [+0.000 to +1.000] |" in (folder / "table.md").read_text()


def test_the_table_alone_needs_no_music(tmp_path, variants, fake_cells, capsys):
    assert run(variants, "--folder", tmp_path / "out", "--only") == 0
    assert "0 of 12 cells are finished" in capsys.readouterr().out
    with pytest.raises(InputError, match="--labels is needed"):
        run(variants, "--folder", tmp_path / "out")
    with pytest.raises(InputError, match="no variant c; there are base, a, b"):
        run(variants, "--folder", tmp_path / "out", "--only", "c")


def test_a_cell_that_another_process_makes_is_left_to_it(tmp_path, variants, fake_cells, capsys):
    base, *_ = made_cells(variants)
    lock = tmp_path / "out" / "cells" / f"{base.name}.lock"
    lock.parent.mkdir(parents=True)
    with open(lock, "w") as file:
        files.lock(file.fileno())
        run(variants, "--labels", "x.csv", "--folder", tmp_path / "out", "--only", "base")
    assert "base, fold 1, seed 0: another process makes it" in capsys.readouterr().out
    assert len(fake_cells) == 3


TINY = """
folds = [0]
seeds = [0]
[base]
recipes = ["demo"]
rounds = [
    { backbones = ["test_efficientnet"], folds = [0], blend = {} },
    { backbones = ["test_efficientnet"], folds = [0], blend = {} },
]
pseudo.threshold = 0.0
audio.sample_rate = 11025
audio.track_s = 6.0
windows.window_s = 3.0
windows.hop_s = 3.0
folds.num_folds = 2
mel.image_size = 75
loader.workers = 0
optim.max_epochs = 2
optim.batch_size = 2
optim.precision = "float32"
machine.save_minutes = 0
[variants]
"""


@pytest.mark.slow
def test_a_killed_cell_resumes_to_the_same_probabilities(tmp_path):
    labels = write_labelled_tracks(tmp_path)
    test_tracks = [(write_audio(tmp_path / f"t{i}.wav", 6, 11_025, seed=20 + i).name, "ab"[i % 2]) for i in range(3)]
    test = write_list(tmp_path / "test.csv", [("file", "label"), *test_tracks])
    variants = tmp_path / "tiny.toml"
    variants.write_text(TINY)
    (cell,) = made_cells(variants)
    words = [sys.executable, "-m", "benchmarks", "experiment", variants, "--labels", labels, "--test", test]
    call = [*map(str, words), "--device", "cpu", "--folder"]
    state = cells.run_folder(tmp_path / "killed", cell) / "round2" / "test_efficientnet" / "fold0" / "last.pt"
    with subprocess.Popen([*call, str(tmp_path / "killed")], cwd=ROOT, stdout=subprocess.DEVNULL) as process:
        while not state.exists() and process.poll() is None:
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
    assert cells.load_finished(tmp_path / "killed", cell) is None
    for folder in ("killed", "whole"):
        subprocess.run([*call, str(tmp_path / folder)], cwd=ROOT, check=True, capture_output=True)
    killed = cells.load_finished(tmp_path / "killed", cell)
    whole = cells.load_finished(tmp_path / "whole", cell)
    assert (killed.metadata.resumed, whole.metadata.resumed) == (True, False)
    assert whole.metadata.settings == spec.settings(cell.recipe)
    assert killed.ids == whole.ids
    assert [split.value for split in whole.splits] == ["valid"] * 4 + ["public"] * 3
    np.testing.assert_array_equal(killed.probs, whole.probs)
    assert not cells.run_folder(tmp_path / "killed", cell).exists()
    assert list((tmp_path / "killed" / "pcm_cache").glob("*.f32"))
