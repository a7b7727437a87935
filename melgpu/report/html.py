"""A run's page, made for looking: one HTML file that needs nothing else, neither scripts nor a network.

Every name in it comes from strangers' files and is escaped by the template. Shares are in percent, with their 95 %
intervals; differences are in percentage points.
"""

import math
from dataclasses import dataclass
from datetime import UTC, datetime

import jinja2
import numpy as np

from melgpu import files
from melgpu.audio import quarantine
from melgpu.console import duration
from melgpu.errors import InputError
from melgpu.metrics import Calibration, calibration_curve
from melgpu.report import analysis, error_analysis, plots, summary
from melgpu.report.analysis import RoundResult
from melgpu.runs import timings
from melgpu.runs.run import Run
from melgpu.training.stage_timer import fractions

MAX_CLASSES, MAX_PAIRS, MAX_PAIRS_MANY_CLASSES = 25, 6, 25  # in a table of confusions; pairs told in words


def write(run: Run) -> None:
    """Write `run.report_path`; needs one stacked round. Raises InputError where one of the run's files is damaged."""
    files.write_text(run.report_path, render(run, datetime.now(UTC)))


def render(run: Run, now: datetime) -> str:
    """The page as text."""
    results = analysis.round_results(run)
    last = next((result for result in results if not result.run.without_pseudo), None)
    if last is None:
        raise InputError(f"{run.folder}: no round is stacked yet, there is nothing to show")
    parts = _scores(results) | _worth(run, results) | _time(run, results)
    audio_errors = quarantine.load_errors(run.quarantine_path)
    return _template().render(
        run=run,
        now=now,
        results=results,
        last=last,
        in_short=_in_short(last, parts) | {"files": summary.quarantine_sentence(audio_errors)},
        views=[_split_view(last, split) for split in analysis.labelled_splits(last)],
        worst_errors=_worst_errors(last),
        audio_errors=audio_errors,
        recipe=files.read_text(run.folder / "recipe.toml"),
        **parts,
    )


def _template() -> jinja2.Template:
    loader = jinja2.PackageLoader("melgpu.report")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    numbers = (summary.percent, summary.in_percent, summary.points, summary.interval, summary.points_interval)
    environment.filters |= {
        filter.__name__: filter for filter in (*numbers, summary.significance, duration, fractions, bar_position, rate)
    }
    environment.globals |= {
        "SPLITS": summary.SPLIT_NAMES,
        "PREDICTORS": analysis.PREDICTOR_NAMES,
        "MAX_CLASSES": MAX_CLASSES,
    }
    environment.globals |= {"colour": plots.colour, "curves": plots.learning_curves}
    environment.globals |= {"scale": scale, "blend_weights_sentence": summary.blend_weights_sentence}
    return environment.get_template("report.html")


def _scores(results: list[RoundResult]) -> dict:
    """By the result's key: scores of the judges (see `Judged.scores`), in all and by fold."""
    scores = {result.key: result.evaluation.scores() for result in results}
    return {"scores": scores, "folds": {result.key: analysis.fold_scores(result) for result in results}}


def _worth(run: Run, results: list[RoundResult]) -> dict:
    """The pseudo labels, and what they changed."""
    return {"chosen": _pseudo(run), "gains": _gains(results)}


def _time(run: Run, results: list[RoundResult]) -> dict:
    """By the result's key the trainings' logs and what they spent, and all other pieces of work."""
    logs = {result.key: analysis.training_logs(result.run, result.number) for result in results}
    trainings = {
        c.key: [analysis.training_time(c.run, name, own) for name, own in logs[c.key].items()] for c in results
    }
    return {"logs": logs, "training_times": trainings, "pieces": timings.load(run.timings_path)}


