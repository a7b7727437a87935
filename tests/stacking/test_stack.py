from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from melgpu.errors import InputError
from melgpu.stacking.stack import (
    Stack,
    assign_subfolds,
    blend_probs,
    compared_predictor,
    final_predictor,
    fit_blend_weights,
    fit_subfolds,
)
from melgpu.stacking.stack_cnn import LabelledMatrix
from tests.helpers.stacking import SPEC, accuracy, labelled_matrix

NAMES = ["cnn", "skip_cnn", "lightgbm", "multinomial"]


def fit_stack(train, valid, names=NAMES, spec=SPEC) -> tuple[Stack, np.ndarray]:
    """A stack of all sub-folds, and the sub-folds of its validation tracks."""
    subfolds = assign_subfolds(valid[1], spec)
    fitted = list(fit_subfolds(train, valid, subfolds, names, spec))
    return Stack(valid[0].shape[1], valid[0].shape[2], dict.fromkeys(names, 1.0), fitted), subfolds


@pytest.fixture(scope="module", params=["original", "oof"])
def train(request):
    return labelled_matrix(120, 1) if request.param == "original" else None


@pytest.fixture(scope="module")
def fitted(train):
    return fit_stack(train, labelled_matrix(80, 2))


@settings(max_examples=6, deadline=None)
@given(st.integers(2, 9), st.integers(2, 15), st.integers(3, 40))
def test_any_number_of_models_classes_and_tracks_fits(num_models, num_classes, count):
    spec = SPEC.model_copy(update={"max_epochs": 1, "num_trees": 2})
    valid = labelled_matrix(count, 0, num_models, num_classes)
    stack, subfolds = fit_stack(labelled_matrix(7, 1, num_models, num_classes), valid, spec=spec)
    matrix = labelled_matrix(5, 2, num_models, num_classes)[0]
    for predictions, rows in ((stack.predict(matrix), 5), (stack.out_of_fold(valid[0], subfolds), count)):
        assert list(predictions) == [*NAMES, "blend", "fitted blend"]
        for probs in predictions.values():
            assert probs.shape == (rows, num_classes)
            np.testing.assert_allclose(probs.sum(1), 1, atol=1e-5)


@given(st.lists(st.integers(0, 5), min_size=3, max_size=60))
def test_subfolds_are_stratified(labels):
    labels = np.array(labels)
    subfolds = assign_subfolds(labels, SPEC)
    counts = np.bincount(subfolds)
    assert len(counts) == min(len(labels), SPEC.num_subfolds)
    assert counts.max() - counts.min() <= 1
    for label in np.unique(labels):
        class_counts = np.bincount(subfolds[labels == label], minlength=len(counts))
        assert class_counts.max() - class_counts.min() <= 1


def test_too_few_tracks_are_rejected():
    with pytest.raises(InputError, match="at least 3 validation tracks, there are 2"):
        assign_subfolds(np.array([0, 1]), SPEC)


@pytest.mark.parametrize("name", NAMES)
def test_a_stacker_is_as_accurate_as_the_mean_and_better_than_the_worst_model(fitted, name):
    matrix, labels = labelled_matrix(400, 3)
    stacked = fitted[0].predict(matrix)[name]
    assert accuracy(stacked, labels) > accuracy(matrix.mean(1), labels) - 0.05
    assert accuracy(stacked, labels) > accuracy(matrix[:, 2], labels) + 0.3


def test_the_prediction_of_a_track_does_not_depend_on_its_label(train, fitted):
    """No label leakage: other labels for one sub-fold leave its predictions the same to the bit."""
    matrix, labels = labelled_matrix(80, 2)
    stack, subfolds = fitted
    expected = stack.out_of_fold(matrix, subfolds)
    for index in (0, SPEC.num_subfolds - 1):
        evaluated = subfolds == index
        changed_labels = np.where(evaluated, (labels + 1) % 4, labels)
        refitted = list(fit_subfolds(train, LabelledMatrix(matrix, changed_labels), subfolds, NAMES, SPEC))[index]
        predictions = Stack(3, 4, stack.weights, [refitted]).predict(matrix[evaluated])
        for name, probs in expected.items():
            np.testing.assert_array_equal(predictions[name], probs[evaluated], err_msg=name)
        everywhere = LabelledMatrix(matrix, (labels + 1) % 4)
        all_changed = list(fit_subfolds(train, everywhere, subfolds, NAMES, SPEC))[index]
        assert (all_changed.predict(matrix)["cnn"] != refitted.predict(matrix)["cnn"]).any()


