"""Tables of predicted files, CSV or Parquet, to their rows, some at a time, and to what they say about themselves."""

import csv
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path

import numpy as np

from melgpu import files
from melgpu.errors import InputError, one_line
from melgpu.models import schema
from melgpu.prediction.table import TableMetadata
from melgpu.prediction.table_writer import METADATA_KEY, Cell, import_pyarrow

TEXT_COLUMNS = ("path", "label", "error")

Row = tuple[Cell, ...]
Select = Callable[[Sequence[str]], np.ndarray]


def read_metadata(path: Path) -> TableMetadata:
    """What a Parquet table says about itself. Raises InputError."""
    pyarrow = import_pyarrow(path)
    try:
        files.check_regular_file(path)
        with open(path, "rb") as file:
            text = (pyarrow.parquet.read_schema(file).metadata or {}).get(METADATA_KEY)
        if text is None:
            raise ValueError("it does not say by which run it was made")
        return TableMetadata.model_validate_json(text)
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise InputError(f"{path}: not a table of predictions: {schema.describe_error(error)}") from None


def read_rows(path: Path, names: Sequence[str], rows_at_once: int, select: Select | None = None) -> Iterator[Row]:
    """The rows of a table whose columns are `names`, of which so many are in memory. Raises InputError.

    `select` tells of the paths of some rows of a Parquet file, shape (N,) bool, which are wanted.
    """
    try:
        files.check_regular_file(path)
        if path.suffix.lower() == ".parquet":
            yield from _parquet_rows(path, names, rows_at_once, select)
        else:
            yield from _csv_rows(path, names)
    except (OSError, ValueError, csv.Error) as error:  # pyarrow's are among them
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: not a table of these predictions: {one_line(error)}") from None


def _check_columns(names: Sequence[str], expected: Sequence[str]) -> None:
    if list(names) != list(expected):
        raise ValueError(f"its columns are {', '.join(names)}")


def _parquet_rows(path: Path, names: Sequence[str], rows_at_once: int, select: Select | None) -> Iterator[Row]:
    pyarrow = import_pyarrow(path)
    try:
        # With buffers filled ahead all that was read would stay in memory.
        with pyarrow.parquet.ParquetFile(path, pre_buffer=False) as parquet:
            _check_columns(parquet.schema_arrow.names, names)
            for batch in parquet.iter_batches(rows_at_once):
                if select:  # before the cells become objects, which is what takes time
                    batch = batch.filter(pyarrow.array(select(batch.column(0).to_pylist())))
                yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)
    except pyarrow.ArrowException as error:
        raise ValueError(one_line(error)) from None


def _csv_rows(path: Path, names: Sequence[str]) -> Iterator[Row]:
    parsers = [_parser(name) for name in names]
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.reader(file, strict=True)
        _check_columns(next(reader, []), names)
        for cells in reader:
            yield tuple(parse(cell) if cell else None for parse, cell in zip(parsers, cells, strict=True))


def _parser(name: str) -> Callable[[str], Cell]:
    """What makes a cell of its text in a CSV."""
    if name in TEXT_COLUMNS:
        return str
    if name == "mtime":
        return datetime.fromisoformat
    return int if name == "size" else float
