"""CSV files whose first line names the columns: written whole, read with care."""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from melgpu import files
from melgpu.errors import InputError, brief


def write(path: Path, columns: Sequence[str], rows: Iterable[Sequence]) -> None:
    """Replace the file as a whole, or leave it as it was."""
    with files.replacing(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns])
        csv.writer(file).writerows(rows)


@contextmanager
def reading(path: Path, what: str, columns: Sequence[str] | None = None) -> Iterator[tuple[list[str], list[list[str]]]]:
    """The columns' names and the lines below them, for a block that makes `what` of them, from known columns or any.

    Raises InputError where the file, or anything that the block finds in it, is wrong: it is not `what`.
    """
    try:
        header, *rows = csv.reader(io.StringIO(files.read_text(path), newline=""))
        if columns and tuple(header) != tuple(columns):
            raise ValueError(f"its columns are {', '.join(header)}")
        yield header, rows
    except (OSError, ValueError, OverflowError, csv.Error) as error:
        raise InputError(f"{path}: not {what}: {brief(error)}") from None
