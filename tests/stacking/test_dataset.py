from dataclasses import replace

import numpy as np
import pytest

from melgpu.errors import InputError
from melgpu.recipe import apply_overrides
from melgpu.runs.formats import predictions
from melgpu.runs.run import Run
from melgpu.stacking import dataset, evaluation
from melgpu.stacking.stack import Stack, fit_subfolds
from tests.helpers.runs import mark_stacked, pseudo_label, write_predictions


@pytest.fixture
def second(made, monkeypatch):
    """A run in its second round (folds 1 and 2, two networks), with the pseudo label y.wav: b."""
    mark_stacked(made, 1, [pseudo_label("y.wav", "b")])
    write_predictions(made, 2, monkeypatch)
    return made


def test_predictions_in_another_order_are_aligned_with_the_manifest(second):
    expected = dataset.load_base_predictions(second, 2)
    path = second.paths.predictions(second.jobs(2)[1])
    saved = predictions.load(path)
    tracks = zip(saved.ids, saved.splits, strict=True)
    predictions.save(saved.reordered_to(list(tracks)[::-1]), path)
    assert predictions.load(path).ids == saved.ids[::-1]
    base = dataset.load_base_predictions(second, 2)
    np.testing.assert_array_equal(base.unusable, expected.unusable)
    for fold, matrix in base.matrices.items():
        np.testing.assert_array_equal(matrix, expected.matrices[fold])


def with_protocol(run: Run, protocol: str) -> Run:
    changed = replace(run, recipe=apply_overrides(run.recipe, [f"stacking.protocol={protocol}"]))
    mark_stacked(changed, 1, [pseudo_label("y.wav", "b")])
    return changed


def test_original_stacking_sets_are_folds_with_their_training_tracks(second):
    base = dataset.load_base_predictions(second, 2)
    labels = second.round_tracks(2).manifest.class_indices(second.class_names)
    for stacking_set, fold in zip(dataset.stacking_sets(second, 2, base), (1, 2), strict=True):
        valid = [row for row in second.manifest.fold_rows(fold)[1] if row != 5]
        train = [*(row for row in second.manifest.fold_rows(fold)[0] if row != 5), 13]  # with the pseudo label
        assert (stacking_set.folds, stacking_set.rows.tolist(), stacking_set.row_folds.tolist()) == (
            (fold,),
            valid,
            [fold] * len(valid),
        )
        np.testing.assert_array_equal(stacking_set.validation[0], base.matrices[fold][valid])
        np.testing.assert_array_equal(stacking_set.validation[1], labels[valid])
        np.testing.assert_array_equal(stacking_set.train[0], base.matrices[fold][train])
        np.testing.assert_array_equal(stacking_set.train[1], labels[train])


def test_stackers_are_not_pretrained_on_soft_pseudo_labels(made, monkeypatch):
    soft = replace(made, recipe=apply_overrides(made.recipe, ["pseudo.kind=soft"]))
    mark_stacked(soft, 1, [pseudo_label("y.wav", "b", (0.25, 0.75))])
    write_predictions(soft, 2, monkeypatch)
    base = dataset.load_base_predictions(soft, 2)
    for stacking_set, fold in zip(dataset.stacking_sets(soft, 2, base), (1, 2), strict=True):
        train = [row for row in soft.manifest.fold_rows(fold)[0] if row != 5]
        np.testing.assert_array_equal(stacking_set.train[0], base.matrices[fold][train])


def test_oof_is_one_stacking_set_with_each_track_predicted_out_of_fold(second, monkeypatch):
    run = with_protocol(second, "oof")
    write_predictions(run, 2, monkeypatch)
    base = dataset.load_base_predictions(run, 2)
    (stacking_set,) = dataset.stacking_sets(run, 2, base)
    assert (stacking_set.folds, stacking_set.train) == ((1, 2), None)
    assert sorted(stacking_set.rows) == [row for row in range(12) if run.manifest.folds[row] in (1, 2) and row != 5]
    for row, fold, probs in zip(stacking_set.rows, stacking_set.row_folds, stacking_set.validation[0], strict=True):
        assert run.manifest.folds[row] == fold
        np.testing.assert_array_equal(probs, base.matrices[fold][row])


