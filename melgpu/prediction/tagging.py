"""Predicted labels to the genre tags of the music files: what would be written, or what was.

A file keeps its tags where its genre is the label already, in whatever spelling, where the label is `unsure`, and where
the file has an error.
"""

import errno
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from rich.box import SIMPLE
from rich.markup import escape
from rich.table import Table

from melgpu import console
from melgpu.audio.remote import is_url
from melgpu.data.lists.sources import folded_label
from melgpu.errors import InputError, one_line, printable
from melgpu.prediction.table import UNSURE, PredictionTable, file_status
from melgpu.tags import containers, edit
from melgpu.tags.containers import SUFFIXES
from melgpu.tags.labels import clean_genres

MAX_NAMED = 10  # classes in a message


class TagWriting(StrEnum):
    """What becomes of predicted labels in the tags of files."""

    SHOW = "show"  # which would be written
    WRITE = "write"


@dataclass(frozen=True)
class TagChange:
    """A genre that a file gets, and those that it has."""

    path: str
    genre: str
    confidence: float
    old_genres: tuple[str, ...]


def requested(write_tags: bool | None, yes: bool | None) -> TagWriting | None:
    """What the flags of these names ask for. Raises InputError where tags cannot be read and written here."""
    if yes and not write_tags:
        raise InputError("--yes has the tags written that --write-tags shows: give both")
    if not write_tags:
        return None
    containers.import_mutagen()
    return TagWriting.WRITE if yes else TagWriting.SHOW


def check_classes(class_names: Sequence[str]) -> None:
    """Raise InputError where programs that read tags would take a class for another genre: `17` is Rock in ID3."""
    ambiguous = [name for name in class_names if clean_genres([name]) != [name]]
    if ambiguous:
        named = ", ".join(printable(name, 40) for name in ambiguous[:MAX_NAMED])
        raise InputError(
            f"--write-tags: {len(ambiguous)} of this run's classes, as a genre tag, would be read as other genres or "
            f"none ({named}): train on other names"
        )


def write_tags(
    predictions: PredictionTable, tags: TagWriting, save: Callable[[PredictionTable], None] | None = None
) -> list[str]:
    """Show the changes of genre tags, and write them where that is wanted; returns the problems with files.

    Each file is replaced as a whole. `save`, if given, writes the table again, with their new sizes and times: it still
    describes the files that it names.
    """
    changes, kept, problems = plan(predictions)
    console.show(change_table(changes))
    if kept:
        console.say("genre tags that stay: " + ", ".join(f"{count:,} {reason}" for reason, count in kept.items()))
    summary = f"{console.counted(len(changes), 'genre tag')} to write; nothing was written: --yes writes them"
    if tags is TagWriting.WRITE:
        failed = _write(changes)
        problems += failed
        summary = f"{console.counted(len(changes) - len(failed), 'genre tag')} written"
        if save:
            save(_with_statuses(predictions, changes))
    for problem in problems:
        console.say(f"error: {problem}")
    console.say(summary)
    return problems


def _with_statuses(predictions: PredictionTable, changes: Sequence[TagChange]) -> PredictionTable:
    """The table with the sizes and times of the changed files as they are now."""
    changed = {change.path for change in changes}
    pairs = zip(predictions.paths, predictions.statuses, strict=True)
    statuses = [file_status(path) if path in changed else status for path, status in pairs]
    return replace(predictions, statuses=statuses)


def plan(predictions: PredictionTable) -> tuple[list[TagChange], Counter[str], list[str]]:
    """The changes; how many files keep their tags, by reason; problems of files whose tags cannot be read."""
    changes = []
    kept: Counter[str] = Counter()
    problems = []
    rows = zip(predictions.paths, predictions.labels, predictions.confidences.tolist(), predictions.errors, strict=True)
    for path, label, confidence, error in rows:
        reason = _reason_to_keep(path, label, error is not None, predictions.min_confidence)
        if reason:
            kept[reason] += 1
            continue
        try:
            old_genres = clean_genres(containers.open_tags(path).genres)
        except (InputError, OSError) as problem:
            problems.append(f"{path}: {_reason(problem)}")
            continue
        if list(map(folded_label, old_genres)) == [folded_label(str(label))]:
            kept["with this genre already"] += 1
        else:
            changes.append(TagChange(path, str(label), confidence, tuple(old_genres)))
    return changes, kept, problems


def _reason_to_keep(path: str, label: str | None, has_error: bool, min_confidence: float) -> str | None:
    if is_url(path):
        return "at URLs"
    if has_error or label is None:
        return "with errors"
    if min_confidence and label == UNSURE:
        return f"below a confidence of {min_confidence:g}"
    if not path.lower().endswith(SUFFIXES):
        return f"of other formats than {', '.join(SUFFIXES)}"
    return None


def _write(changes: Sequence[TagChange]) -> list[str]:
    """Write changes, one file after another; returns the problems. A full disk ends it: no other file would fit."""
    problems = []
    with console.progress(f"writing genre tags of {len(changes)} files", len(changes), "files") as tracker:
        for change in changes:
            try:
                edit.write_genre(change.path, change.genre, change.confidence)
            except (InputError, OSError) as error:
                if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                    raise
                problems.append(f"{change.path}: {_reason(error)}")
            tracker.advance(1, Path(change.path).name)
    return problems


def _reason(error: InputError | OSError) -> str:
    return getattr(error, "strerror", None) or one_line(error)


def change_table(changes: Sequence[TagChange]) -> Table:
    """Each file with the genres that it has, and the one that it gets."""
    table = Table("genre tag of", "now", "predicted", "confidence", box=SIMPLE)
    for change in changes:
        old_genres = escape("; ".join(change.old_genres))
        table.add_row(escape(change.path), old_genres, escape(change.genre), f"{change.confidence:.2f}")
    return table
