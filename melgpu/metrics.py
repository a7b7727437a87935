"""Accuracy, confidence intervals, significance and calibration of predicted class probabilities."""

from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest

NUM_RESAMPLES = 10_000
NUM_BINS = 10  # of confidence


def bootstrap_interval(values: np.ndarray) -> tuple[float, float]:
    """The 95 % confidence interval of the mean of `values` (N,) by the percentile bootstrap over them.

    Resamples are drawn as multinomial counts of the distinct values: the same distribution, without N draws each.
    Source: Efron, "Bootstrap methods: another look at the jackknife", Annals of Statistics 7 (1979).
    """
    if len(values) < 1:
        raise ValueError("an interval needs at least 1 value")
    distinct, counts = np.unique(values, return_counts=True)
    resamples = np.random.default_rng(0).multinomial(len(values), counts / len(values), NUM_RESAMPLES)
    low, high = np.quantile(resamples @ distinct / len(values), (0.025, 0.975))
    return float(low), float(high)


def accuracy_interval(correct: np.ndarray) -> tuple[float, float]:
    """The 95 % confidence interval of the fraction of True in `correct` (N,), by bootstrap.

    Where all are equal the bootstrap interval has no width: there it is Wilson's.
    """
    num_correct = int(correct.sum())
    if num_correct in (0, len(correct)):
        return wilson_interval(num_correct, len(correct))
    return bootstrap_interval(correct.astype(float))


def sign_test(gains: np.ndarray) -> float:
    """The two-sided p-value of the sign test of `gains` (N,) against a median of 0; gains of 0 are left out.

    For a gain in accuracy on the same tracks this is McNemar's exact test. Source: McNemar, "Note on the sampling error
    of the difference between correlated proportions or percentages", Psychometrika 12 (1947).
    """
    positive = int((gains > 0).sum())
    negative = int((gains < 0).sum())
    if positive + negative == 0:  # the binomial test needs a trial
        return 1.0
    return float(binomtest(positive, positive + negative, 0.5).pvalue)


def wilson_interval(num_correct: int, num_trials: int) -> tuple[float, float]:
    """The 95 % confidence interval of an accuracy of `num_correct` in `num_trials` (Wilson score). Raises ValueError.

    Source: Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927).
    """
    interval = binomtest(num_correct, num_trials).proportion_ci(confidence_level=0.95, method="wilson")
    return float(interval.low), float(interval.high)


@dataclass(frozen=True)
class Calibration:
    """Mean confidence and accuracy of predictions in confidence bins of equal width; empty bins are left out.

    confidence, correct (the number of correct predictions), counts, accuracy (B,); expected_error: the expected
    calibration error (ECE), the mean gap weighted by counts.
    """

    confidence: np.ndarray
    correct: np.ndarray
    counts: np.ndarray

    @property
    def accuracy(self) -> np.ndarray:
        return self.correct / self.counts

    @property
    def expected_error(self) -> float:
        return float(np.average(np.abs(self.confidence - self.accuracy), weights=self.counts))


def calibration_curve(probs: np.ndarray, labels: np.ndarray) -> Calibration:
    """The calibration of probs (N, C) with labels (N,), N >= 1.

    Source: Guo et al., "On calibration of modern neural networks", ICML 2017.
    """
    confidences = probs.max(axis=1)
    correct = probs.argmax(axis=1) == labels
    bins = np.minimum((confidences * NUM_BINS).astype(int), NUM_BINS - 1)  # 1.0 belongs to the last bin
    counts = np.bincount(bins, minlength=NUM_BINS)
    correct_counts = np.bincount(bins[correct], minlength=NUM_BINS)
    filled = counts > 0
    mean_confidences = np.bincount(bins, confidences, NUM_BINS)[filled] / counts[filled]
    return Calibration(mean_confidences, correct_counts[filled], counts[filled])
