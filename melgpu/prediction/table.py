"""The table of predicted files, one row each: as CSV, Parquet (with pyarrow, an optional dependency) or lines of JSON.

Columns: path, or URL; label; confidence, the probability of the most likely class; `p:CLASS` for each class, in the
run's order; error; used_s, the seconds of audio that were used; size in bytes and mtime, in whole seconds (UTC), of
local files. A file without usable audio has an error and 0 used seconds, but no label, confidence and probabilities.
"""

import contextlib
import csv
import io
import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from melgpu import files
from melgpu.audio import blocks
from melgpu.audio.quarantine import AudioError, has_usable_audio
from melgpu.audio.remote import is_url
from melgpu.errors import InputError, one_line
from melgpu.models.schema import Schema
from melgpu.prediction.table_writer import CLASS_PREFIX, Cell, import_pyarrow, open_table

SUFFIXES = (".csv", ".parquet", ".jsonl")
UNSURE = "unsure"  # in place of a label below the minimum confidence
COLUMNS_BEFORE = ("path", "label", "confidence")  # the columns of the classes,
COLUMNS_AFTER = ("error", "used_s", "size", "mtime")  # and after them
EMBEDDING_COLUMNS = ["path", "error", "vector"]  # of `embedding.write_embeddings`
MAX_HEADER_CHARS = 2**24  # enough for 10,000 classes with long names


class RunDigests(Schema):
    """What all predictions of a run depend on: recipe, checkpoints and stacks; `run` is of all together."""

    run: str
    recipe: str
    checkpoints: tuple[str, ...]
    stacks: tuple[str, ...]


class TableMetadata(Schema):
    """What a Parquet table says about itself; of a list in parts also its hash and the part."""

    digests: RunDigests
    list_sha256: str | None = None
    part: int | None = None
    parts: int | None = None


@dataclass(frozen=True)
class FileStatus:
    """Size in bytes and time of modification (UTC, whole seconds); None where a file has none, as a URL."""

    size: int | None
    mtime: datetime | None


@dataclass(frozen=True)
class PredictionTable:
    """Predictions of N files.

    paths (N,); class_names (C,); probs (N, C) float32, without meaning where there is no usable audio; errors (N,);
    used_s (N,), None where it is not known; statuses (N,); a label with a confidence below `min_confidence` is `unsure`
    """

    paths: Sequence[str]
    class_names: Sequence[str]
    probs: np.ndarray
    errors: Sequence[AudioError | None]
    used_s: Sequence[float | None]
    statuses: Sequence[FileStatus]
    min_confidence: float = 0.0

    @property
    def usable(self) -> np.ndarray:
        """Which files have usable audio, shape (N,) bool."""
        return np.array([has_usable_audio(error) for error in self.errors], bool)

    @property
    def confidences(self) -> np.ndarray:
        """The probability of the most likely class, shape (N,)."""
        return self.probs.max(axis=1)

    @property
    def labels(self) -> list[str | None]:
        """The most likely class of each file, or `unsure`; None where there is no usable audio."""
        is_unsure = self.confidences < self.min_confidence
        predicted = zip(self.probs.argmax(axis=1).tolist(), is_unsure.tolist(), strict=True)
        return self._of_usable([UNSURE if unsure else self.class_names[index] for index, unsure in predicted])

    def columns(self) -> dict[str, Sequence[Cell]]:
        """The cells of each column, by its name; None is an empty cell."""
        columns: dict[str, Sequence[Cell]] = {"path": self.paths, "label": self.labels}
        columns["confidence"] = self._of_usable(self.confidences.tolist())
        for name, class_probs in zip(self.class_names, self.probs.T.tolist(), strict=True):
            columns[CLASS_PREFIX + name] = self._of_usable(class_probs)
        columns["error"] = [_as_utf8(error.reason) if error else None for error in self.errors]
        columns["used_s"] = self.used_s
        columns["size"] = [status.size for status in self.statuses]
        columns["mtime"] = [status.mtime for status in self.statuses]
        return columns

    def _of_usable(self, cells: Iterable) -> list:
        """The cells of files with usable audio; None for the others."""
        return [cell if usable else None for cell, usable in zip(cells, self.usable.tolist(), strict=True)]


