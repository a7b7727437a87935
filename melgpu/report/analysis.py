"""Analysis of a run's stacked rounds: scores by fold, gains of pseudo labels, confusions."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import sklearn.metrics

from melgpu.data.manifest import EVALUATED_SPLITS, Split, in_split
from melgpu.errors import InputError
from melgpu.metrics import wilson_interval
from melgpu.runs.formats import predictions, scores
from melgpu.runs.formats.scores import Interval, Scores
from melgpu.runs.job import Job
from melgpu.runs.run import Run
from melgpu.stacking import evaluation
from melgpu.stacking.evaluation import RoundEvaluation

PREDICTOR_NAMES = {
    "mean": "mean of the networks",
    "cnn": "stacker: CNN",
    "skip_cnn": "stacker: CNN with skips",
    "lightgbm": "stacker: LightGBM",
    "multinomial": "stacker: multinomial regression",
    "blend": "blend of the stackers",
    "fitted blend": "blend, weights fitted",
    "auto": "automatic selection",
}


@dataclass(frozen=True)
class RoundResult:
    """A stacked round, with or without pseudo labels, and its evaluation."""

    run: Run
    round_number: int
    evaluation: RoundEvaluation

    @property
    def title(self) -> str:
        return f"Round {self.round_number}{self.run.variant_suffix}"

    @property
    def key(self) -> str:
        """Identifies the result within the run."""
        return self.run.paths.round_folder(self.round_number).name

    @property
    def final_predictor(self) -> str:
        """The predictor whose classes are the round's result."""
        return self.evaluation.metadata.final_predictor

    def kind(self, predictor: str) -> str:
        """`network`, `mean`, `stacker`, or `blend`."""
        if predictor in self.run.round_spec(self.round_number).backbones:
            return "network"
        if predictor == "mean":
            return "mean"
        # Of either kind of weights; a selection from them is shown with them.
        return "blend" if predictor.endswith("blend") or predictor == "auto" else "stacker"

    @property
    def shown_predictors(self) -> list[str]:
        """The predictors that differ: a single network is its own mean."""
        predictors = list(self.evaluation.predictors)
        return predictors[1:] if self._has_one_network else predictors

    @property
    def has_stackers(self) -> bool:
        return bool(self.run.round_spec(self.round_number).blend)

    def display_name(self, predictor: str) -> str:
        """What a predictor is called in the report."""
        if predictor == "mean" and self._has_one_network:
            return self.evaluation.predictors[0]
        return PREDICTOR_NAMES.get(predictor, predictor)

    @property
    def _has_one_network(self) -> bool:
        return len(self.run.round_spec(self.round_number).backbones) == 1


def round_results(run: Run) -> list[RoundResult]:
    """The stacked rounds, the last one first, each before the same round without pseudo labels. Raises InputError."""
    run_without_pseudo = replace(run, without_pseudo=True)
    results = []
    for round_number in range(len(run.recipe.rounds), 0, -1):
        # The first round has no pseudo labels: both variants share it.
        variants = [run, run_without_pseudo] if round_number > 1 else [run]
        results += [_round_result(variant, round_number) for variant in variants if variant.is_stacked(round_number)]
    return results


def _round_result(run: Run, round_number: int) -> RoundResult:
    path = run.paths.evaluation(round_number)
    loaded = evaluation.load(path)
    known = set(zip(run.manifest.ids, run.manifest.evaluated_splits, strict=True))
    evaluated = set(zip(loaded.ids, loaded.splits, strict=True))  # fewer where the round has not all folds
    if list(loaded.class_names) != run.class_names or not evaluated <= known:
        raise InputError(f"{path}: of other tracks or classes than this run's")
    if differences := loaded.metadata.provenance.differences(run.stack_provenance(round_number)):
        raise InputError(f"{path}: {', '.join(differences)}")
    return RoundResult(run, round_number, loaded)


@dataclass(frozen=True)
class FoldScore:
    """Accuracy on a fold's validation tracks, and on their windows, which networks alone predict."""

    accuracy: float
    window_accuracy: float | None