def _in_short(last: RoundResult, parts: dict) -> dict[str, str]:
    """Answers in words to what one asks first, by the section that has the figures."""
    scores, chosen = parts["scores"][last.key], parts["chosen"]
    result, latest = parts["gains"][-1] if parts["gains"] else (last, {})
    return {
        "lead": summary.accuracy_sentence(last, scores),
        "scores": summary.stacking_sentence(last, scores),
        "pseudo": summary.pseudo_label_sentence(
            last.run, chosen[-1].classes if chosen else None, latest.get(result.final_predictor)
        ),
        "trust": summary.calibration_sentence(last, scores),
        "classes": summary.confusion_sentence(last),
        "time": summary.time_sentence(
            [one for own in parts["training_times"].values() for one in own], parts["pieces"]
        ),
    }


@dataclass(frozen=True)
class SplitView:
    """What the answers say of one split's tracks with known labels; `pairs` are truth, answer, how many of how many."""

    split: str
    tracks: int
    table: np.ndarray
    classes: list[analysis.ClassScore]
    pairs: list[tuple[str, str, int, int]]
    calibration: Calibration
    sureness: str
    picture: str


def _split_view(result: RoundResult, split: str) -> SplitView:
    rows, names = result.evaluation.rows(split), result.run.class_names
    probs, labels = result.evaluation.final_probs[rows], result.evaluation.labels[rows]
    table, found = analysis.confusion_matrix(result, split), calibration_curve(probs, labels)
    most = MAX_PAIRS if len(names) <= MAX_CLASSES else MAX_PAIRS_MANY_CLASSES
    pairs = [
        (names[t], names[a], int(table[t, a]), int(table[t].sum())) for t, a in analysis.most_confused(table, most)
    ]
    scores, words = analysis.class_scores(table, names), summary.confidence_sentence(probs, labels)
    return SplitView(split, len(rows), table, scores, pairs, found, words, plots.reliability_diagram(found))


@dataclass(frozen=True)
class PseudoLabelView:
    """The pseudo labels that a round chose for the next one."""

    number: int
    classes: list[analysis.PseudoLabelCounts]
    total: analysis.PseudoLabelCounts


def _pseudo(run: Run) -> list[PseudoLabelView]:
    found = {number: analysis.pseudo_label_counts(run, number) for number in range(1, len(run.recipe.rounds))}
    return [
        PseudoLabelView(number, own, analysis.total_counts(own)) for number, own in found.items() if own is not None
    ]


def _gains(results: list[RoundResult]) -> list[tuple[RoundResult, dict]]:
    """Rounds with pseudo labels, the last one last, and what changed in them against the same without."""
    with_labels, without = ({c.number: c for c in results if c.run.without_pseudo == plain} for plain in (False, True))
    pairs = [(with_labels[number], without[number]) for number in sorted(with_labels.keys() & without.keys())]
    changes = [(result, analysis.compare(other.evaluation, result.evaluation)) for result, other in pairs]
    return [(result, found) for result, found in changes if found]


def _worst_errors(
    result: RoundResult,
) -> list[tuple[error_analysis.Misclassification, error_analysis.WorstWindow, error_analysis.WindowMedia]] | None:
    """None where predictions were deleted, which know the windows."""
    run = result.run
    if not all(run.predictions_path(job).exists() for job in run.jobs(result.number)):
        return None
    found = error_analysis.worst_errors(result.evaluation)
    chosen = error_analysis.worst_windows(run, result.number, found)
    return list(zip(found, chosen, error_analysis.render_media(run, chosen), strict=True))


def scale(scores: dict) -> float:
    """Where the bars of a table of scores begin: the tenth below the lowest interval; they end at 1."""
    lowest = min((own["interval"][0] for cells in scores.values() for own in cells.values()), default=0.0)
    return min(0.9, math.floor(10 * lowest) / 10)


def bar_position(share: float, low: float) -> str:
    """Where a share stands on a bar that begins at `low`, for CSS."""
    return f"{100 * (share - low) / (1 - low):.1f}%"


def rate(amount: float, seconds: float) -> str:
    """How many a second, in about three figures."""
    value = amount / max(seconds, 1e-9)
    return f"{value:,.{0 if value >= 100 else 1 if value >= 10 else 2}f}"