def _as_utf8(text: str) -> str:
    """A text that can be written: the message of a system in another encoding may have lone surrogates."""
    return text.encode(errors="replace").decode()


def file_status(path: str) -> FileStatus:
    """The status of a file; of a URL, or where there is no file, one of None."""
    if not is_url(path):
        # OSError: there is no file. The others: its name or its time has no representation in Python.
        with contextlib.suppress(OSError, ValueError, OverflowError):
            status = os.stat(path)
            return FileStatus(status.st_size, datetime.fromtimestamp(status.st_mtime_ns // 10**9, UTC))
    return FileStatus(None, None)


def used_seconds(path: str, audio_error: AudioError | None, track_s: float) -> float | None:
    """How many seconds of a file's audio were used, `track_s` at most; of an intact file by its header's duration.

    None for an intact URL, and where the header claims no plausible duration.
    """
    duration_s = None
    if audio_error:
        duration_s = audio_error.usable_s
    elif not is_url(path):
        with contextlib.suppress(Exception):  # it may be gone by now, and each format has its own errors
            duration_s = blocks.header_duration_s(Path(path))
    return None if duration_s is None else min(duration_s, track_s)


def check_out(out: Path) -> None:
    """Raise InputError where `write_table` cannot write `out`, or would replace a file that it has not written."""
    _check_replaceable(out, "--out", SUFFIXES, _is_table)


def check_embed(out: Path) -> None:
    """Raise InputError where embeddings cannot be written to `out`, or would replace another file than such."""
    _check_replaceable(out, "--embed", (".parquet",), lambda names: names == EMBEDDING_COLUMNS)


def _check_replaceable(out: Path, flag: str, suffixes: Sequence[str], is_own: Callable[[list[str]], bool]) -> None:
    """`is_own` tells by the names of its columns whether an existing file may be replaced."""
    if out.suffix.lower() not in suffixes:
        raise InputError(f"{flag} {out}: give it the suffix of a format: {', '.join(suffixes)}")
    if out.suffix.lower() == ".parquet":
        import_pyarrow(out)
    if out.is_dir():
        raise InputError(f"{flag} {out}: a folder; name a file in it")
    if not out.exists():
        return
    try:
        names = _read_columns(out)
        if not is_own(names):
            raise ValueError(f"its columns are {', '.join(names)}")
    except (OSError, ValueError, RuntimeError, csv.Error) as error:  # pyarrow's are among them
        kind = f"an earlier result of this script, which alone {flag} may replace"
        raise InputError(f"{out}: not {kind}: {one_line(error)}") from None


def column_names(class_names: Iterable[str]) -> list[str]:
    """The names of a table's columns."""
    return [*COLUMNS_BEFORE, *(CLASS_PREFIX + name for name in class_names), *COLUMNS_AFTER]


def _is_table(names: list[str]) -> bool:
    """Whether these are the columns of a table, of this or another run's classes."""
    classes = names[len(COLUMNS_BEFORE) : -len(COLUMNS_AFTER)]
    is_complete = names == [*COLUMNS_BEFORE, *classes, *COLUMNS_AFTER]
    return is_complete and all(name.startswith(CLASS_PREFIX) for name in classes)


def _read_columns(path: Path) -> list[str]:
    """The names of the columns of a file in the format of its suffix. Each format raises its own errors."""
    files.check_regular_file(path)
    if path.suffix.lower() == ".parquet":
        with open(path, "rb") as file:
            return import_pyarrow(path).parquet.read_schema(file).names
    with open(path, encoding="utf-8", newline="") as text_file:
        beginning = text_file.read(MAX_HEADER_CHARS)
    if path.suffix.lower() == ".csv":
        return next(csv.reader(io.StringIO(beginning, newline="")), [])
    row = json.loads(beginning.split("\n", 1)[0])
    if not isinstance(row, dict):
        raise ValueError("its lines are no JSON objects")
    return list(row)


def write_table(out: Path, table: PredictionTable, metadata: TableMetadata) -> None:
    """Write a table, atomically, in the format of the suffix of `out`, one of SUFFIXES."""
    columns = table.columns()
    with open_table(out, list(columns), metadata.model_dump_json()) as writer:
        writer.write(columns)