def fit_lightgbm(run: Run, base: dataset.BasePredictions) -> list[tuple[dataset.StackingSet, Stack]]:
    """The stacking sets of round 2, each with a stack of LightGBM alone."""
    stacks = []
    for stacking_set in dataset.stacking_sets(run, 2, base):
        train, valid, subfolds = stacking_set.train, stacking_set.validation, stacking_set.subfolds
        fitted = fit_subfolds(train, valid, subfolds, ["lightgbm"], run.recipe.stacking)
        stacks.append((stacking_set, Stack(2, 2, {"lightgbm": 1.0}, list(fitted))))
    return stacks


@pytest.mark.parametrize("protocol", ["original", "oof"])
def test_an_evaluation_has_the_predictions_of_each_predictor(second, monkeypatch, protocol):
    run = with_protocol(second, protocol)
    write_predictions(run, 2, monkeypatch)
    base = dataset.load_base_predictions(run, 2)
    stacks = fit_lightgbm(run, base)
    round_evaluation = evaluation.evaluate_round(run, 2, base, stacks)
    assert round_evaluation.predictors == ("inception_v3", "resnet50", "mean", "lightgbm", "blend")
    assert round_evaluation.splits.count("public") == 2
    assert round_evaluation.ids[-2:] == ("x.wav", "y.wav")
    assert round_evaluation.labels[-2:].tolist() == [-1, -1]  # pseudo labels are no ground truth
    assert round_evaluation.metadata.final_predictor == "blend"
    np.testing.assert_array_equal(round_evaluation.final_probs, round_evaluation.probs[-1])
    assert round_evaluation.metadata.fitted_weights == {"lightgbm": pytest.approx(1)}
    for k, name in enumerate(("inception_v3", "resnet50")):
        probs = round_evaluation.probs[round_evaluation.predictors.index(name)]
        for row, (track_id, fold) in enumerate(zip(round_evaluation.ids, round_evaluation.folds, strict=True)):
            manifest_row = run.manifest.ids.index(track_id)
            folds = [fold] if fold >= 0 else [1, 2]
            expected = np.mean([base.matrices[f][manifest_row, k] for f in folds], axis=0)
            np.testing.assert_allclose(probs[row], expected)
    stacking_set, stack = stacks[0]
    np.testing.assert_array_equal(
        round_evaluation.probs[3][: len(stacking_set.rows)],
        stack.out_of_fold(stacking_set.validation[0], stacking_set.subfolds)["lightgbm"],
    )
    test_probs = [
        stack.predict(base.matrices[fold][[12, 13]])["lightgbm"]
        for stacking_set, stack in stacks
        for fold in stacking_set.folds
    ]
    np.testing.assert_allclose(round_evaluation.probs[3][-2:], np.mean(test_probs, axis=0))


def test_every_predictor_gives_unusable_test_tracks_the_class_prior(second):
    base = dataset.load_base_predictions(second, 2)
    base.unusable[13] = True
    round_evaluation = evaluation.evaluate_round(second, 2, base, fit_lightgbm(second, base))
    assert round_evaluation.ids[-1] == "y.wav"
    np.testing.assert_array_equal(round_evaluation.probs[:, -1], np.tile(second.manifest.prior, (5, 1)))
    assert not np.isclose(round_evaluation.probs[:2, -2], second.manifest.prior).all()


def test_votes_are_the_predicted_classes_of_every_network_and_fold(second):
    base = dataset.load_base_predictions(second, 2)
    votes = base.votes(np.array([12, 13, 0]))
    expected = [base.matrices[fold][[12, 13, 0], k].argmax(1) for fold in (1, 2) for k in (0, 1)]
    np.testing.assert_array_equal(votes, expected)


def test_unusable_tracks_are_in_no_stacking_set(second):
    base = dataset.load_base_predictions(second, 2)
    assert np.flatnonzero(base.unusable).tolist() == [5]
    assert all(5 not in stacking_set.rows for stacking_set in dataset.stacking_sets(second, 2, base))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"pseudo_digest": "none"}, "resnet50, fold 1: made with pseudo labels none, not"),
        ({"recipe_digest": "0"}, "inception_v3, fold 1: made with recipe 0, not"),
        ({"round": 1}, "made with round 1, not 2"),
    ],
)
def test_predictions_of_another_provenance_are_rejected(second, monkeypatch, changes, reason):
    write_predictions(second, 2, monkeypatch, **changes)
    with pytest.raises(InputError, match=reason):
        dataset.load_base_predictions(second, 2)


def test_missing_predictions_are_named(second):
    second.paths.predictions(second.jobs(2)[1]).unlink()
    with pytest.raises(InputError, match="round 2: no predictions of resnet50-fold1 by its current checkpoint"):
        dataset.load_base_predictions(second, 2)
