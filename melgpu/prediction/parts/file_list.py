"""The list of files and URLs that is predicted in parts: one a line, or a column of a CSV or Parquet file.

A list is read row by row, from its beginning each time, so that its length costs no memory. Its identity is the hash of
the file. Relative paths start at the current directory.
"""

import csv
import hashlib
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from melgpu import files
from melgpu.audio.walk import is_utf8
from melgpu.data.lists.columns import FILE_COLUMNS, find_file_column, header_file_column
from melgpu.data.lists.track_list import MAX_NAME_CHARS
from melgpu.errors import InputError, one_line, printable
from melgpu.models import schema
from melgpu.models.schema import Schema
from melgpu.prediction.table_writer import import_pyarrow

SUFFIXES = (".txt", ".csv", ".parquet")
HEAD_BYTES = 2**20  # of a CSV, in which its first two rows are
MAX_LINE_BYTES = 4 * MAX_NAME_CHARS  # in UTF-8
MAX_PARTS = 100_000  # part-00000 to part-99999
MAX_NAMED = 20  # problems of a list in a message
ROWS_AT_ONCE = 8192  # of a Parquet file

NumberedName = tuple[int, str]  # of the line, or of the row in a Parquet file; and the path or URL


class FrozenList(Schema):
    """What is frozen beside a list: its hash, its number of rows, and of parts, where that is settled."""

    sha256: str
    rows: schema.NonNegative
    parts: schema.Count | None = None


@dataclass(frozen=True)
class FileList:
    """A list of files: its path, hash and number of rows; the number of parts, where that is frozen beside it."""

    path: Path
    sha256: str
    rows: int
    parts: int | None

    def part(self, index: int, num_parts: int, first: int = 0) -> Iterator[str]:
        """Rows `index`, `index` + `num_parts`, ... from the `first` of them on."""
        names = (name for _, name in numbered_names(self.path))
        return itertools.islice(names, index + first * num_parts, None, num_parts)

    def part_rows(self, index: int, num_parts: int) -> int:
        """The number of rows of a part."""
        return len(range(index, self.rows, num_parts))


def frozen_path(path: Path) -> Path:
    """The file beside a list that says what is frozen."""
    return path.with_name(f"{path.name}.frozen.json")


def freeze(path: Path, rows: int, parts: int | None) -> None:
    """Settle a list as it is now, and perhaps its number of parts."""
    frozen = FrozenList(sha256=_hash(path), rows=rows, parts=parts)
    files.write_text(frozen_path(path), frozen.model_dump_json(indent=1) + "\n")


def open_list(path: Path) -> FileList:
    """A list, whose rows are checked unless it is frozen as it is. Raises InputError with its first problems."""
    if path.is_dir():
        freezing = "--write-list tracks.txt writes the list of its files"
        raise InputError(f"--list {path}: a folder: {freezing}, which is then split into parts")
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"--list {path}: give it the suffix of a format: {', '.join(SUFFIXES)}")
    try:
        if not path.exists():
            raise FileNotFoundError("no such file")
        files.check_regular_file(path)
        sha256 = _hash(path)
    except OSError as error:
        raise InputError(f"--list {path}: {error.strerror or error}") from None
    if frozen_path(path).exists():
        frozen = schema.read_json(FrozenList, frozen_path(path))
        if frozen.sha256 != sha256:
            raise InputError(
                f"{path}: it has changed since it was frozen: write another list, or delete {frozen_path(path)}"
            )
        return FileList(path, sha256, frozen.rows, frozen.parts)
    return FileList(path, sha256, _checked_rows(path), None)


def _hash(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _checked_rows(path: Path) -> int:
    """The number of rows. Raises InputError."""
    problems: list[str] = []
    count = 0
    for line, name in numbered_names(path):
        count += 1
        reason = _name_problem(name)
        if reason and len(problems) < MAX_NAMED:
            problems.append(f"{path}, line {line}: {reason}: {printable(name, 80)!r}")
    if problems:
        raise InputError(problems)
    if not count:
        raise InputError(f"{path}: the list is empty")
    return count


def _name_problem(name: str) -> str | None:
    """Why a name can be no file's, or cannot be written to a table."""
    if not name.strip():
        return "no name of a file"
    if "\0" in name:
        return "a NUL character"
    if len(name) > MAX_NAME_CHARS:
        return f"{len(name):,} characters, where {MAX_NAME_CHARS:,} are allowed"
    return None if is_utf8(name) else "not UTF-8"


def numbered_names(path: Path) -> Iterator[NumberedName]:
    """The rows of a list, without blank ones. Raises InputError."""
    suffix = path.suffix.lower()
    if suffix == ".txt":
        return _text_names(path)
    return _csv_names(path) if suffix == ".csv" else _parquet_names(path)


def _text_names(path: Path) -> Iterator[NumberedName]:
    with open(path, "rb") as file:
        for line in itertools.count(1):
            data = file.readline(MAX_LINE_BYTES + 1)
            if not data:
                return
            if len(data) > MAX_LINE_BYTES:
                raise InputError(f"{path}, line {line}: more than {MAX_LINE_BYTES:,} bytes: not a list of files")
            encoding = "utf-8-sig" if line == 1 else "utf-8"  # editors write a byte order mark
            # Of other bytes lone surrogates, which a check of the rows finds.
            name = data.decode(encoding, "surrogateescape").removesuffix("\n").removesuffix("\r")
            if name.strip():
                yield line, name


def _csv_names(path: Path) -> Iterator[NumberedName]:
    with open(path, newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
        found = find_file_column(path, file.read(HEAD_BYTES))
        file.seek(0)
        reader = csv.reader(file, delimiter=found.separator, skipinitialspace=True, strict=True)
        try:
            for row in reader:
                if reader.line_num > found.lines_above and any(row):
                    yield reader.line_num, row[found.column] if found.column < len(row) else ""
        except csv.Error as error:
            raise InputError(f"{path}, line {reader.line_num}: cannot be read as CSV ({one_line(error)})") from None


def _parquet_names(path: Path) -> Iterator[NumberedName]:
    pyarrow = import_pyarrow(path)
    try:
        # With buffers filled ahead all that was read would stay in memory.
        with pyarrow.parquet.ParquetFile(path, pre_buffer=False) as parquet:
            names = parquet.schema_arrow.names
            first = next(parquet.iter_batches(1), None)
            if first is None:
                raise InputError(f"{path}: the list is empty")
            cells = [str(column[0].as_py()) for column in first.columns]
            column = header_file_column(path, names, cells)
            batches = parquet.iter_batches(ROWS_AT_ONCE, columns=[names[column]])
            rows = itertools.chain.from_iterable(batch.column(0).to_pylist() for batch in batches)
            for row, name in enumerate(rows, start=1):
                yield row, name if isinstance(name, str) else ""
    except pyarrow.ArrowException as error:
        raise InputError(f"{path}: cannot be read as Parquet: {one_line(error)}") from None


def write_list(path: Path, names: Iterable[str]) -> None:
    """Write a list, atomically, one a line, or as a CSV with a column `path`."""
    with files.atomic_write(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        if path.suffix.lower() == ".txt":
            file.writelines(f"{name}\n" for name in names)
            return
        writer = csv.writer(file, quoting=csv.QUOTE_ALL)  # spaces at either end of a name are kept
        writer.writerow([FILE_COLUMNS[-1]])
        writer.writerows([name] for name in names)
