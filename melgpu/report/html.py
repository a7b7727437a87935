"""HTML report of a run: one self-contained file, without scripts or external resources.

Every name in it comes from untrusted files and is escaped by the template. Accuracies are in percent, with their 95 %
intervals; gains are in percentage points.
"""

import math
from datetime import UTC, datetime

import jinja2

from melgpu import files
from melgpu.audio import quarantine
from melgpu.console import duration
from melgpu.data.manifest import MANIFEST_SPLITS
from melgpu.errors import InputError
from melgpu.report import (
    analysis,
    caveats,
    confidence,
    distillation,
    plots,
    summary,
)
from melgpu.report.analysis import RoundResult
from melgpu.report.views import MAX_CLASSES, ReportData, report_data, split_view, worst_errors
from melgpu.runs.formats.scores import Scores
from melgpu.runs.run import Run
from melgpu.training.stage_timer import fractions

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
    data = report_data(run, results)
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
        split_views=[split_view(last, split) for split in last.evaluation.labelled_splits],
        worst_errors=worst_errors(last),
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
