import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.stats import multinomial

from melgpu import metrics
from melgpu.metrics import calibration_curve, gain_interval, tango_interval, wilson_interval


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
    with pytest.raises(ValueError, match="at least 1 gain"):
        gain_interval(np.array([]))


def changes(positive: int, negative: int, num_tracks: int) -> np.ndarray:
    return np.repeat([1.0, -1.0, 0.0], [positive, negative, num_tracks - positive - negative])


def all_changes(num_tracks: int) -> list[tuple[int, int]]:
    """Every number of positive and negative changes of so many tracks."""
    return [(positive, count - positive) for count in range(num_tracks + 1) for positive in range(count + 1)]


def test_a_published_interval_of_a_paired_difference():
    # Fagerland, Lydersen and Laake (2014), airway hyper-responsiveness: 21 children, of whom 1 and 7 changed.
    assert tango_interval(1, 7, 21) == pytest.approx((-0.517, -0.026), abs=5e-4)


@pytest.mark.parametrize("counts", [(1, 7, 21), (4, 0, 27), (0, 1, 27), (20, 10, 193), (2, 2, 5), (30, 0, 40)])
def test_the_bounds_of_tangos_interval_solve_the_score_equation(counts):
    positive, negative, num_tracks = counts
    unchanged = num_tracks - positive - negative
    for bound in tango_interval(*counts):

        def minus_log_likelihood(loss: float, bound: float = bound) -> float:
            probs = np.array([loss + bound, loss, 1 - 2 * loss - bound])
            seen = np.array([positive, negative, unchanged])
            return -float((seen[seen > 0] * np.log(probs[seen > 0])).sum())

        limits = max(0.0, -bound) + 1e-12, (1 - bound) / 2 - 1e-12
        loss = minimize_scalar(minus_log_likelihood, bounds=limits, method="bounded", options={"xatol": 1e-12}).x
        variance = num_tracks * (2 * loss + bound - bound**2)
        score = (positive - negative - num_tracks * bound) / math.sqrt(variance)
        assert abs(score) == pytest.approx(1.959964, abs=1e-3)


@pytest.mark.parametrize("num_tracks", [27, 193, 1000])
def test_without_a_change_a_gain_has_an_interval(num_tracks):
    low, high = gain_interval(np.zeros(num_tracks))
    assert low == -high
    # Clopper and Pearson's bound of the probability of a change that was never seen.
    assert high == pytest.approx(1 - 0.025 ** (1 / num_tracks), rel=0.05)
    assert gain_interval(np.ones(num_tracks))[1] == 1.0 > gain_interval(np.ones(num_tracks))[0]


@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 300))
def test_the_interval_of_a_gain_excludes_0_exactly_where_the_sign_test_is_significant(positive, negative, unchanged):
    num_tracks = positive + negative + max(unchanged, positive + negative == 0)
    gains = changes(positive, negative, num_tracks)
    low, high = gain_interval(gains)
    assert (low > 0 or high < 0) == (metrics.sign_test(gains) <= 0.05)
    assert -1 <= low <= gains.mean() <= high <= 1
    assert gain_interval(-gains) == pytest.approx((-high, -low))


def test_intervals_of_gains_cover_the_truth_with_few_changes():
    # Exactly, as the sum over every outcome of 27 tracks, and not by simulation.
    num_tracks = 27
    outcomes = np.array([(*counts, num_tracks - sum(counts)) for counts in all_changes(num_tracks)])
    bounds = np.array([gain_interval(changes(*counts, num_tracks)) for counts in outcomes[:, :2].tolist()])
    for probability in (0.005, 0.02, 0.05, 0.1, 0.2, 0.5):  # that a track changes
        for positive in (0.5, 0.7, 0.9, 1.0):
            gain = probability * (2 * positive - 1)
            probs = [probability * positive, probability * (1 - positive), 1 - probability]
            is_covered = (bounds[:, 0] <= gain + 1e-12) & (gain - 1e-12 <= bounds[:, 1])
            assert multinomial.pmf(outcomes[is_covered], num_tracks, probs).sum() > 0.95


def test_intervals_of_gains_cover_the_truth_in_simulations():
    rng = np.random.default_rng(0)
    for num_tracks, probs in ((100, [0.1, 0.02, 0.88]), (193, [0.03, 0.03, 0.94]), (1000, [0.12, 0.1, 0.78])):
        drawn, times = np.unique(rng.multinomial(num_tracks, probs, 400), axis=0, return_counts=True)
        bounds = np.array([gain_interval(changes(*counts, num_tracks)) for counts in drawn[:, :2].tolist()])
        gain = probs[0] - probs[1]
        is_covered = (bounds[:, 0] <= gain) & (gain <= bounds[:, 1])
        assert np.average(is_covered, weights=times) > 0.93


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
