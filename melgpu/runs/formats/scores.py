"""Scores of a round's predictors: accuracy, and the gain over a baseline on the same tracks, with intervals."""

from pathlib import Path

import numpy as np

from melgpu import files
from melgpu.data.manifest import Split
from melgpu.metrics import gain_interval, sign_test, wilson_interval
from melgpu.models.schema import NonNegative, Schema, read_json
from melgpu.recipe_schema import Fraction, StackSettings

Interval = tuple[float, float]  # of 95 %


class Score(Schema):
    """A predictor on the tracks of a split with known labels.

    num_pseudo_labelled : how many of them the networks were trained on with a pseudo label
    gain : the accuracy minus that of the baseline
    gain_p : the p-value of the sign test of the gain
    """

    accuracy: float
    interval: Interval
    num_tracks: NonNegative
    num_pseudo_labelled: NonNegative
    gain: float
    gain_interval: Interval
    gain_p: float

    @property
    def baseline_accuracy(self) -> float:
        return self.accuracy - self.gain


Scores = dict[str, dict[Split, Score]]  # by predictor and split


class Candidate(Schema):
    """A predictor in comparison with the mean of the networks on validation tracks.

    p_value : of the gain, corrected for the number of candidates
    """

    predictor: str
    gain: float
    gain_interval: Interval
    p_value: Fraction


class Selection(Schema):
    """How the final predictor was selected from candidates, by their predictions for validation tracks.

    num_tracks : on which they were compared
    nested : for how many of them each predictor was selected without their own sub-fold
    """

    predictor: str
    num_tracks: NonNegative
    candidates: tuple[Candidate, ...]
    nested: dict[str, NonNegative]


class RoundScores(Schema):
    """The scores of a stacked round, and what made them: the settings of its stack, and the final predictor."""

    settings: StackSettings
    final_predictor: str
    selection: Selection | None
    scores: Scores


def compute_score(correct: np.ndarray, baseline_correct: np.ndarray, pseudo_labelled: np.ndarray) -> Score:
    """The score of a predictor on N >= 1 tracks, in comparison with a baseline; all (N,) bool."""
    gain = correct.astype(float) - baseline_correct  # paired, track by track: -1, 0 or 1
    return Score(
        accuracy=float(correct.mean()),
        interval=wilson_interval(int(correct.sum()), len(correct)),
        num_tracks=len(correct),
        num_pseudo_labelled=int(pseudo_labelled.sum()),
        gain=float(gain.mean()),
        gain_interval=gain_interval(gain),
        gain_p=sign_test(gain),
    )


def save(path: Path, scores: RoundScores) -> None:
    files.write_text(path, scores.model_dump_json(indent=1) + "\n")


def load(path: Path) -> RoundScores:
    """Raises InputError for a malformed file."""
    return read_json(RoundScores, path)
