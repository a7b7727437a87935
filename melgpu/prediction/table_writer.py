"""Rows of predicted files to a file: CSV, lines of JSON, or Parquet (with pyarrow, an optional dependency).

A file is written atomically, some rows at a time, so that a table of any length needs little memory. Probabilities are
float32; they and `used_s` have six and three decimals in CSV.
"""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from types import ModuleType
from typing import IO, Any, Protocol

from melgpu import files
from melgpu.errors import InputError

CLASS_PREFIX = "p:"  # of the columns of classes, so that none has the name of another column
MAX_GROUP_ROWS = 2**16  # of a Parquet file
METADATA_KEY = b"melgpu"  # of the metadata in a Parquet file

Cell = str | float | int | datetime | None
Columns = Mapping[str, Sequence[Cell]]  # by name; None is an empty cell


class TableWriter(Protocol):
    """An open table."""

    def write(self, columns: Columns) -> None:
        """Add rows; `columns` have the names and the order of the table."""


def import_pyarrow(path: Path) -> ModuleType:
    """pyarrow, with pyarrow.parquet; InputError where it is not installed, so that `path` cannot be written."""
    try:
        import pyarrow.parquet
    except ImportError:
        raise InputError(f"{path}: Parquet files need pyarrow: pip install 'melgpu[parquet]'") from None
    return pyarrow


@contextmanager
def open_table(
    out: Path, names: Sequence[str], metadata: str, group_rows: int = MAX_GROUP_ROWS
) -> Iterator[TableWriter]:
    """A writer of rows to `out`, in the format of its suffix, which is renamed to `out` if the block succeeds.

    `metadata`, JSON, goes into a Parquet file, whose groups have about `group_rows` rows; the other formats have no
    place for it.
    """
    suffix = out.suffix.lower()
    with files.atomic_write(out) as temporary:
        if suffix == ".parquet":
            pyarrow = import_pyarrow(out)
            schema = _schema(pyarrow, names, metadata)
            with open(temporary, "wb") as file, pyarrow.parquet.ParquetWriter(file, schema) as parquet:
                parquet_table = _ParquetTable(pyarrow, schema, parquet, group_rows)
                yield parquet_table
                parquet_table.flush()
            return
        with open(temporary, "w", newline="", encoding="utf-8") as text_file:
            yield _CsvTable(text_file, names) if suffix == ".csv" else _JsonTable(text_file)


class _CsvTable:
    def __init__(self, file: IO[str], names: Sequence[str]):
        self._writer = csv.writer(file)
        self._writer.writerow(names)

    def write(self, columns: Columns) -> None:
        for cells in zip(*columns.values(), strict=True):
            self._writer.writerow([_csv_text(name, cell) for name, cell in zip(columns, cells, strict=True)])


def _csv_text(name: str, cell: Cell) -> str:
    if isinstance(cell, float):
        return f"{cell:.3f}" if name == "used_s" else f"{cell:.6f}"
    if isinstance(cell, datetime):
        return cell.isoformat()
    return "" if cell is None else str(cell)


class _JsonTable:
    def __init__(self, file: IO[str]):
        self._file = file

    def write(self, columns: Columns) -> None:
        for cells in zip(*columns.values(), strict=True):
            values = [_json_value(cell) for cell in cells]
            line = json.dumps(dict(zip(columns, values, strict=True)), ensure_ascii=False)
            self._file.write(f"{line}\n")


def _json_value(cell: Cell) -> Cell:
    if isinstance(cell, float):
        return round(cell, 6)
    return cell.isoformat() if isinstance(cell, datetime) else cell


class _ParquetTable:
    def __init__(self, pyarrow: ModuleType, schema: Any, parquet: Any, group_rows: int):
        self._pyarrow = pyarrow
        self._schema = schema
        self._parquet = parquet
        self._group_rows = group_rows
        self._waiting: list[Any] = []  # tables, until they are a group: who reads the file holds something of each
        self._num_waiting = 0

    def write(self, columns: Columns) -> None:
        arrays = [self._pyarrow.array(columns[field.name], field.type) for field in self._schema]
        self._waiting.append(self._pyarrow.table(arrays, self._schema))
        self._num_waiting += len(self._waiting[-1])
        if self._num_waiting >= self._group_rows:
            self.flush()

    def flush(self) -> None:
        """Write the rows that wait."""
        if self._num_waiting:
            self._parquet.write_table(self._pyarrow.concat_tables(self._waiting), row_group_size=self._num_waiting)
            self._waiting = []
            self._num_waiting = 0


def _schema(pyarrow: ModuleType, names: Sequence[str], metadata: str) -> Any:
    """Text, except for numbers and times; probabilities are float32."""
    types = dict.fromkeys(("path", "label", "error"), pyarrow.string())
    types |= {"used_s": pyarrow.float64(), "size": pyarrow.int64()}
    types["mtime"] = pyarrow.timestamp("ms", tz="UTC")  # Parquet has no timestamps in seconds
    fields = [(name, types.get(name, pyarrow.float32())) for name in names]
    return pyarrow.schema(fields, {METADATA_KEY: metadata})
