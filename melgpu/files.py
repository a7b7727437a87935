"""Files that are whole or absent: text, CSV and named arrays, written beside their place, synced, then renamed into it.

What is read is checked before it is used: regular files only, of bounded size, of the columns or arrays expected.
"""

import csv
import io
import os
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from melgpu.errors import InputError, one_line

MAX_COMPRESSION = 200  # of a file of arrays; more would be a small file that fills the memory

ArraySchema = Mapping[str, tuple[str, int]]  # by name: kind of numpy dtype, number of axes


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A temporary path to write to; becomes `path` if the block succeeds, is deleted if it fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_text(path: Path, max_bytes: int = 2**30) -> str:
    """A regular file's text, its line ends as they are.

    Raises UnicodeDecodeError, and OSError for a file of more than `max_bytes` or one that is not regular.
    """
    check_regular_file(path)
    if path.stat().st_size > max_bytes:
        raise OSError(f"{path}: larger than {max_bytes} bytes")
    with open(path, newline="", encoding="utf-8") as file:
        return file.read()


def check_regular_file(path: Path) -> None:
    """Raise OSError for pipes, devices and folders, which a stranger's folder may hold in a file's place."""
    if path.exists() and not path.is_file():
        raise OSError(f"{path}: not a regular file")


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence]) -> None:
    """Replace a CSV file as a whole, or leave it as it was; `columns` are its header."""
    with atomic_write(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(rows)


@contextmanager
def read_csv(
    path: Path, kind: str, columns: Sequence[str] | None = None
) -> Iterator[tuple[list[str], list[list[str]]]]:
    """The header and the rows of a CSV file, for a block that parses them; `columns`, if given, must be its header.

    Raises InputError, "not {kind}", where the file, or anything that the block finds in it, is wrong.
    """
    try:
        header, *rows = csv.reader(io.StringIO(read_text(path), newline=""))
        if columns and tuple(header) != tuple(columns):
            raise ValueError(f"its columns are {', '.join(header)}")
        yield header, rows
    except (OSError, ValueError, OverflowError, csv.Error) as error:
        raise InputError(f"{path}: not {kind}: {one_line(error)}") from None


def save_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Replace a compressed .npz file as a whole, or leave it as it was."""
    with atomic_write(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **arrays)


def load_arrays(path: Path, schema: ArraySchema) -> dict[str, np.ndarray]:
    """The arrays of a .npz file that `schema` names; pickled ones are refused.

    Raises ValueError where one has another dtype or number of axes; zipfile, zlib and numpy raise their own.
    """
    check_regular_file(path)
    with zipfile.ZipFile(path) as members:
        size = sum(member.file_size for member in members.infolist())
    if size > MAX_COMPRESSION * path.stat().st_size + 2**24:
        raise ValueError("a small file of huge arrays")
    with np.load(path, allow_pickle=False) as members:
        arrays = {name: members[name] for name in schema}
    for name, expected in schema.items():
        array = arrays[name]
        if not isinstance(array, np.ndarray) or (array.dtype.kind, array.ndim) != expected:
            raise ValueError(f"{name} has another dtype or shape")
    return arrays


def check_probabilities(probs: np.ndarray) -> None:
    """Raise ValueError where an array holds values outside [0, 1], or NaN."""
    if not ((probs >= 0) & (probs <= 1.001)).all():
        raise ValueError("values that are no probabilities")
