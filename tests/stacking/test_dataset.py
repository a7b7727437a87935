from dataclasses import replace

import numpy as np
import pytest

from melgpu.errors import InputError
from melgpu.recipe import apply_overrides
from melgpu.runs import predictions
from melgpu.runs.run import Run, class_indices
from melgpu.stacking import dataset, evaluation
from melgpu.stacking.stack import Stack, fit_subfolds
from tests.helpers.runs import label, predict, stack_round


@pytest.fixture
def second(made, monkeypatch):
    """A run in its second round (folds 1 and 2, two networks), with the pseudo label y.wav: b."""
    stack_round(made, 1, [label("y.wav", "b")])
    predict(made, 2, monkeypatch)
    return made


def test_tracks_in_another_order_are_put_in_theirs(second):
    expected = dataset.load_base_predictions(second, 2)
    path = second.predictions_path(second.jobs(2)[1])
    said = predictions.load(path)
    tracks = zip(said.ids, second.manifest.splits, strict=True)
    predictions.save(said.in_order(list(tracks)[::-1]), path)
    assert predictions.load(path).ids == said.ids[::-1]
    votes = dataset.load_base_predictions(second, 2)
    np.testing.assert_array_equal(votes.unusable, expected.unusable)
    for fold, matrix in votes.matrices.items():
        np.testing.assert_array_equal(matrix, expected.matrices[fold])


def with_protocol(run: Run, protocol: str) -> Run:
    other = replace(run, recipe=apply_overrides(run.recipe, [f"stacking.protocol={protocol}"]))
    stack_round(other, 1, [label("y.wav", "b")])
    return other


def test_original_cases_are_folds_with_their_training_side(second):
    votes = dataset.load_base_predictions(second, 2)
    labels = class_indices(second.round_manifest(2)[0], second.class_names)
    for case, fold in zip(dataset.stacking_sets(second, 2, votes), (1, 2), strict=True):
        valid = [row for row in second.fold_rows(fold)[1] if row != 5]
        train = [*(row for row in second.fold_rows(fold)[0] if row != 5), 13]  # with the pseudo label
        assert (case.folds, case.rows.tolist(), case.row_folds.tolist()) == ((fold,), valid, [fold] * len(valid))
        np.testing.assert_array_equal(case.validation[0], votes.matrices[fold][valid])
        np.testing.assert_array_equal(case.validation[1], labels[valid])
        np.testing.assert_array_equal(case.train[0], votes.matrices[fold][train])
        np.testing.assert_array_equal(case.train[1], labels[train])


def test_out_of_fold_is_one_case_of_each_track_by_those_that_did_not_train_on_it(second, monkeypatch):
    made = with_protocol(second, "oof")
    predict(made, 2, monkeypatch)
    votes = dataset.load_base_predictions(made, 2)
    (case,) = dataset.stacking_sets(made, 2, votes)
    assert (case.folds, case.train) == ((1, 2), None)
    assert sorted(case.rows) == [row for row in range(12) if made.manifest.folds[row] in (1, 2) and row != 5]
    for row, fold, own in zip(case.rows, case.row_folds, case.validation[0], strict=True):
        assert made.manifest.folds[row] == fold
        np.testing.assert_array_equal(own, votes.matrices[fold][row])


@pytest.mark.parametrize("protocol", ["original", "oof"])
def test_judgements_are_where_they_belong(second, monkeypatch, protocol):
    made = with_protocol(second, protocol)
    predict(made, 2, monkeypatch)
    votes = dataset.load_base_predictions(made, 2)
    stacks = []
    for case in dataset.stacking_sets(made, 2, votes):
        parts = fit_subfolds(case.train, case.validation, case.subfolds, ["lightgbm"], made.recipe.stacking)
        stacks.append((case, Stack(2, 2, {"lightgbm": 1.0}, list(parts))))
    judged = evaluation.evaluate_round(made, 2, votes, stacks)
    assert judged.predictors == ("inception_v3", "resnet50", "mean", "lightgbm", "blend")
    assert judged.splits.count("public") == 2
    assert judged.ids[-2:] == ("x.wav", "y.wav")
    assert judged.labels[-2:].tolist() == [-1, -1]  # a pseudo label is no truth
    assert judged.provenance["final_predictor"] == "blend"
    np.testing.assert_array_equal(judged.final_probs, judged.probs[-1])
    assert judged.provenance["fitted_weights"] == {"lightgbm": pytest.approx(1)}
    for k, name in enumerate(("inception_v3", "resnet50")):
        own = judged.probs[judged.predictors.index(name)]
        for row, (track, fold) in enumerate(zip(judged.ids, judged.folds, strict=True)):
            at = made.manifest.ids.index(track)
            folds = [fold] if fold >= 0 else [1, 2]
            np.testing.assert_allclose(own[row], np.mean([votes.matrices[f][at, k] for f in folds], axis=0))
    case, stack = stacks[0]
    np.testing.assert_array_equal(
        judged.probs[3][: len(case.rows)], stack.out_of_fold(case.validation[0], case.subfolds)["lightgbm"]
    )
    answers = [s.predict(votes.matrices[f][[12, 13]])["lightgbm"] for c, s in stacks for f in c.folds]
    np.testing.assert_allclose(judged.probs[3][-2:], np.mean(answers, axis=0))


def test_votes_are_of_every_network_and_fold(second):
    votes = dataset.load_base_predictions(second, 2)
    found = votes.votes(np.array([12, 13, 0]))
    expected = [votes.matrices[fold][[12, 13, 0], k].argmax(1) for fold in (1, 2) for k in (0, 1)]
    np.testing.assert_array_equal(found, expected)


def test_what_was_not_heard_is_not_learnt_from_and_not_known(second):
    votes = dataset.load_base_predictions(second, 2)
    assert np.flatnonzero(votes.unusable).tolist() == [5]
    assert all(5 not in case.rows for case in dataset.stacking_sets(second, 2, votes))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"pseudo_digest": "none"}, "resnet50, fold 1: made with pseudo_digest none, not"),
        ({"recipe_digest": "0"}, "inception_v3, fold 1: made with recipe_digest 0, not"),
        ({"round": 1}, "made with round 1, not 2"),
    ],
)
def test_mixtures_are_refused(second, monkeypatch, changes, reason):
    predict(second, 2, monkeypatch, **changes)
    with pytest.raises(InputError, match=reason):
        dataset.load_base_predictions(second, 2)


def test_missing_predictions_are_named(second):
    second.predictions_path(second.jobs(2)[1]).unlink()
    with pytest.raises(InputError, match="round 2: no predictions of resnet50-fold1 as it is now"):
        dataset.load_base_predictions(second, 2)
