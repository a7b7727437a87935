import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import bootstrap

from melgpu import metrics
from melgpu.metrics import accuracy_interval, bootstrap_interval, calibration_curve, wilson_interval


@pytest.mark.parametrize(
    ("num_correct", "num_trials", "interval"),
    [(81, 263, (0.2553, 0.3662)), (15, 148, (0.0624, 0.1605)), (0, 20, (0.0, 0.1611)), (1, 29, (0.0061, 0.1718))],
)
def test_published_wilson_intervals(num_correct, num_trials, interval):
    # Newcombe, "Two-sided confidence intervals for the single proportion", Statistics in Medicine 17 (1998), table I.
    assert wilson_interval(num_correct, num_trials) == pytest.approx(interval, abs=5e-5)


@given(st.integers(0, 200), st.integers(0, 200), st.integers(0, 50))
def test_the_sign_test_sums_both_tails(positive, negative, zero):
    gains = np.repeat([1.0, -1.0, 0.0], [positive, negative, zero])
    trials = positive + negative
    tail = sum(math.comb(trials, k) for k in range(max(positive, negative), trials + 1))
    expected = min(1.0, 2 * tail / 2**trials)  # the two tails of a tie overlap: more than 1
    assert metrics.sign_test(gains) == pytest.approx(expected, rel=1e-9)


def test_four_gains_and_no_loss_are_not_significant():
    assert metrics.sign_test(np.repeat([1.0, 0.0], [4, 23])) == pytest.approx(2 / 2**4)
    assert metrics.sign_test(np.repeat([1.0, 0.0], [6, 21])) == pytest.approx(2 / 2**6)


def test_without_a_change_there_is_no_significance():
    assert metrics.sign_test(np.zeros(27)) == metrics.sign_test(np.array([])) == 1.0


def test_intervals_need_a_trial():
    with pytest.raises(ValueError, match="n must be"):
        wilson_interval(0, 0)
    with pytest.raises(ValueError, match="at least 1 value"):
        bootstrap_interval(np.array([]))


@pytest.mark.parametrize(
    "values", [[0.0] * 30 + [1.0] * 70, [-1.0] * 5 + [0.0] * 80 + [1.0] * 15, [0.1, 0.7, 2.5, 3.0]]
)
def test_the_bootstrap_equals_scipys(values):
    expected = bootstrap((values,), np.mean, method="percentile", n_resamples=20_000, rng=1).confidence_interval
    assert bootstrap_interval(np.array(values)) == pytest.approx((expected.low, expected.high), abs=0.03)


def test_an_accuracy_of_0_or_1_has_an_interval():
    assert accuracy_interval(np.ones(27, bool)) == wilson_interval(27, 27)
    assert accuracy_interval(np.zeros(27, bool)) == wilson_interval(0, 27)
    low, high = accuracy_interval(np.arange(100) < 90)
    assert low < 0.9 < high


def test_calibration_by_hand():
    probs = np.array([[0.95, 0.05], [0.96, 0.04], [0.65, 0.35], [1.0, 0.0]])
    calibration = calibration_curve(probs, np.array([0, 1, 0, 0]))
    np.testing.assert_allclose(calibration.confidence, [0.65, 0.97])
    np.testing.assert_allclose(calibration.accuracy, [1.0, 2 / 3])
    np.testing.assert_array_equal(calibration.correct, [1, 2])
    np.testing.assert_array_equal(calibration.counts, [1, 3])
    assert calibration.expected_error == pytest.approx((0.35 + 3 * (0.97 - 2 / 3)) / 4)


def test_true_probabilities_are_calibrated():
    rng = np.random.default_rng(0)
    probs = rng.dirichlet(np.ones(3), 20_000)
    labels = (probs.cumsum(1) < rng.random((20_000, 1))).sum(1)
    assert calibration_curve(probs, labels).expected_error < 0.015
    assert calibration_curve(probs, rng.permutation(labels)).expected_error > 0.2
