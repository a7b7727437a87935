"""Rounds are stacked, with synthetic predictions."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from melgpu.commands import stack
from melgpu.data import manifest_builder
from melgpu.data.lists.sources import SourceList
from melgpu.data.manifest import EVALUATED_SPLITS, TEST_SPLITS, Split
from melgpu.errors import InputError
from melgpu.recipe import apply_overrides
from melgpu.runs import run, sampling
from melgpu.runs.folder import create_run
from melgpu.stacking import evaluation
from melgpu.stacking.round import stack_round
from tests.helpers.runs import write_predictions

CPU = torch.device("cpu")


def source_list(folder: Path, names: list[str], labels: list[str]) -> SourceList:
    blank = [""] * len(names)
    return SourceList(names, [str(folder / name) for name in names], labels, blank, blank)


@pytest.fixture
def same_names(tmp_path, small_recipe, monkeypatch) -> run.Run:
    """A run in its first round whose test sets have different files of the same names."""
    names = [f"{i}.wav" for i in range(4)]
    train = source_list(tmp_path / "train", [f"t{i}.wav" for i in range(18)], ["a", "b"] * 9)
    tests = {split: source_list(tmp_path / split, names, [""] * 4) for split in TEST_SPLITS}
    for sources in (train, *tests.values()):
        for path in map(Path, sources.paths):
            path.parent.mkdir(exist_ok=True)
            path.touch()
    new_run = create_run(
        tmp_path / "run", small_recipe, manifest_builder.build({Split.TRAIN: train, **tests}, 3, 8), CPU
    )
    write_predictions(new_run, 1, monkeypatch)
    return new_run


def test_test_sets_may_share_names(same_names, monkeypatch):
    stack_round(same_names, 1)
    write_predictions(same_names, 2, monkeypatch)
    stack_round(same_names, 2)
    second = evaluation.load(same_names.paths.evaluation(2))
    for split, path in same_names.submission_paths.items():
        rows = np.flatnonzero(np.array(second.splits) == split)
        expected = [["Id", "Genre"], *([second.ids[row], "ab"[second.final_probs[row].argmax()]] for row in rows)]
        assert list(csv.reader(path.open())) == expected
    first = evaluation.load(same_names.paths.evaluation(1))
    public = {first.ids[row]: first.final_probs[row].max() for row, s in enumerate(first.splits) if s is Split.PUBLIC}
    selected = list(csv.DictReader(same_names.paths.pseudo_labels(1).open()))
    assert selected
    for row in selected:
        assert float(row["confidence"]) == pytest.approx(public[row["id"]], abs=1e-6)


def test_a_submission_has_the_ids_of_the_test_list(same_names, monkeypatch):
    tracks = same_names.manifest
    listed = tuple("" if split is Split.TRAIN else f"{split}-{row}" for row, split in enumerate(tracks.splits))
    with_ids = replace(same_names, manifest=replace(tracks, submission_ids=listed))
    stack_round(with_ids, 1)
    write_predictions(with_ids, 2, monkeypatch)
    stack_round(with_ids, 2)
    for split, path in with_ids.submission_paths.items():
        rows = tracks.rows(split).tolist()
        assert [row["Id"] for row in csv.DictReader(path.open())] == [f"{split}-{row}" for row in rows]


def test_an_error_in_the_timings_or_the_report_loses_no_result(same_names, capsys):
    same_names.paths.timings.write_text("x")
    stack_round(same_names, 1)
    assert same_names.is_stacked(1)
    log = same_names.paths.training_log(same_names.jobs(1)[0])
    log.parent.mkdir(parents=True)
    log.write_text("no log")
    stack.write_report(same_names)
    assert "No report" in capsys.readouterr().out
    log.unlink()
    stack.write_report(same_names)
    assert same_names.paths.report.exists()


def test_a_stacked_round_is_shown_again_until_the_next_one_is_begun(same_names, capsys):
    stack.finish_round(same_names)
    first = capsys.readouterr().out
    scores = same_names.paths.scores(1).read_bytes()
    same_names.paths.report.unlink()  # as after a kill between the scores and the report
    stack.finish_round(same_names)
    assert capsys.readouterr().out.splitlines()[-2:] == first.splitlines()[-2:]
    assert "Round 1 is done. Next: python train.py" in first
    assert same_names.paths.report.exists()
    assert same_names.paths.scores(1).read_bytes() == scores
    same_names.paths.job_folder(same_names.jobs(2)[0]).mkdir(parents=True)
    with pytest.raises(InputError, match="round 2: no predictions"):
        stack.finish_round(same_names)


def test_the_report_shows_the_last_round_where_the_current_cannot_be_stacked(same_names):
    stack_round(same_names, 1)
    with pytest.raises(InputError, match="round 2: no predictions"):
        stack.stack_current_round(same_names, 2)
    assert same_names.paths.report.exists()


@pytest.mark.parametrize("backbones", ["'resnet50'", "'inception_v3', 'resnet50'"])
def test_a_round_without_stackers_is_the_mean_of_its_networks(tmp_path, small_recipe, monkeypatch, backbones):
    rounds = f"rounds=[{{backbones=[{backbones}], folds=[0, 1], blend={{}}}}]"
    names = [f"{i}.wav" for i in range(6)]
    train = source_list(tmp_path, names, ["a", "b"] * 3)
    public = source_list(tmp_path, ["x.wav"], ["a"])
    tracks = manifest_builder.build(
        {Split.TRAIN: train, Split.PUBLIC: public}, 3, 8
    )  # two validation tracks in each fold
    plain = create_run(tmp_path / "run", apply_overrides(small_recipe, [rounds]), tracks, CPU)
    write_predictions(plain, 1, monkeypatch, unusable_row=None)
    stack.finish_round(plain)
    evaluated = evaluation.load(plain.paths.evaluation(1))
    num_networks = len(plain.round_spec(1).backbones)
    assert evaluated.predictors == (*plain.round_spec(1).backbones, "mean")
    np.testing.assert_allclose(evaluated.final_probs, evaluated.probs[:num_networks].mean(axis=0))
    assert [len(evaluated.rows(split)) for split in EVALUATED_SPLITS] == [4, 1, 0]
    assert list(plain.paths.stack_folder(1).glob("*.safetensors")) == []
    assert plain.is_stacked(1)
    assert plain.paths.report.exists()
    assert plain.submission_paths[Split.PUBLIC].read_text().startswith("Id,Genre\n")


def test_three_rounds_pass_soft_pseudo_labels_on(same_names, monkeypatch, tmp_path, capsys):
    """Every round trains on the answers of the one before; private tracks and validation tracks never get a label."""
    rounds = ", ".join(f"{{backbones=['resnet50'], folds=[{fold}], blend={{}}}}" for fold in range(3))
    overrides = ["pseudo.kind=soft", "pseudo.threshold=0.0", "pseudo.power=3.0", f"rounds=[{rounds}]"]
    recipe = apply_overrides(same_names.recipe, overrides)
    soft = create_run(tmp_path / "soft", recipe, same_names.manifest, CPU)
    public = soft.manifest.rows(Split.PUBLIC)
    for round_number in (1, 2, 3):
        assert soft.current_round == round_number
        (job,) = soft.jobs(round_number)
        train, valid = soft.round_tracks(round_number).fold_rows(job.fold)
        write_predictions(soft, round_number, monkeypatch, unusable_row=None)
        stack.finish_round(soft)
        targets = sampling.training_targets(soft, job)
        assert not set(valid.tolist()) & set(public.tolist())
        assert set(train.tolist()) - set(np.flatnonzero(soft.manifest.folds >= 0).tolist()) == (
            set() if round_number == 1 else set(public.tolist())
        )
        if round_number == 1:
            assert targets.distributions is None
            continue
        before = evaluation.load(soft.paths.evaluation(round_number - 1))
        probs = before.final_probs[np.array(before.splits) == Split.PUBLIC]
        expected = probs**3 / (probs**3).sum(1, keepdims=True) * probs.max(1, keepdims=True)
        np.testing.assert_allclose(targets.distributions[public], expected, atol=1e-5)
        assert (targets.distributions[soft.manifest.rows(Split.PRIVATE)] == 0).all()
    assert not soft.paths.pseudo_labels(3).exists()
    assert soft.submission_paths[Split.PUBLIC].exists()
    output = " ".join(capsys.readouterr().out.split())
    assert "Round 2: 4 of 4 public test tracks get a soft pseudo label, which count as" in output
    report = soft.paths.report.read_text()
    assert "labelled with the predicted distribution to the power 3.0" in report
    assert report.count("public test tracks, which count as") == 2
