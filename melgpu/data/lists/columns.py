"""The rows of a CSV to what its columns are: files, labels, artists, folds, ids of a submission.

A header is detected; a list without one has files and labels in its first two columns.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from melgpu.audio.remote import file_suffix, is_url
from melgpu.audio.walk import AUDIO_SUFFIXES
from melgpu.data.lists import separators
from melgpu.data.lists.separators import Row
from melgpu.errors import InputError, printable

FILE_COLUMNS = ("file", "filename", "path")
WEAK_FILE_COLUMNS = ("id", "track", "name")  # name the files where none of FILE_COLUMNS does
ID_COLUMN = "id"
LABEL_COLUMNS = ("label", "class", "genre", "category")
GROUP_COLUMN = "artist"
FOLD_COLUMN = "fold"  # noted where it is not asked for
MAX_NAMED = 10  # columns in a message


@dataclass(frozen=True)
class Columns:
    """Which cell of a row is what, counted from 0; None where the list does not have it."""

    width: int
    file: int
    label: int | None = None
    group: int | None = None
    fold: int | None = None
    id: int | None = None


class FileColumn(NamedTuple):
    """The separator of a CSV, the column of its files, counted from 0, and the number of lines above its first file."""

    separator: str
    column: int
    lines_above: int


def find_columns(
    source: Path, rows: list[Row], labelled: bool, fold_column: str | None
) -> tuple[Columns, list[Row], list[str]]:
    """The columns of a list, its rows without the header, and notes on what is used and ignored. Raises InputError."""
    _, first = rows[0]
    header = _header(first)
    if not header:
        columns = _first_columns(source, rows[0], labelled, fold_column)
        note = f"{source} has no header: file and label are its first two columns, the others are ignored"
        notes = [note] if columns.width > 2 else []
        return columns, rows, notes
    if len(rows) == 1:
        raise InputError(f"{source}: a header and no rows")
    columns = _named_columns(source, header, rows[1:], labelled, fold_column)
    return columns, rows[1:], _column_notes(source, header, columns, labelled)


def find_file_column(source: Path, head: str) -> FileColumn:
    """Where the files are in a CSV, by its beginning, which holds the first two rows. Raises InputError."""
    separator, rows = separators.split_rows(source, head, lambda row: separator_score(row, labelled=False), max_rows=2)
    if not rows:
        raise InputError(f"{source}: the file is empty")
    line, first = rows[0]
    header = _header(first)
    if not header:
        return FileColumn(separator, _first_columns(source, rows[0], False, None).file, line - 1)
    if len(rows) == 1:
        raise InputError(f"{source}: a header and no rows")
    return FileColumn(separator, _file_column(source, header, rows[1:]), line)


def header_file_column(source: Path, names: list[str], first_row: list[str]) -> int:
    """The column of the files in a table of named columns. Raises InputError."""
    header = _header(["", *names])[1:]
    if not header:
        raise InputError(f"{source}: none of its columns is named {' or '.join(FILE_COLUMNS + WEAK_FILE_COLUMNS)}")
    return _file_column(source, header, [(1, first_row)])


def separator_score(row: list[str], labelled: bool) -> int:
    """0 where a first row, as some separator splits it, names no file, 1 where no label, 2 otherwise."""
    header = _header(row)
    if not header and not _is_audio(row[0]):
        return 0
    has_label = any(name in LABEL_COLUMNS for name in header) if header else len(row) > 1
    return 2 if has_label or not labelled else 1


def _is_audio(cell: str) -> bool:
    name = cell.strip()
    return is_url(name) or file_suffix(name) in AUDIO_SUFFIXES


def _header(row: list[str]) -> list[str]:
    """The names of the columns, in lower case; empty where the row is no header."""
    names = [cell.strip().lower() for cell in row]
    is_header = not any(map(_is_audio, row[:1])) and any(name in FILE_COLUMNS + WEAK_FILE_COLUMNS for name in names)
    return names if is_header else []


def _first_columns(source: Path, row: Row, labelled: bool, fold_column: str | None) -> Columns:
    """The columns of a list without a header, as the competition's: file and label."""
    line, cells = row
    if not _is_audio(cells[0]):
        names = " or ".join(FILE_COLUMNS + WEAK_FILE_COLUMNS)
        raise InputError(
            f"{source}, line {line}: {printable(cells[0])!r} is neither an audio file nor a header with a column "
            f"named {names}"
        )
    if labelled and len(cells) < 2:
        raise InputError(f"{source}, line {line}: no column of labels ({', '.join(LABEL_COLUMNS)})")
    if labelled and fold_column:
        raise InputError(f"{source}: folds.column is {fold_column}, and the list has no header that names its columns")
    return Columns(len(cells), 0, 1 if len(cells) > 1 else None)


