"""What a minimum confidence keeps of a round's predictions, and how much of that is correct, on labelled tracks.

The counterpart of `predict.py --min-confidence`: a prediction is kept where its confidence, the probability of the most
likely class, is not below the minimum.
"""

from dataclasses import dataclass

import numpy as np

from melgpu.data.manifest import Split
from melgpu.metrics import wilson_interval
from melgpu.report import summary
from melgpu.report.analysis import RoundResult
from melgpu.runs.formats.scores import Interval, Scores

MIN_CONFIDENCES = (0.5, 0.7, 0.8, 0.9, 0.95)


@dataclass(frozen=True)
class KeptTracks:
    """How many of `tracks` have at least `min_confidence`, and how many of these are correct."""

    min_confidence: float
    tracks: int
    kept: int
    correct: int

    @property
    def fraction(self) -> float:
        return self.kept / self.tracks

    @property
    def fraction_interval(self) -> Interval:
        """The 95 % interval of the fraction that is kept."""
        return wilson_interval(self.kept, self.tracks)

    @property
    def accuracy(self) -> float:
        """The accuracy of the tracks that are kept; there must be some."""
        return self.correct / self.kept

    @property
    def accuracy_interval(self) -> Interval:
        """Its 95 % interval."""
        return wilson_interval(self.correct, self.kept)


@dataclass(frozen=True)
class ConfidenceTable:
    """The tracks that are kept of one split, one row for each of MIN_CONFIDENCES."""

    split: Split
    rows: list[KeptTracks]


def confidence_table(result: RoundResult, scores: Scores) -> ConfidenceTable | None:
    """The final predictor's table on the split with the least biased score; None where no labels are known."""
    split = summary.best_split(scores)
    if split is None:
        return None
    rows = result.evaluation.rows(split)
    probs = result.evaluation.final_probs[rows]
    labels = result.evaluation.labels[rows]
    return ConfidenceTable(split, [kept_tracks(probs, labels, minimum) for minimum in MIN_CONFIDENCES])


def kept_tracks(probs: np.ndarray, labels: np.ndarray, min_confidence: float) -> KeptTracks:
    """The counts of predictions probs (N, C) with labels (N,), N >= 1."""
    is_kept = probs.max(axis=1) >= min_confidence
    is_correct = probs.argmax(axis=1) == labels
    return KeptTracks(min_confidence, len(labels), int(is_kept.sum()), int((is_kept & is_correct).sum()))
