"""Scores of probabilities against labels, with confidence intervals."""

import math

import numpy as np


def accuracy(probs: np.ndarray, labels: np.ndarray) -> float:
    """Share of rows whose likeliest class is right; probs (N, C), labels (N,) class numbers, N of at least 1."""
    return float(np.mean(probs.argmax(axis=1) == labels))


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
