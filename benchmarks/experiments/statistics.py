"""Paired differences of two variants on the same tracks, with bootstrap intervals.

Values are arrays (R, T): of R trainings on T tracks, NaN where a training was not evaluated on a track, as those of one
fold on the validation tracks of another.
"""

from dataclasses import dataclass

import numpy as np

from melgpu import metrics

NUM_RESAMPLES = 10_000
# Standard errors between 0 and a difference that a two-sided test at 5 % shows with a power of 80 %: 1.96 + 0.84.
DETECTABLE_ERRORS = 2.8


@dataclass(frozen=True)
class Estimate:
    """A mean over tracks with 95 % intervals.

    low, high : tracks are resampled, each with all its trainings: what other tracks would change
    low_all, high_all : tracks and trainings are resampled: also what other seeds and folds would change; None for one
        training
    detectable : the smallest difference that could have been seen, 2.8 standard errors (of the wider of both)
    """

    mean: float
    low: float
    high: float
    low_all: float | None
    high_all: float | None
    detectable: float
    num_trainings: int
    num_tracks: int


def estimate(values: np.ndarray) -> Estimate:
    """The mean of (R, T) values over tracks and trainings, weighted by evaluations."""
    is_evaluated = ~np.isnan(values)
    values = values[:, is_evaluated.any(axis=0)]
    if values.size == 0:
        raise ValueError("no track is evaluated")
    num_trainings, num_tracks = values.shape
    by_track = resampled_means(values, resample_trainings=False)
    low, high = _interval(by_track, values)
    errors = [by_track.std()]
    low_all = high_all = None
    if num_trainings > 1:
        by_both = resampled_means(values, resample_trainings=True)
        low_all, high_all = _interval(by_both, values)
        errors.append(by_both.std())
    return Estimate(
        mean=float(np.nanmean(values)),
        low=low,
        high=high,
        low_all=low_all,
        high_all=high_all,
        detectable=max(DETECTABLE_ERRORS * max(errors), high - low if max(errors) == 0 else 0.0),
        num_trainings=num_trainings,
        num_tracks=num_tracks,
    )


def resampled_means(values: np.ndarray, resample_trainings: bool) -> np.ndarray:
    """Means of bootstrap resamples of the tracks, and of the trainings where that is asked for, shape (B,).

    Both are resampled independently of each other. Source: Owen, "The pigeonhole bootstrap", Annals of Applied
    Statistics 1 (2007), which finds its variance somewhat too large rather than too small.
    """
    num_trainings, num_tracks = values.shape
    rng = np.random.default_rng(0)
    track_counts = rng.multinomial(num_tracks, np.full(num_tracks, 1 / num_tracks), NUM_RESAMPLES)
    training_counts: np.ndarray = np.ones((NUM_RESAMPLES, num_trainings))
    if resample_trainings:
        training_counts = rng.multinomial(num_trainings, np.full(num_trainings, 1 / num_trainings), NUM_RESAMPLES)
    is_evaluated = ~np.isnan(values)
    sums = _weighted_sums(np.where(is_evaluated, values, 0.0), training_counts, track_counts)
    counts = _weighted_sums(is_evaluated.astype(float), training_counts, track_counts)
    return sums[counts > 0] / counts[counts > 0]


def _weighted_sums(values: np.ndarray, training_counts: np.ndarray, track_counts: np.ndarray) -> np.ndarray:
    """The sum of (R, T) values for each of B resamples, given how often it has each training and each track."""
    return ((training_counts @ values) * track_counts).sum(axis=1)


def _interval(means: np.ndarray, values: np.ndarray) -> tuple[float, float]:
    """The 2.5 and 97.5 % quantiles; where all values are equal, around them what other tracks may still change."""
    low, high = np.quantile(means, (0.025, 0.975))
    if np.nanmin(values) == np.nanmax(values):
        below, above = metrics.tango_interval(0, 0, values.shape[1])
        return float(low + below), float(high + above)
    return float(low), float(high)
