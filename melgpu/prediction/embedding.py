"""Embeddings of music files, and tables of them in Parquet (with pyarrow, an optional dependency).

An embedding is what the networks' heads get, averaged over the windows of a file: similar music has similar vectors.
"""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from melgpu import files
from melgpu.prediction.table_writer import import_pyarrow

ROW_GROUP_SIZE = 1024  # embeddings that are in memory while they are written


@dataclass(frozen=True, eq=False)  # eq=False: arrays have no truth value
class Embedding:
    """The embedding of a file.

    path : as it was given; of a file in a folder, with the folder
    vector : shape (D,), float32, the pooled features of each network, one after another; None without usable audio
    error : what is wrong with the file; with a vector, the file was used up to the error; None if nothing is wrong
    """

    path: str
    vector: np.ndarray | None
    error: str | None


def write_embeddings(path: Path, embeddings: Iterable[Embedding]) -> None:
    """Write a Parquet file atomically, with the columns path, error, and vector, a list of float32.

    Bytes of a path that are not UTF-8 are escaped. Raises InputError where pyarrow is not installed.
    """
    pyarrow = import_pyarrow(path)
    types = {"path": pyarrow.string(), "error": pyarrow.string(), "vector": pyarrow.list_(pyarrow.float32())}
    schema = pyarrow.schema(types)
    remaining = iter(embeddings)
    with (
        files.atomic_write(path) as temporary,
        open(temporary, "wb") as file,
        pyarrow.parquet.ParquetWriter(file, schema) as writer,
    ):
        while rows := list(itertools.islice(remaining, ROW_GROUP_SIZE)):
            columns = [
                [_as_utf8(row.path) for row in rows],
                [row.error and _as_utf8(row.error) for row in rows],
                [row.vector for row in rows],
            ]
            arrays = [pyarrow.array(cells, cell_type) for cells, cell_type in zip(columns, types.values(), strict=True)]
            writer.write_table(pyarrow.table(arrays, schema))


def _as_utf8(text: str) -> str:
    return text.encode(errors="backslashreplace").decode()
