"""HTML report of a run: one self-contained file, without scripts or external resources.

Every name in it comes from untrusted files and is escaped by the template. Accuracies are in percent, with their 95 %
intervals; gains are in percentage points.
"""

import math
from dataclasses import dataclass
from datetime import UTC, datetime

import jinja2
import numpy as np

from melgpu import files
from melgpu.audio import quarantine
from melgpu.console import duration
from melgpu.data.manifest import MANIFEST_SPLITS, Split
from melgpu.errors import InputError
from melgpu.metrics import Calibration, calibration_curve
from melgpu.report import (
    analysis,
    caveats,
    confidence,
    distillation,
    error_analysis,
    plots,
    summary,
    training_times,
)
from melgpu.report.analysis import RoundResult
from melgpu.report.training_times import FoldLogs, TrainingTime
from melgpu.runs.formats import timings
from melgpu.runs.formats.scores import Scores
from melgpu.runs.formats.timings import StageTiming
from melgpu.runs.run import Run
from melgpu.training.stage_timer import fractions

MAX_CLASSES = 25  # in a confusion matrix; with more there is only a list of confused pairs
MAX_PAIRS = 6  # confused pairs that are listed below a matrix
MAX_PAIRS_MANY_CLASSES = 25  # confused pairs that are listed instead of a matrix
MAX_RECORDINGS = 20  # pairs of files with the same recording that are listed


def write(run: Run) -> None:
    """Write `run.paths.report`; needs one stacked round. Raises InputError where one of the run's files is damaged."""
    files.write_text(run.paths.report, render(run, datetime.now(UTC)))


def render(run: Run, now: datetime) -> str:
    """The report as HTML."""
    results = analysis.round_results(run)
    # A round without pseudo labels is there to compare; the report is about the others.
    last = next((result for result in results if not result.run.without_pseudo), None)
    if last is None:
        raise InputError(f"{run.folder}: no round is stacked yet, there is nothing to report")
    data = _report_data(run, results)
    recordings = caveats.recordings(run)
    audio_errors = quarantine.load_errors(run.paths.quarantine)
    compared = distillation.comparisons(last)
    return _template().render(
        run=run,
        now=now,
        results=results,
        last=last,
        sentences=_sentences(last, data)
        | {
            "caveats": caveats.headline(last, data.scores[last.key], recordings),
            "quarantine": summary.quarantine_sentence(audio_errors),
            "teacher": distillation.sentence(compared),
        },
        caveats=caveats.caveats(last, data.scores[last.key], recordings),
        recordings=recordings,
        confidence_table=confidence.confidence_table(last, data.scores[last.key]),
        comparisons=compared,
        speeds=distillation.speeds(run) if run.recipe.distil else None,
        split_views=[_split_view(last, split) for split in last.evaluation.labelled_splits],
        worst_errors=_worst_errors(last),
        audio_errors=audio_errors,
        recipe=files.read_text(run.paths.recipe),
        **vars(data),
    )


def _template() -> jinja2.Template:
    loader = jinja2.PackageLoader("melgpu.report")
    # autoescape: names come from untrusted files. StrictUndefined: a misspelt name raises instead of printing nothing.
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    number_formats = (
        summary.percent,
        summary.in_percent,
        summary.points,
        summary.percent_interval,
        summary.points_interval,
    )
    filters = (*number_formats, summary.significance, duration, fractions, bar_position, rate)
    environment.filters |= {filter.__name__: filter for filter in filters}
    environment.globals |= {
        "MANIFEST_SPLITS": MANIFEST_SPLITS,
        "MAX_CLASSES": MAX_CLASSES,
        "MAX_RECORDINGS": MAX_RECORDINGS,
        "colour": plots.colour,
        "learning_curves": plots.learning_curves,
        "axis_start": axis_start,
        "blend_weights_sentence": summary.blend_weights_sentence,
        "selection_sentence": summary.selection_sentence,
        "changed_settings_sentence": summary.changed_settings_sentence,
    }
    return environment.get_template("report.html")


@dataclass(frozen=True)
class PseudoLabelView:
    """The pseudo labels that a round selected for the next one."""

    round_number: int
    classes: list[analysis.PseudoLabelCounts]
    total: analysis.PseudoLabelCounts


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


def _report_data(run: Run, results: list[RoundResult]) -> ReportData:
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


def _sentences(last: RoundResult, data: ReportData) -> dict[str, str]:
    """The summary at the top of the report, by the section that has the figures."""
    scores = data.scores[last.key]
    views = data.pseudo_label_views
    gains = data.pseudo_label_gains
    result, comparisons = gains[-1] if gains else (last, {})  # of the last round that has both variants
    trainings = [training for times in data.training_times.values() for training in times]
    return {
        "accuracy": summary.accuracy_sentence(last, scores),
        "scores": summary.stacking_sentence(last, scores),
        "pseudo_labels": summary.pseudo_label_sentence(
            last.run, views[-1].classes if views else None, comparisons.get(result.final_predictor)
        ),
        "calibration": summary.calibration_sentence(last, scores),
        "classes": summary.confusion_sentence(last),
        "time": summary.time_sentence(trainings, data.stage_timings),
    }


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


def _split_view(result: RoundResult, split: Split) -> SplitView:
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
    counts = {round_number: analysis.pseudo_label_counts(run, round_number) for round_number in round_numbers}
    return [
        PseudoLabelView(round_number, classes, analysis.total_counts(classes))
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


def _worst_errors(
    result: RoundResult,
) -> list[tuple[error_analysis.Misclassification, error_analysis.WorstWindow, error_analysis.WindowMedia]] | None:
    """None where the predictions of the windows were deleted."""
    run = result.run
    if not all(run.paths.predictions(job).exists() for job in run.jobs(result.round_number)):
        return None
    errors = error_analysis.worst_errors(result.evaluation)
    windows = error_analysis.worst_windows(run, result.round_number, errors)
    return list(zip(errors, windows, error_analysis.render_media(run, windows), strict=True))


def axis_start(scores: Scores) -> float:
    """The start of the accuracy axis of a table of scores: the tenth below the lowest interval; it ends at 1."""
    lowest = min((score.interval[0] for by_split in scores.values() for score in by_split.values()), default=0.0)
    return min(0.9, math.floor(10 * lowest) / 10)  # an axis from 1 to 1 would have no width


def bar_position(fraction: float, start: float) -> str:
    """The position of a fraction on an axis from `start` to 1, for CSS."""
    return f"{100 * (fraction - start) / (1 - start):.1f}%"


def rate(amount: float, seconds: float) -> str:
    """Amount per second, with about three significant digits."""
    value = amount / max(seconds, 1e-9)  # a stage of 0.000 s is no division by 0
    digits = 2
    if value >= 10:
        digits = 0 if value >= 100 else 1
    return f"{value:,.{digits}f}"
