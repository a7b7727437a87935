"""Scores of probabilities against labels, with confidence intervals."""

import math
from dataclasses import dataclass

import numpy as np

NUM_RESAMPLES = 10_000


def accuracy(probs: np.ndarray, labels: np.ndarray) -> float:
    """Share of rows whose likeliest class is right; probs (N, C), labels (N,) class numbers, N of at least 1."""
    return float(np.mean(probs.argmax(axis=1) == labels))


def bootstrap_interval(values: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """The 95 % confidence interval of the mean of `values` (N,) by the percentile bootstrap over them.

    Values that occur often are drawn together, by their multinomial counts: the same distribution, without N draws.
    Source: Efron, "Bootstrap methods: another look at the jackknife", Annals of Statistics 7 (1979).
    """
    if len(values) < 1:
        raise ValueError("an interval needs at least 1 value")
    distinct, counts = np.unique(values, return_counts=True)
    drawn = np.random.default_rng(seed).multinomial(len(values), counts / len(values), NUM_RESAMPLES)
    low, high = np.quantile(drawn @ distinct / len(values), (0.025, 0.975))
    return float(low), float(high)


def accuracy_interval(right: np.ndarray) -> tuple[float, float]:
    """The 95 % confidence interval of the share of True in `right` (N,), by bootstrap.

    Where all are alike the bootstrap knows no spread: there it is Wilson's.
    """
    share = float(np.mean(right))
    return wilson_interval(share, len(right)) if share in (0, 1) else bootstrap_interval(right.astype(float))


def sign_test(gains: np.ndarray) -> float:
    """How probable chance alone makes `gains` (N,) as one-sided as they are, or more; those of 0 do not count.

    Of a share's gain on the same tracks this is McNemar's exact test. Source: McNemar, "Note on the sampling error of
    the difference between correlated proportions or percentages", Psychometrika 12 (1947).
    """
    up, down = int((gains > 0).sum()), int((gains < 0).sum())
    count = up + down
    return min(1.0, 2 * sum(math.comb(count, k) for k in range(max(up, down), count + 1)) / 2**count)


def wilson_interval(share: float, count: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % confidence interval of a share of `count` trials.

    Source: Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927).
    """
    if count < 1:
        raise ValueError(f"count is {count}, an interval needs at least 1 trial")
    middle = share + z * z / (2 * count)
    spread = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    return max(0.0, (middle - spread) / scale), min(1.0, (middle + spread) / scale)


def confusion_counts(answers: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """How many rows of each class (axis 0) were answered with each class (axis 1), shape (C, C)."""
    return np.bincount(labels * num_classes + answers, minlength=num_classes**2).reshape(num_classes, num_classes)


@dataclass(frozen=True)
class Calibration:
    """How sure the answers are and how often they are right, by bins of equal width; empty bins are left out.

    confidence, share_right, counts (B,); error: the expected calibration error, the mean gap weighed by counts.
    """

    confidence: np.ndarray
    accuracy: np.ndarray
    counts: np.ndarray

    @property
    def error(self) -> float:
        return float(np.average(np.abs(self.confidence - self.accuracy), weights=self.counts))


def calibration_curve(probs: np.ndarray, labels: np.ndarray, num_bins: int = 10) -> Calibration:
    """Of probs (N, C) and labels (N,), N of at least 1.

    Source: Guo et al., "On calibration of modern neural networks", ICML 2017.
    """
    sure = probs.max(axis=1)
    bins = np.minimum((sure * num_bins).astype(int), num_bins - 1)
    counts = np.bincount(bins, minlength=num_bins)
    sums = (np.bincount(bins, weights, num_bins) for weights in (sure, probs.argmax(axis=1) == labels))
    confidence, share_right = (total[counts > 0] / counts[counts > 0] for total in sums)
    return Calibration(confidence, share_right, counts[counts > 0])
