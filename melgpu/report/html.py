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
from melgpu.report.analysis import Chapter
from melgpu.runs import timings
from melgpu.runs.run import Run
from melgpu.training.stage_timer import shares

MOST_CLASSES, MOST_PAIRS, MANY_PAIRS = 25, 6, 25  # in a table of confusions; pairs told in words


def write(run: Run) -> None:
    """Write `run.report_path`; needs one stacked round. Raises InputError where one of the run's files is damaged."""
    files.write_text(run.report_path, render(run, datetime.now(UTC)))


def render(run: Run, now: datetime) -> str:
    """The page as text."""
    chapters = analysis.chapters(run)
    last = next((chapter for chapter in chapters if not chapter.run.without_pseudo), None)
    if last is None:
        raise InputError(f"{run.folder}: no round is stacked yet, there is nothing to show")
    parts = _scores(chapters) | _worth(run, chapters) | _time(run, chapters)
    flaws = quarantine.load_errors(run.quarantine_path)
    return _template().render(
        run=run,
        now=now,
        chapters=chapters,
        last=last,
        in_short=_in_short(last, parts) | {"files": summary.broken(flaws)},
        views=[_view(last, split) for split in analysis.splits(last)],
        mistakes=_mistakes(last),
        errors=flaws,
        recipe=files.read_text(run.folder / "recipe.toml"),
        **parts,
    )


def _template() -> jinja2.Template:
    loader = jinja2.PackageLoader("melgpu.report")
    house = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    numbers = (summary.percent, summary.in_percent, summary.points, summary.span, summary.points_span)
    house.filters |= {filter.__name__: filter for filter in (*numbers, summary.chance, duration, shares, place, rate)}
    house.globals |= {"SPLITS": summary.SPLIT_NAMES, "JUDGES": analysis.NAMES, "MOST_CLASSES": MOST_CLASSES}
    house.globals |= {"colour": plots.colour, "curves": plots.learning_curves}
    house.globals |= {"scale": scale, "weights": summary.weights}
    return house.get_template("report.html")


def _scores(chapters: list[Chapter]) -> dict:
    """By the chapter's key: scores of the judges (see `Judged.scores`), in all and by fold."""
    scores = {chapter.key: chapter.judged.scores() for chapter in chapters}
    return {"scores": scores, "folds": {chapter.key: analysis.fold_scores(chapter) for chapter in chapters}}


def _worth(run: Run, chapters: list[Chapter]) -> dict:
    """The pseudo labels, and what they changed."""
    return {"chosen": _pseudo(run), "gains": _gains(chapters)}


def _time(run: Run, chapters: list[Chapter]) -> dict:
    """By the chapter's key the trainings' logs and what they spent, and all other pieces of work."""
    logs = {chapter.key: analysis.logs(chapter.run, chapter.number) for chapter in chapters}
    trainings = {c.key: [analysis.spent(c.run, name, own) for name, own in logs[c.key].items()] for c in chapters}
    return {"logs": logs, "spent": trainings, "pieces": timings.load(run.times_path)}


def _in_short(last: Chapter, parts: dict) -> dict[str, str]:
    """Answers in words to what one asks first, by the section that has the figures."""
    scores, chosen = parts["scores"][last.key], parts["chosen"]
    chapter, latest = parts["gains"][-1] if parts["gains"] else (last, {})
    return {
        "lead": summary.lead(last, scores),
        "scores": summary.stacking(last, scores),
        "pseudo": summary.pseudo(last.run, chosen[-1].classes if chosen else None, latest.get(chapter.answer)),
        "trust": summary.probabilities(last, scores),
        "classes": summary.wrong(last),
        "time": summary.time([one for own in parts["spent"].values() for one in own], parts["pieces"]),
    }


@dataclass(frozen=True)
class View:
    """What the answers say of one split's tracks with known labels; `pairs` are truth, answer, how many of how many."""

    split: str
    tracks: int
    table: np.ndarray
    classes: list[analysis.ClassScore]
    pairs: list[tuple[str, str, int, int]]
    calibration: Calibration
    sureness: str
    picture: str


def _view(chapter: Chapter, split: str) -> View:
    rows, names = chapter.judged.rows(split), chapter.run.class_names
    probs, labels = chapter.judged.answers[rows], chapter.judged.labels[rows]
    table, found = analysis.counts(chapter, split), calibration_curve(probs, labels)
    most = MOST_PAIRS if len(names) <= MOST_CLASSES else MANY_PAIRS
    pairs = [(names[t], names[a], int(table[t, a]), int(table[t].sum())) for t, a in analysis.confused(table, most)]
    scores, words = analysis.class_scores(table, names), summary.sureness(probs, labels)
    return View(split, len(rows), table, scores, pairs, found, words, plots.reliability(found))


@dataclass(frozen=True)
class Chosen:
    """The pseudo labels that a round chose for the next one."""

    number: int
    classes: list[analysis.PseudoClass]
    total: analysis.PseudoClass


def _pseudo(run: Run) -> list[Chosen]:
    found = {number: analysis.pseudo_classes(run, number) for number in range(1, len(run.recipe.rounds))}
    return [Chosen(number, own, analysis.total(own)) for number, own in found.items() if own is not None]


def _gains(chapters: list[Chapter]) -> list[tuple[Chapter, dict]]:
    """Rounds with pseudo labels, the last one last, and what changed in them against the same without."""
    with_labels, without = ({c.number: c for c in chapters if c.run.without_pseudo == plain} for plain in (False, True))
    pairs = [(with_labels[number], without[number]) for number in sorted(with_labels.keys() & without.keys())]
    changes = [(chapter, analysis.compare(other.judged, chapter.judged)) for chapter, other in pairs]
    return [(chapter, found) for chapter, found in changes if found]


def _mistakes(
    chapter: Chapter,
) -> list[tuple[error_analysis.Mistake, error_analysis.Window, error_analysis.Heard]] | None:
    """None where predictions were deleted, which know the windows."""
    run = chapter.run
    if not all(run.predictions_path(job).exists() for job in run.jobs(chapter.number)):
        return None
    found = error_analysis.worst(chapter.judged)
    chosen = error_analysis.windows(run, chapter.number, found)
    return list(zip(found, chosen, error_analysis.hear(run, chosen), strict=True))


def scale(scores: dict) -> float:
    """Where the bars of a table of scores begin: the tenth below the lowest interval; they end at 1."""
    lowest = min((own["interval"][0] for cells in scores.values() for own in cells.values()), default=0.0)
    return min(0.9, math.floor(10 * lowest) / 10)


def place(share: float, low: float) -> str:
    """Where a share stands on a bar that begins at `low`, for CSS."""
    return f"{100 * (share - low) / (1 - low):.1f}%"


def rate(amount: float, seconds: float) -> str:
    """How many a second, in about three figures."""
    value = amount / max(seconds, 1e-9)
    return f"{value:,.{0 if value >= 100 else 1 if value >= 10 else 2}f}"