def _named_columns(
    source: Path, header: list[str], rows: list[Row], labelled: bool, fold_column: str | None
) -> Columns:
    file = _file_column(source, header, rows)
    label = _label_column(source, header, rows)
    if labelled and label is None:
        raise InputError(f"{source}: no column of labels ({', '.join(LABEL_COLUMNS)}) among {_listed(header)}")
    fold = None
    if labelled and fold_column:
        fold = _position(header, fold_column.lower())
        if fold is None:
            raise InputError(f"{source}: no column {fold_column}, which folds.column names, among {_listed(header)}")
    # Of a training list no submission is written.
    submission_id = None if labelled else _position(header, ID_COLUMN)
    return Columns(
        width=len(header),
        file=file,
        label=label,
        group=_position(header, GROUP_COLUMN),
        fold=fold,
        id=None if submission_id == file else submission_id,
    )


def _position(header: list[str], name: str) -> int | None:
    return header.index(name) if name in header else None


def _file_column(source: Path, header: list[str], rows: list[Row]) -> int:
    """The column of files; of several possible ones that in which the first row has an audio file."""
    candidates = [column for column, name in enumerate(header) if name in FILE_COLUMNS]
    if not candidates:
        candidates = [column for column, name in enumerate(header) if name in WEAK_FILE_COLUMNS]
    if len(candidates) == 1:
        return candidates[0]
    _, first = rows[0]
    of_audio = [column for column in candidates if column < len(first) and _is_audio(first[column])]
    if len(of_audio) != 1:
        names = " and ".join(header[column] for column in candidates)
        raise InputError(f"{source}: the columns {names} could all name the files: rename those that do not")
    return of_audio[0]


def _label_column(source: Path, header: list[str], rows: list[Row]) -> int | None:
    candidates = [column for column, name in enumerate(header) if name in LABEL_COLUMNS]
    if len(candidates) > 1 and any(_differ(row, candidates) for _, row in rows):
        names = " and ".join(header[column] for column in candidates)
        raise InputError(f"{source}: the columns {names} could all be the labels: rename those that are not")
    return candidates[0] if candidates else None


def _differ(row: list[str], columns: list[int]) -> bool:
    return len({row[column].strip() for column in columns if column < len(row)}) > 1


def _column_notes(source: Path, header: list[str], columns: Columns, labelled: bool) -> list[str]:
    """What is used of a list that has more columns than that; empty where nothing is ignored."""
    uses = {"files": columns.file, "labels": columns.label, "artists": columns.group, "folds": columns.fold}
    uses["ids of the submission"] = columns.id
    used = {column: use for use, column in uses.items() if column is not None}
    ignored = [name for column, name in enumerate(header) if name and column not in used]
    if not ignored:
        return []
    named = ", ".join(f"{use} from {printable(header[column])}" for column, use in used.items())
    notes = [f"{source}: {named}; ignored: {_listed(ignored)}"]
    if labelled and FOLD_COLUMN in ignored:
        notes.append(f"{source} has a column {FOLD_COLUMN}: --set folds.column={FOLD_COLUMN} takes the folds from it")
    return notes


def _listed(names: list[str]) -> str:
    """Names of columns in a message."""
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return ", ".join(printable(name, 40) for name in names[:MAX_NAMED]) + more
