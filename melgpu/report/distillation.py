"""A student beside its teacher on the same tracks: accuracy, agreement, calibration, speed.

The teacher's answer for a track is the mean of its distributions over the windows that a student trains on. Validation
tracks are predicted by networks that did not train on them, where the teacher has such.
"""

from dataclasses import dataclass

import numpy as np

from melgpu.data.manifest import EVALUATED_SPLITS, Split, in_split
from melgpu.metrics import calibration_curve, wilson_interval
from melgpu.report import analysis, summary
from melgpu.report.analysis import RoundResult
from melgpu.runs.distillation.distributions import Origin
from melgpu.runs.formats import scores, timings
from melgpu.runs.formats.scores import Interval, Score
from melgpu.runs.formats.timings import StageTiming
from melgpu.runs.run import Run


@dataclass(frozen=True)
class Calibrated:
    """How far the mean confidence is above the accuracy, its 95 % interval, and the expected calibration error."""

    gap: float
    gap_interval: Interval
    expected_error: float


@dataclass(frozen=True)
class Comparison:
    """A student and its teacher on the tracks of one split.

    agreeing, num_tracks : tracks with the same class from both, of all, labelled or not
    num_trained : tracks that the teacher's networks trained on
    score : of the student, with the teacher as the baseline, on tracks with known labels; None where there are none
    """

    split: Split
    agreeing: int
    num_tracks: int
    num_trained: int
    score: Score | None
    teacher_interval: Interval
    student: Calibrated | None
    teacher: Calibrated | None

    @property
    def agreement(self) -> float:
        return self.agreeing / self.num_tracks

    @property
    def agreement_interval(self) -> Interval:
        """The 95 % interval of the fraction of tracks with the same class from both."""
        return wilson_interval(self.agreeing, self.num_tracks)


@dataclass(frozen=True)
class Speeds:
    """Tracks a second from files to answers, measured on some tracks; perhaps on two machines."""

    teacher: float
    student: float
    num_tracks: int
    num_networks: int


def comparisons(result: RoundResult) -> list[Comparison]:
    """A student beside its teacher on each split that it was evaluated on; none for a run without a teacher."""
    of_teacher = result.run.teacher_predictions
    if of_teacher is None:
        return []
    tracks = result.run.manifest
    row_of = {key: row for row, key in enumerate(zip(tracks.ids, tracks.evaluated_splits, strict=True))}
    evaluated = result.evaluation
    rows = np.array([row_of[key] for key in zip(evaluated.ids, evaluated.splits, strict=True)], np.int64)
    teacher_probs = of_teacher.track_probs[rows]
    teacher_probs[of_teacher.unusable[rows]] = result.run.manifest.prior  # as the student's are
    is_trained = np.array([of_teacher.origins[row] is Origin.TRAINED for row in rows], bool)
    splits = [split for split in EVALUATED_SPLITS if split in evaluated.splits]
    return [_comparison(result, split, teacher_probs, is_trained) for split in splits]


def _comparison(result: RoundResult, split: Split, teacher_probs: np.ndarray, is_trained: np.ndarray) -> Comparison:
    evaluated = result.evaluation
    in_this = in_split(evaluated.splits, split)
    agrees = evaluated.final_probs.argmax(axis=1) == teacher_probs.argmax(axis=1)
    rows = evaluated.rows(split)
    score = None
    student = None
    teacher = None
    teacher_interval = (0.0, 1.0)
    if len(rows):
        labels = evaluated.labels[rows]
        teacher_correct = teacher_probs[rows].argmax(axis=1) == labels
        correct = evaluated.correct(result.final_predictor, rows)
        score = scores.compute_score(correct, teacher_correct, evaluated.pseudo_labelled[rows])
        teacher_interval = wilson_interval(int(teacher_correct.sum()), len(rows))
        student = _calibrated(evaluated.final_probs[rows], labels)
        teacher = _calibrated(teacher_probs[rows], labels)
    return Comparison(
        split=split,
        agreeing=int(agrees[in_this].sum()),
        num_tracks=int(in_this.sum()),
        num_trained=int(is_trained[in_this].sum()),
        score=score,
        teacher_interval=teacher_interval,
        student=student,
        teacher=teacher,
    )


def _calibrated(probs: np.ndarray, labels: np.ndarray) -> Calibrated:
    """The calibration of probs (N, C) with labels (N,), N >= 1."""
    confidence = float(probs.max(axis=1).mean())
    num_correct = int((probs.argmax(axis=1) == labels).sum())
    # The accuracy's interval, which has a width even where all tracks are correct; the mean confidence is taken as it
    # is, as in `summary.confidence_sentence`.
    low, high = wilson_interval(num_correct, len(labels))
    gap = confidence - num_correct / len(labels)
    return Calibrated(gap, (confidence - high, confidence - low), calibration_curve(probs, labels).expected_error)


def speeds(run: Run) -> Speeds | None:
    """The measured speeds; None where one of both was not measured."""
    teacher = timings.find(run.paths.timings, timings.TEACHER_SPEED)
    student = timings.find(run.paths.timings, timings.STUDENT_SPEED)
    if not (teacher and student and run.teacher_predictions):
        return None
    return Speeds(_rate(teacher), _rate(student), student.amount, run.teacher_predictions.num_networks)


def _rate(timing: StageTiming) -> float:
    return timing.amount / max(timing.seconds, 1e-9)


def sentence(compared: list[Comparison]) -> str:
    """The student's accuracy beside its teacher's, on the split with the least biased score, as in the summary."""
    by_split = {comparison.split: comparison for comparison in compared}
    scored = {each.split: each.score for each in compared if each.score}
    split = summary.best_split({"student": scored})
    if split is None:
        return "No labels of the evaluated tracks are known."
    score = scored[split]
    chosen = by_split[split]
    return (
        f"Its accuracy is {summary.percent(score.accuracy, 1)} and the teacher's "
        f"{summary.percent(score.baseline_accuracy, 1)} on {score.num_tracks} {split.description} tracks "
        f"({summary.points(score.gain)} points, {summary.points_interval(score.gain_interval)}); they agree on "
        f"{summary.percent(chosen.agreement)} of {chosen.num_tracks}, labelled or not."
    )


def student_lines(run: Run) -> list[str]:
    """A finished student beside its teacher, for the terminal; none for a run without a teacher."""
    results = analysis.round_results(run) if run.recipe.distil else []
    lines = [_line(comparison) for result in results for comparison in comparisons(result)]
    measured = speeds(run) if lines else None
    if measured:
        rates = f"{measured.student:.2f} tracks/s, the teacher {measured.teacher:.2f}"
        lines.append(f"Speed of the student on {measured.num_tracks} tracks: {rates}")
    return lines


def _line(comparison: Comparison) -> str:
    low, high = comparison.agreement_interval
    name = comparison.split.description
    agreement = f"they agree on {comparison.agreement:.3f} ({low:.2f}-{high:.2f}) of {comparison.num_tracks}"
    if comparison.score is None:
        return f"Student on {name} tracks: {agreement}"
    score = comparison.score
    gain_low, gain_high = score.gain_interval
    return (
        f"Student on {name} tracks: accuracy {score.accuracy:.3f}, the teacher {score.baseline_accuracy:.3f}, "
        f"difference {score.gain:+.3f} ({gain_low:+.2f} to {gain_high:+.2f}); {agreement}"
    )
