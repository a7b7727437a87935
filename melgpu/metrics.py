"""Accuracy, confidence intervals, significance and calibration of predicted class probabilities."""

import math
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.stats import binomtest, norm

SIGNIFICANCE_LEVEL = 0.05  # the largest p-value of a significant difference
NUM_BINS = 10  # of confidence
Z = float(norm.ppf(0.975))  # of a two-sided level of 95 %


def gain_interval(gains: np.ndarray) -> tuple[float, float]:
    """The 95 % confidence interval of the mean of `gains` (N,) in accuracy on the same tracks: -1, 0 or 1 each.

    Tango's score interval, which has a width even if no track changes, widened to include the Clopper-Pearson interval
    of the direction of the changes: so it excludes 0 exactly where `sign_test` is significant. Raises ValueError.
    Source: Fagerland, Lydersen, Laake, "Recommended tests and confidence intervals for paired binomial proportions",
    Statistics in Medicine 33 (2014).
    """
    if len(gains) < 1:
        raise ValueError("an interval needs at least 1 gain")
    positive = int((gains > 0).sum())
    negative = int((gains < 0).sum())
    low, high = tango_interval(positive, negative, len(gains))
    changed = positive + negative
    if changed:  # the binomial test needs a trial
        direction = binomtest(positive, changed).proportion_ci(confidence_level=0.95, method="exact")
        low = min(low, (2 * float(direction.low) - 1) * changed / len(gains))
        high = max(high, (2 * float(direction.high) - 1) * changed / len(gains))
    return low, high


def tango_interval(positive: int, negative: int, num_tracks: int) -> tuple[float, float]:
    """The 95 % score interval of the gain of which so many tracks are a sample: positive and negative changes, and all.

    Source: Tango, "Equivalence test and confidence interval for the difference in proportions for the paired-sample
    design", Statistics in Medicine 17 (1998).
    """
    gain = (positive - negative) / num_tracks
    # Where the counts have no variance under their own gain, what is solved below has a closed form.
    bound = (num_tracks - Z**2) / (num_tracks + Z**2)
    if positive + negative == 0:
        return -(1 - bound) / 2, (1 - bound) / 2
    if abs(gain) == 1:
        return (bound, 1.0) if gain == 1 else (-1.0, -bound)

    def excess(gain: float, sign: int) -> float:
        """By how much the counts exceed Z standard deviations of what this gain makes expect."""
        # The likeliest probability of a negative change, given the gain: the larger root of 2 n q^2 + b q - c = 0.
        b = (2 * num_tracks - positive + negative) * gain - positive - negative
        c = negative * gain * (1 - gain)
        loss = (math.sqrt(max(0.0, b * b + 8 * num_tracks * c)) - b) / (4 * num_tracks)
        variance = num_tracks * max(0.0, 2 * loss + gain * (1 - gain))
        return sign * (positive - negative - num_tracks * gain) - Z * math.sqrt(variance)

    return float(brentq(excess, -1, gain, args=(1,))), float(brentq(excess, gain, 1, args=(-1,)))


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
