"""Accuracy, confidence intervals, significance and calibration of predicted class probabilities."""

import math
from dataclasses import dataclass

import numpy as np

NUM_RESAMPLES = 10_000


def accuracy(probs: np.ndarray, labels: np.ndarray) -> float:
    """Fraction of rows whose most probable class is correct; probs (N, C), labels (N,) class indices, N >= 1."""
    return float(np.mean(probs.argmax(axis=1) == labels))


def bootstrap_interval(values: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """The 95 % confidence interval of the mean of `values` (N,) by the percentile bootstrap over them.

    Resamples are drawn as multinomial counts of the distinct values: the same distribution, without N draws each.
    Source: Efron, "Bootstrap methods: another look at the jackknife", Annals of Statistics 7 (1979).
    """
    if len(values) < 1:
        raise ValueError("an interval needs at least 1 value")
    distinct, counts = np.unique(values, return_counts=True)
    resamples = np.random.default_rng(seed).multinomial(len(values), counts / len(values), NUM_RESAMPLES)
    low, high = np.quantile(resamples @ distinct / len(values), (0.025, 0.975))
    return float(low), float(high)


def accuracy_interval(correct: np.ndarray) -> tuple[float, float]:
    """The 95 % confidence interval of the fraction of True in `correct` (N,), by bootstrap.

    Where all are equal the bootstrap interval has no width: there it is Wilson's.
    """
    proportion = float(np.mean(correct))
    if proportion in (0, 1):
        return wilson_interval(proportion, len(correct))
    return bootstrap_interval(correct.astype(float))


def sign_test(gains: np.ndarray) -> float:
    """The two-sided p-value of the sign test of `gains` (N,) against a median of 0; gains of 0 are left out.

    For a gain in accuracy on the same tracks this is McNemar's exact test. Source: McNemar, "Note on the sampling error
    of the difference between correlated proportions or percentages", Psychometrika 12 (1947).
    """
    positive = int((gains > 0).sum())
    negative = int((gains < 0).sum())
    trials = positive + negative
    # Integers up to the division: exact, where 2**trials exceeds the range of a float, too.
    tail = sum(math.comb(trials, k) for k in range(max(positive, negative), trials + 1))
    return min(1.0, 2 * tail / 2**trials)  # the two tails of a tie overlap: more than 1


def wilson_interval(proportion: float, num_trials: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % confidence interval of a proportion of successes in `num_trials` trials (Wilson score).

    Source: Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927).
    """
    n = num_trials
    if n < 1:
        raise ValueError(f"num_trials is {n}, an interval needs at least 1 trial")
    centre = proportion + z * z / (2 * n)
    half_width = z * math.sqrt(proportion * (1 - proportion) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    low = max(0.0, (centre - half_width) / scale)  # limits that only rounding can cross
    high = min(1.0, (centre + half_width) / scale)
    return low, high


def confusion_counts(predicted: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """The confusion matrix: counts of rows by label (axis 0) and predicted class (axis 1), shape (C, C)."""
    cells = labels * num_classes + predicted  # flat indices into the matrix
    return np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


@dataclass(frozen=True)
class Calibration:
    """Mean confidence and accuracy of predictions in confidence bins of equal width; empty bins are left out.

    confidence, accuracy, counts (B,); expected_error: the expected calibration error (ECE), the mean gap
    weighted by counts.
    """

    confidence: np.ndarray
    accuracy: np.ndarray
    counts: np.ndarray

    @property
    def expected_error(self) -> float:
        return float(np.average(np.abs(self.confidence - self.accuracy), weights=self.counts))


def calibration_curve(probs: np.ndarray, labels: np.ndarray, num_bins: int = 10) -> Calibration:
    """The calibration of probs (N, C) with labels (N,), N >= 1.

    Source: Guo et al., "On calibration of modern neural networks", ICML 2017.
    """
    confidences = probs.max(axis=1)
    correct = probs.argmax(axis=1) == labels
    bins = np.minimum((confidences * num_bins).astype(int), num_bins - 1)  # 1.0 belongs to the last bin
    counts = np.bincount(bins, minlength=num_bins)
    filled = counts > 0
    mean_confidences = np.bincount(bins, confidences, num_bins)[filled] / counts[filled]
    accuracies = np.bincount(bins, correct, num_bins)[filled] / counts[filled]
    return Calibration(mean_confidences, accuracies, counts[filled])