@pytest.mark.parametrize("protocol", ["original", "oof"])
def test_shuffled_labels_give_chance_level(protocol):
    rng, train, valid = np.random.default_rng(6), labelled_matrix(200, 4), labelled_matrix(200, 5)
    train = train._replace(labels=rng.permutation(train.labels)) if protocol == "original" else None
    valid = valid._replace(labels=rng.permutation(valid.labels))
    stack, subfolds = fit_stack(train, valid)
    for name, probs in stack.out_of_fold(valid[0], subfolds).items():
        assert abs((probs.argmax(1) == valid[1]).mean() - 0.25) < 4 * np.sqrt(0.25 * 0.75 / 200), name


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000))
def test_fitted_weights_maximize_the_likelihood(seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, 60)
    names = NAMES[:3]
    probs = {name: rng.dirichlet(np.ones(4) / 2, 60) for name in names}
    with mock.patch("melgpu.stacking.mixture.EM_STEPS", 3000):  # enough for any of these to converge
        weights = fit_blend_weights(probs, labels)
    assert sum(weights.values()) == pytest.approx(1)

    def loss(values) -> float:
        blended = blend_probs(probs, dict(zip(names, values, strict=True)))
        return -np.log(blended[np.arange(60), labels]).mean()

    best = minimize(
        lambda log_weights: loss(np.exp([*log_weights, 0])), [0, 0], method="Nelder-Mead", options={"xatol": 1e-6}
    )
    assert loss(weights.values()) <= best.fun + 1e-4


def test_an_accurate_stacker_gets_the_weight():
    labels = np.arange(40) % 2
    correct = np.eye(2)[labels] * 0.8 + 0.1
    weights = fit_blend_weights({"good": correct, "bad": 1 - correct}, labels)
    assert weights["good"] > 0.99


def test_trees_without_a_split_are_detected(fitted):
    assert not fitted[0].is_constant
    assert not fit_stack(None, labelled_matrix(20, 1), ["cnn"])[0].is_constant
    no_split = SPEC.model_copy(update={"min_child_samples": 1000})
    stack, _ = fit_stack(None, labelled_matrix(20, 1), ["lightgbm"], no_split)
    assert stack.is_constant
    assert np.ptp(stack.predict(labelled_matrix(9, 2)[0])["lightgbm"], axis=0).max() == 0


def test_a_fitted_blend_needs_two_stackers():
    assert final_predictor("fitted blend", 2) == "fitted blend"
    assert final_predictor("fitted blend", 1) == final_predictor("blend", 3) == "blend"
    assert final_predictor("mean", 1) == final_predictor("mean", 3) == "mean"
    assert final_predictor("blend", 0) == final_predictor("fitted blend", 0) == "mean"
    assert [compared_predictor(name, None, 2) for name in ("mean", "fitted blend")] == ["blend", "fitted blend"]
    assert [compared_predictor("auto", name, 2) for name in ("mean", "cnn")] == ["blend", "auto"]
    assert compared_predictor("mean", None, 0) is None
    stack, _ = fit_stack(None, labelled_matrix(20, 1), ["lightgbm"])
    assert list(stack.predict(labelled_matrix(2, 2)[0])) == ["lightgbm", "blend"]


def test_a_blend_is_a_weighted_mean():
    probs = {"cnn": np.array([[1.0, 0.0]]), "lightgbm": np.array([[0.0, 1.0]])}
    np.testing.assert_allclose(blend_probs(probs, {"cnn": 0.9, "lightgbm": 0.1}), [[0.9, 0.1]])
    np.testing.assert_allclose(blend_probs(probs, {"cnn": 3.0, "lightgbm": 1.0}), [[0.75, 0.25]])


def test_no_test_tracks_give_no_predictions(fitted):
    matrix = labelled_matrix(4, 9)[0]
    assert {name: probs.shape for name, probs in fitted[0].predict(matrix[:0]).items()} == dict.fromkeys(
        [*NAMES, "blend", "fitted blend"], (0, 4)
    )