def fold_scores(result: RoundResult) -> dict[str, dict[int, FoldScore]]:
    """The scores of each predictor on each fold."""
    evaluated = result.evaluation
    spec = result.run.round_spec(result.round_number)
    fold_rows = {fold: evaluated.rows(Split.VALID, fold) for fold in spec.folds}
    jobs = result.run.jobs(result.round_number)
    window_accuracies = {(job.backbone, job.fold): tta_window_accuracy(result.run, job) for job in jobs}
    by_predictor: dict[str, dict[int, FoldScore]] = {}
    for predictor in evaluated.predictors:
        by_predictor[predictor] = {}
        for fold, rows in fold_rows.items():
            if len(rows):  # the mean of none is NaN
                accuracy = float(evaluated.correct(predictor, rows).mean())
                by_predictor[predictor][fold] = FoldScore(accuracy, window_accuracies.get((predictor, fold)))
    return by_predictor


def tta_window_accuracy(run: Run, job: Job) -> float | None:
    """Accuracy of a network on its validation windows, with flips; None where its predictions were deleted."""
    if not run.paths.predictions(job).exists():
        return None
    predicted = predictions.load(run.paths.predictions(job))
    if predicted.ids != run.manifest.ids:
        raise InputError(f"{run.paths.predictions(job)}: not of this run's tracks")
    labels = run.manifest.class_indices(run.class_names)
    is_scored = in_split(predicted.splits, Split.VALID) & ~predicted.unusable & (labels >= 0)
    window_mask = np.repeat(is_scored, predicted.num_windows)  # the windows of a track are contiguous
    correct = predicted.probs.argmax(1) == np.repeat(labels, predicted.num_windows)
    return float(correct[window_mask].mean()) if window_mask.any() else None


def compare(before: RoundEvaluation, after: RoundEvaluation) -> Scores:
    """Scores with `before` as the baseline, of predictors that both have, on tracks with known labels that both have.

    A split without such tracks has no score.
    """
    row_pairs = {split: _row_pairs(before, after, split) for split in EVALUATED_SPLITS}
    comparisons: Scores = {}
    for predictor in after.predictors:
        if predictor not in before.predictors:
            continue
        for split, (before_rows, after_rows) in row_pairs.items():
            if len(after_rows):
                correct = after.correct(predictor, after_rows)
                baseline_correct = before.correct(predictor, before_rows)
                score = scores.compute_score(correct, baseline_correct, after.pseudo_labelled[after_rows])
                comparisons.setdefault(predictor, {})[split] = score
    return comparisons


def _row_pairs(before: RoundEvaluation, after: RoundEvaluation, split: Split) -> np.ndarray:
    """Rows of `before`, then those of the same tracks in `after`, with known labels, shape (2, N)."""
    before_row_of = {before.ids[row]: row for row in before.rows(split).tolist()}
    rows = [row for row in after.rows(split).tolist() if after.ids[row] in before_row_of]
    return np.array([[before_row_of[after.ids[row]] for row in rows], rows], int)


@dataclass(frozen=True)
class ClassScore:
    """How many tracks of a class were classified correctly, of how many, and the recall's 95 % interval."""

    name: str
    correct: int
    tracks: int
    interval: Interval


def confusion_matrix(result: RoundResult, split: Split) -> np.ndarray:
    """How many tracks of each class (axis 0) were predicted as each class (axis 1), shape (C, C)."""
    rows = result.evaluation.rows(split)
    labels = result.evaluation.labels[rows]
    predicted = result.evaluation.final_probs[rows].argmax(1)
    return sklearn.metrics.confusion_matrix(labels, predicted, labels=range(len(result.run.class_names)))


def class_scores(confusion: np.ndarray, names: list[str]) -> list[ClassScore]:
    """Recall of each class that occurs; confusion (C, C) of `confusion_matrix`."""
    counts = zip(names, confusion.diagonal().tolist(), confusion.sum(axis=1).tolist(), strict=True)
    return [
        ClassScore(name, correct, tracks, wilson_interval(correct, tracks))
        for name, correct, tracks in counts
        if tracks
    ]


def most_confused(confusion: np.ndarray, max_pairs: int) -> Iterator[tuple[int, int]]:
    """The pairs (true class, predicted class) that are confused most often, the most frequent first."""
    wrong = confusion - np.diag(confusion.diagonal())
    # Flattened; stable, so that equal counts stay in the order of the classes.
    for cell in np.argsort(-wrong, axis=None, kind="stable")[:max_pairs].tolist():
        truth, predicted = divmod(cell, len(confusion))
        if wrong[truth, predicted]:
            yield truth, predicted
