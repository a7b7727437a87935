"""Results of a run's rounds to what the sections of its report show."""

from dataclasses import dataclass

import numpy as np

from melgpu.data.manifest import Split
from melgpu.metrics import Calibration, calibration_curve
from melgpu.report import analysis, error_analysis, plots, pseudo_label_counts, summary, training_times
from melgpu.report.analysis import RoundResult
from melgpu.report.pseudo_label_counts import PseudoLabelCounts
from melgpu.report.training_times import FoldLogs, TrainingTime
from melgpu.runs.formats import timings
from melgpu.runs.formats.scores import Scores
from melgpu.runs.formats.timings import StageTiming
from melgpu.runs.run import Run

MAX_CLASSES = 25  # in a confusion matrix; with more there is only a list of confused pairs
MAX_PAIRS = 6  # confused pairs that are listed below a matrix
MAX_PAIRS_MANY_CLASSES = 25  # confused pairs that are listed instead of a matrix


@dataclass(frozen=True)
class PseudoLabelView:
    """The pseudo labels that a round selected for the next one."""

    round_number: int
    classes: list[PseudoLabelCounts]
    total: PseudoLabelCounts


@dataclass(frozen=True)
class ReportData:
    """The figures of the sections; dictionaries are by a result's key.

    scores : of the predictors on each split, `fold_scores` on each fold
    pseudo_label_gains : rounds with pseudo labels, and their scores with the same round without as the baseline
    logs : training logs by backbone
    stage_timings : of all stages except training
    """

    scores: dict[str, Scores]
    fold_scores: dict[str, dict[str, dict[int, analysis.FoldScore]]]
    pseudo_label_views: list[PseudoLabelView]
    pseudo_label_gains: list[tuple[RoundResult, Scores]]
    logs: dict[str, dict[str, FoldLogs]]
    training_times: dict[str, list[TrainingTime]]
    stage_timings: list[StageTiming]


def report_data(run: Run, results: list[RoundResult]) -> ReportData:
    logs = {result.key: training_times.training_logs(result.run, result.round_number) for result in results}
    times_by_result = {}
    for result in results:
        backbones = logs[result.key].items()
        times = [training_times.training_time(result.run, name, folds) for name, folds in backbones]
        times_by_result[result.key] = times
    return ReportData(
        scores={result.key: result.evaluation.scores() for result in results},
        fold_scores={result.key: analysis.fold_scores(result) for result in results},
        pseudo_label_views=_pseudo_label_views(run),
        pseudo_label_gains=_pseudo_label_gains(results),
        logs=logs,
        training_times=times_by_result,
        stage_timings=timings.load(run.paths.timings),
    )


@dataclass(frozen=True)
class SplitView:
    """Evaluation of the final predictor on one split's tracks with known labels.

    `confused_pairs` : true class, predicted class, how many tracks, of how many
    """

    split: Split
    tracks: int
    confusion: np.ndarray
    classes: list[analysis.ClassScore]
    confused_pairs: list[tuple[str, str, int, int]]
    calibration: Calibration
    confidence_sentence: str
    reliability_diagram: str


def split_view(result: RoundResult, split: Split) -> SplitView:
    rows = result.evaluation.rows(split)
    names = result.run.class_names
    probs = result.evaluation.final_probs[rows]
    labels = result.evaluation.labels[rows]
    confusion = analysis.confusion_matrix(result, split)
    calibration = calibration_curve(probs, labels)
    max_pairs = MAX_PAIRS if len(names) <= MAX_CLASSES else MAX_PAIRS_MANY_CLASSES
    return SplitView(
        split=split,
        tracks=len(rows),
        confusion=confusion,
        classes=analysis.class_scores(confusion, names),
        confused_pairs=[
            (names[truth], names[predicted], int(confusion[truth, predicted]), int(confusion[truth].sum()))
            for truth, predicted in analysis.most_confused(confusion, max_pairs)
        ],
        calibration=calibration,
        confidence_sentence=summary.confidence_sentence(probs, labels),
        reliability_diagram=plots.reliability_diagram(calibration),
    )


def _pseudo_label_views(run: Run) -> list[PseudoLabelView]:
    round_numbers = range(1, len(run.recipe.rounds))
    counts = {round_number: pseudo_label_counts.count_by_class(run, round_number) for round_number in round_numbers}
    return [
        PseudoLabelView(round_number, classes, pseudo_label_counts.total(classes))
        for round_number, classes in counts.items()
        if classes is not None
    ]


def _pseudo_label_gains(results: list[RoundResult]) -> list[tuple[RoundResult, Scores]]:
    """Rounds with pseudo labels, in order, and their scores with the same round without as the baseline."""
    with_labels = {result.round_number: result for result in results if not result.run.without_pseudo}
    without_labels = {result.round_number: result for result in results if result.run.without_pseudo}
    round_numbers = sorted(with_labels.keys() & without_labels.keys())
    pairs = [(with_labels[round_number], without_labels[round_number]) for round_number in round_numbers]
    gains = [(result, analysis.compare(other.evaluation, result.evaluation)) for result, other in pairs]
    return [(result, comparisons) for result, comparisons in gains if comparisons]


def worst_errors(
    result: RoundResult,
) -> list[tuple[error_analysis.Misclassification, error_analysis.WorstWindow, error_analysis.WindowMedia]] | None:
    """None where the predictions of the windows were deleted."""
    run = result.run
    if not all(run.paths.predictions(job).exists() for job in run.jobs(result.round_number)):
        return None
    errors = error_analysis.worst_errors(result.evaluation)
    windows = error_analysis.worst_windows(run, result.round_number, errors)
    return list(zip(errors, windows, error_analysis.render_media(run, windows), strict=True))
