import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, bootstrap
from sklearn.metrics import confusion_matrix

from melgpu import metrics
from melgpu.metrics import accuracy, accuracy_interval, bootstrap_interval, calibration_curve, wilson_interval


def test_accuracy():
    assert accuracy(np.array([[0.9, 0.1], [0.4, 0.6], [0.7, 0.3]]), np.array([0, 1, 1])) == pytest.approx(2 / 3)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_wilson_interval_equals_scipys(pair):
    successes, trials = pair
    expected = binomtest(successes, trials).proportion_ci(0.95, method="wilson")
    assert wilson_interval(successes / trials, trials) == pytest.approx((expected.low, expected.high), abs=1e-4)


@given(st.integers(0, 200), st.integers(0, 200), st.integers(0, 50))
def test_the_sign_test_equals_scipys(positive, negative, zero):
    gains = np.repeat([1.0, -1.0, 0.0], [positive, negative, zero])
    expected = binomtest(positive, positive + negative).pvalue if positive + negative else 1.0
    assert metrics.sign_test(gains) == pytest.approx(expected, rel=1e-9)


def test_four_gains_and_no_loss_are_not_significant():
    assert metrics.sign_test(np.repeat([1.0, 0.0], [4, 23])) == 0.125
    assert metrics.sign_test(np.repeat([1.0, 0.0], [6, 21])) == 0.03125


def test_intervals_need_a_trial():
    with pytest.raises(ValueError, match="num_trials is 0"):
        wilson_interval(0.5, 0)
    with pytest.raises(ValueError, match="at least 1 value"):
        bootstrap_interval(np.array([]))


@pytest.mark.parametrize(
    "values", [[0.0] * 30 + [1.0] * 70, [-1.0] * 5 + [0.0] * 80 + [1.0] * 15, [0.1, 0.7, 2.5, 3.0]]
)
def test_the_bootstrap_equals_scipys(values):
    expected = bootstrap((values,), np.mean, method="percentile", n_resamples=20_000, rng=1).confidence_interval
    assert bootstrap_interval(np.array(values)) == pytest.approx((expected.low, expected.high), abs=0.03)


def test_an_accuracy_of_0_or_1_has_an_interval():
    assert accuracy_interval(np.ones(27, bool)) == wilson_interval(1.0, 27)
    assert accuracy_interval(np.zeros(27, bool)) == wilson_interval(0.0, 27)
    low, high = accuracy_interval(np.arange(100) < 90)
    assert low < 0.9 < high


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1))
def test_confusion_equals_scikit_learns(pairs):
    labels, predicted = np.array(pairs).T
    expected = confusion_matrix(labels, predicted, labels=range(5))
    np.testing.assert_array_equal(metrics.confusion_counts(predicted, labels, 5), expected)


def test_calibration_by_hand():
    probs = np.array([[0.95, 0.05], [0.96, 0.04], [0.65, 0.35], [1.0, 0.0]])
    calibration = calibration_curve(probs, np.array([0, 1, 0, 0]))
    np.testing.assert_allclose(calibration.confidence, [0.65, 0.97])
    np.testing.assert_allclose(calibration.accuracy, [1.0, 2 / 3])
    np.testing.assert_array_equal(calibration.counts, [1, 3])
    assert calibration.expected_error == pytest.approx((0.35 + 3 * (0.97 - 2 / 3)) / 4)


def test_true_probabilities_are_calibrated():
    rng = np.random.default_rng(0)
    probs = rng.dirichlet(np.ones(3), 20_000)
    labels = (probs.cumsum(1) < rng.random((20_000, 1))).sum(1)
    assert calibration_curve(probs, labels).expected_error < 0.015
    assert calibration_curve(probs, rng.permutation(labels)).expected_error > 0.2
