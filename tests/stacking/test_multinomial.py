from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from melgpu.stacking import multinomial
from tests.helpers.stacking import accuracy, labelled_matrix


def test_the_coefficients_minimise_the_penalised_loss():
    """Against scipy on the objective, written down again: log loss + ||coefficients||^2 / (2 C)."""
    matrix, labels = labelled_matrix(40, 1, num_models=2, num_classes=3)
    fitted = multinomial.fit(matrix, labels)
    logs = np.log(matrix.clip(1e-4))
    features = (logs - logs.mean(2, keepdims=True)).reshape(40, 6)

    def loss(values: np.ndarray) -> float:
        coefficients, intercepts = values[:18].reshape(3, 6), values[18:]
        logits = features @ coefficients.T + intercepts
        log_likelihoods = logits[np.arange(40), labels] - np.log(np.exp(logits).sum(1))
        return (coefficients**2).sum() / (2 * multinomial.REGULARISATION) - log_likelihoods.sum()

    found = loss(np.concatenate([fitted.coefficients.ravel(), fitted.intercepts]))
    assert found == pytest.approx(minimize(loss, np.zeros(21)).fun, rel=1e-5)


def test_it_is_a_mixture_of_the_regression_and_the_mean():
    matrix, labels = labelled_matrix(60, 1)
    fitted = replace(multinomial.fit(matrix, labels), share=np.array(0.4))
    mean = matrix.mean(1)
    even = multinomial.Regression(np.zeros((4, 12)), np.zeros(4), np.ones(4, bool), np.array(0.3))
    np.testing.assert_allclose(multinomial.predict(even, matrix), 0.7 * mean + 0.3 * 0.25)
    alone = multinomial.predict(replace(fitted, share=np.array(1.0)), matrix)
    expected = 0.4 * alone + 0.6 * mean
    np.testing.assert_allclose(multinomial.predict(fitted, matrix), expected)
    np.testing.assert_allclose(expected.sum(1), 1)


def test_the_share_depends_on_what_tracks_tell():
    """Where labels are drawn from the networks' probabilities the mean is the truth; with other names it never is."""
    rng = np.random.default_rng(0)
    probs = rng.dirichlet(np.full(4, 0.3), 40)
    drawn = np.array([rng.choice(4, p=row) for row in probs])
    matrix = probs[:, None].repeat(3, axis=1)
    assert multinomial.fit(matrix, drawn).share < 0.4
    assert multinomial.fit(matrix, (drawn + 1) % 4).share > 0.8


@pytest.mark.parametrize("count", [1, 2, 3])
def test_hardly_any_tracks_are_enough(count):
    matrix, labels = labelled_matrix(count, 1)
    probs = multinomial.predict(multinomial.fit(matrix, labels), matrix)
    np.testing.assert_allclose(probs.sum(1), 1)


def test_few_tracks_do_little_harm_and_many_help():
    """The last of the networks is at chance level: the mean is worse than weights that ignore it."""
    matrix, labels = labelled_matrix(1000, 9, num_models=6, num_classes=10)
    mean = accuracy(matrix.mean(1), labels)
    gains = {}
    for count in (20, 400):
        fitted = multinomial.fit(*labelled_matrix(count, 3, num_models=6, num_classes=10))
        gains[count] = accuracy(multinomial.predict(fitted, matrix), labels) - mean
    assert gains[20] > -0.02
    assert gains[400] > max(gains[20], 0)


def test_classes_that_were_not_fitted_keep_the_probability_of_the_mean():
    matrix, labels = labelled_matrix(60, 1)
    for classes in ([0, 1, 3], [1, 3], [2]):
        rows = np.isin(labels, classes)
        fitted = multinomial.fit(matrix[rows], labels[rows])
        assert np.flatnonzero(fitted.fitted).tolist() == classes
        probs = multinomial.predict(fitted, matrix)
        missing = [label for label in range(4) if label not in classes]
        np.testing.assert_allclose(probs[:, missing], matrix.mean(1)[:, missing])
        np.testing.assert_allclose(probs.sum(1), 1)
        if len(classes) > 1:
            assert accuracy(probs[rows][:, classes], np.searchsorted(classes, labels[rows])) > 0.8


def test_zeros_are_no_infinite_logarithms():
    matrix, labels = labelled_matrix(40, 1)
    certain = np.eye(4)[matrix.argmax(2)]
    assert np.isfinite(multinomial.predict(multinomial.fit(certain, labels), certain)).all()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"intercepts": None}, "tensors coefficients, fitted, share instead of"),
        ({"code": torch.zeros(1)}, "tensors code, coefficients"),
        ({"coefficients": torch.zeros(4, 11, dtype=torch.float64)}, r"coefficients is \(4, 11\)"),
        ({"coefficients": torch.zeros(4, 12)}, "of torch.float32 instead of"),
        ({"coefficients": torch.full((4, 12), np.nan, dtype=torch.float64)}, "NaN"),
        ({"intercepts": torch.zeros(1, dtype=torch.float64).expand(4)}, "not a dense tensor"),
        ({"fitted": torch.zeros(4, dtype=torch.bool)}, "no class is fitted"),
        ({"share": torch.tensor(1.5, dtype=torch.float64)}, "a share outside"),
    ],
)
def test_malformed_tensors_are_rejected(changes, reason):
    tensors = multinomial.to_tensors(multinomial.fit(*labelled_matrix(40, 1)))
    assert multinomial.from_tensors(tensors, 3, 4).fitted.all()
    changed = {name: value for name, value in (tensors | changes).items() if value is not None}
    with pytest.raises(ValueError, match=reason):
        multinomial.from_tensors(changed, 3, 4)
