"""A CSV of tracks to the cells that melgpu uses: names of files, labels, artists, folds, ids of a submission.

All cells are text, without the white space around them. What is used and what is ignored is told in `notes`.
"""

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from melgpu.data.lists import separators
from melgpu.data.lists.columns import Columns, find_columns, separator_score
from melgpu.data.lists.separators import SEPARATORS, Row
from melgpu.errors import InputError, printable

INVISIBLE_CATEGORIES = ("Cc", "Cf", "Zl", "Zp", "Zs")  # of Unicode: control, format, separators
MAX_NAME_CHARS = 4096  # no path is longer
MAX_CELL_CHARS = 1000  # of labels and of the other cells that are used


class Track(NamedTuple):
    """The cells of one row, without white space around them."""

    name: str
    label: str
    group: str
    fold: str
    id: str


@dataclass(frozen=True)
class TrackList:
    """The columns of a CSV, each of N cells; those that it does not have are empty texts."""

    names: list[str]
    labels: list[str]
    groups: list[str]
    folds: list[str]
    ids: list[str]
    locations: list[str]  # file and line, for error messages
    notes: list[str]


def read_tracks(source: Path, labelled: bool, fold_column: str | None = None) -> TrackList:
    """The tracks of a CSV; where `labelled`, each needs a label, and a fold if there is a `fold_column`.

    Raises InputError with all malformed rows.
    """
    separator, rows = separators.read_rows(source, lambda row: separator_score(row, labelled))
    if not rows:
        raise InputError(f"{source}: the file is empty")
    columns, rows, notes = find_columns(source, rows, labelled, fold_column)
    if separator != ",":
        notes = [f"{source}: separated by {SEPARATORS[separator]}", *notes]
    return _select_cells(source, rows, columns, labelled, notes)


def _select_cells(source: Path, rows: list[Row], columns: Columns, labelled: bool, notes: list[str]) -> TrackList:
    tracks = TrackList([], [], [], [], [], [], notes)
    problems = []
    seen_ids: dict[str, str] = {}
    for line, row in rows:
        location = f"{source}, line {line}"
        if len(row) != columns.width:
            cells = printable(",".join(row))
            problems.append(f"{location}: {len(row)} fields instead of {columns.width}: {cells}")
            continue
        track = _track(row, columns)
        problems += [f"{location}: {problem}" for problem in _track_problems(track, columns, labelled)]
        if columns.id is not None and seen_ids.setdefault(track.id, location) != location:
            problems.append(f"{location}: the id {printable(track.id)} is listed twice (first: {seen_ids[track.id]})")
        tracks.names.append(track.name)
        tracks.labels.append(track.label)
        tracks.groups.append(track.group)
        tracks.folds.append(track.fold)
        tracks.ids.append(track.id)
        tracks.locations.append(location)
    if problems:
        raise InputError(problems)
    return tracks


def _track(row: list[str], columns: Columns) -> Track:
    def cell(column: int | None) -> str:
        return "" if column is None else row[column].strip()

    return Track(
        row[columns.file].strip(), cell(columns.label), cell(columns.group), cell(columns.fold), cell(columns.id)
    )


def _track_problems(track: Track, columns: Columns, labelled: bool) -> Iterator[str]:
    """What no file name and no label can be, and what is missing."""
    if not track.name:
        yield "no name of a file"
    together = "".join(track)
    if "\0" in together or len(together) > MAX_CELL_CHARS:  # seldom: a list may have millions of rows
        yield from _odd_cells(track)
    if labelled and not is_visible(track.label):
        yield f"{printable(track.name)} has no label"
    if columns.fold is not None and not is_visible(track.fold):
        yield f"{printable(track.name)} has no fold"
    if columns.id is not None and not is_visible(track.id):
        yield f"{printable(track.name)} has no id"


def _odd_cells(track: Track) -> Iterator[str]:
    for cell, limit in zip(track, (MAX_NAME_CHARS, *(MAX_CELL_CHARS,) * 4), strict=True):
        if "\0" in cell:
            yield f"a NUL character in {printable(cell)}"
        if len(cell) > limit:
            yield f"a text of {len(cell):,} characters, where {limit:,} are allowed: {printable(cell, 40)}"


def is_visible(text: str) -> bool:
    """Whether a text has a character that can be seen."""
    return any(unicodedata.category(character) not in INVISIBLE_CATEGORIES for character in text)
