"""A CSV with any of the usual separators to its rows: commas, semicolons, tabs, vertical bars."""

import csv
import io
import itertools
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from melgpu import files
from melgpu.errors import InputError, one_line, printable

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")

Row = tuple[int, list[str]]  # the number of the line that it ends on, and its cells


def read_rows(source: Path, score: Callable[[list[str]], int]) -> tuple[str, list[Row]]:
    """The separator and the rows of a CSV in UTF-8, without blank ones. Raises InputError."""
    return split_rows(source, _read_text(source), score)


def split_rows(
    source: Path, text: str, score: Callable[[list[str]], int], max_rows: int | None = None
) -> tuple[str, list[Row]]:
    """The separator and the first rows of a CSV's text, without blank ones.

    The separator is what Excel's first line `sep=;` names, or else the one with the highest `score` of the first row.
    Raises InputError.
    """
    separator, text, lines_above = _split_separator_line(source, text)
    if separator is None:
        separator = _detect(text, score)
    rows = []
    lines = _Lines(text, separator)
    try:
        for line, row in itertools.islice(lines, max_rows):
            rows.append((lines_above + line, row))
    except csv.Error as error:
        raise InputError(
            f"{source}, line {lines_above + lines.line}: cannot be read as CSV ({one_line(error)}): a cell that begins "
            "with a quotation mark ends with one, and those within it are doubled"
        ) from None
    return separator, rows


def _read_text(source: Path) -> str:
    try:
        return files.read_text(source).lstrip("\ufeff")  # spreadsheets write a byte order mark
    except UnicodeDecodeError as error:
        encoding = "it is UTF-16" if error.object[:2] in UTF16_MARKS else str(error)
        raise InputError(f"{source}: cannot be read as CSV in UTF-8 ({encoding}): save it in UTF-8") from None
    except OSError as error:
        raise InputError(f"{source}: cannot be read as CSV: {error.strerror or error}") from None


def _split_separator_line(source: Path, text: str) -> tuple[str | None, str, int]:
    """The separator that a first line `sep=;` names, the text below it, and the number of lines above that."""
    line, _, below = text.partition("\n")
    match = re.fullmatch(r'"?sep=(.?)"?\r?', line, re.IGNORECASE)
    if not match:
        return None, text, 0
    if match.group(1) not in SEPARATORS:
        raise InputError(f"{source}, line 1: {printable(line)} names none of {', '.join(SEPARATORS.values())}")
    return match.group(1), below, 1


def _detect(text: str, score: Callable[[list[str]], int]) -> str:
    """The separator with the highest score of the first row; of several, one that makes rows of equal length."""
    scores = {separator: _score_first(text, separator, score) for separator in SEPARATORS}
    best = [separator for separator in SEPARATORS if scores[separator] == max(scores.values())]
    if len(best) > 1 and any(scores.values()):
        best.sort(key=lambda separator: not _is_rectangular(text, separator))  # stable: commas come first
    return best[0]


def _score_first(text: str, separator: str, score: Callable[[list[str]], int]) -> int:
    try:
        return next((score(row) for _, row in _Lines(text, separator)), 0)
    except csv.Error:
        return 0


def _is_rectangular(text: str, separator: str) -> bool:
    try:
        return len({len(row) for _, row in _Lines(text, separator)}) == 1
    except csv.Error:
        return False


class _Lines:
    """The rows of a text that are not blank. Raises csv.Error; `line` is then the number of the line."""

    def __init__(self, text: str, separator: str):
        lines = io.StringIO(text, newline="")  # csv interprets the line ends itself
        # Spaces in front of a quotation mark would make it a part of the cell.
        self._reader = csv.reader(lines, delimiter=separator, skipinitialspace=True, strict=True)

    @property
    def line(self) -> int:
        return self._reader.line_num

    def __iter__(self) -> Iterator[Row]:
        for row in self._reader:
            if any(cell.strip() for cell in row):
                yield self.line, row
