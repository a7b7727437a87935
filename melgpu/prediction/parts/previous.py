"""An earlier table of the same run to the answers for files that have not changed since, which are copied.

A file has changed where its size or its time of modification, in whole seconds, has. One without usable audio then is
tried again: it may be readable by now. Of a URL only the name counts.
"""

import contextlib
import json
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path

import numpy as np

from melgpu.audio.quarantine import AudioError
from melgpu.audio.remote import is_url
from melgpu.errors import InputError
from melgpu.prediction.parts.part_log import Answers
from melgpu.prediction.parts.table_reader import Row, read_metadata, read_rows
from melgpu.prediction.table import COLUMNS_AFTER, COLUMNS_BEFORE, FileStatus, RunDigests, column_names

ROWS_AT_ONCE = 4096

Answer = tuple[np.ndarray, AudioError | None, float | None]  # probs (C,) float32, error, used_s


def check_previous(path: Path, digests: RunDigests) -> None:
    """Raise InputError where a table was not made by the run of these digests."""
    if path.suffix.lower() != ".parquet":
        raise InputError(f"--previous {path}: not a .parquet, which alone says by which run it was made")
    if not path.exists():
        raise InputError(f"--previous {path}: no such file")
    made_by = read_metadata(path).digests
    if made_by != digests:
        raise InputError(
            f"--previous {path}: made by another run, or by networks that have changed since: leave --previous out"
        )


class PreviousAnswers(contextlib.AbstractContextManager):
    """The rows of an earlier table for the files of a part, in a temporary file; 8 bytes a file are in memory."""

    def __init__(self, path: Path, class_names: Sequence[str], wanted: Iterable[str], num_wanted: int):
        """`wanted` are the paths of a part. Raises InputError for a table of other classes."""
        self._temporary = tempfile.TemporaryDirectory(prefix="melgpu-")
        self._rows = sqlite3.connect(str(Path(self._temporary.name) / "rows"))
        self._rows.execute("CREATE TABLE rows (path TEXT PRIMARY KEY, cells TEXT) WITHOUT ROWID")
        # The table has the rows of all parts: most are dropped by a hash, so that no set of paths is in memory.
        hashes = np.sort(_hashes(wanted, num_wanted))
        rows = read_rows(path, column_names(class_names), ROWS_AT_ONCE, lambda paths: _are_in(hashes, paths))
        self._rows.executemany("INSERT OR REPLACE INTO rows VALUES (?, ?)", map(_as_stored, rows))

    def __exit__(self, *exc: object) -> None:
        self._rows.close()
        self._temporary.cleanup()

    def find(self, path: str, status: FileStatus) -> Answer | None:
        """The answer for a file, unless it is new, has changed, or was unusable."""
        stored = self._rows.execute("SELECT cells FROM rows WHERE path = ?", (path,)).fetchone()
        if stored is None:
            return None
        probs, error, used_s, size, mtime = json.loads(stored[0])
        is_same = is_url(path) or (status.size is not None and [status.size, _isoformat(status.mtime)] == [size, mtime])
        if not is_same or probs[0] is None:
            return None
        audio_error = AudioError(path, error, used_s or 0.0) if error else None
        return np.array(probs, np.float32), audio_error, used_s


def _hashes(paths: Iterable[str], count: int) -> np.ndarray:
    return np.fromiter(map(hash, paths), np.int64, count)


def _are_in(hashes: np.ndarray, paths: Sequence[str]) -> np.ndarray:
    """Which paths have one of the sorted `hashes`, shape (N,) bool: all that are wanted, and by chance some others."""
    values = _hashes(paths, len(paths))
    positions = np.searchsorted(hashes, values)
    return hashes[np.minimum(positions, len(hashes) - 1)] == values


def _as_stored(row: Row) -> tuple[str, str]:
    path, cells = row[0], row[len(COLUMNS_BEFORE) :]
    *probs, error, used_s, size, mtime = cells
    assert len(COLUMNS_AFTER) == 4
    return str(path), json.dumps([probs, error, used_s, size, _isoformat(mtime)])


def _isoformat(time: object) -> str | None:
    return time.isoformat() if isinstance(time, datetime) else None


def split_known(
    paths: Sequence[str], statuses: Sequence[FileStatus], previous: PreviousAnswers | None
) -> tuple[dict[int, Answer], list[int]]:
    """The answers that are known, by position in `paths`, and the positions of the files to predict."""
    known = {}
    for position, (path, status) in enumerate(zip(paths, statuses, strict=True)):
        answer = previous.find(path, status) if previous else None
        if answer:
            known[position] = answer
    return known, [position for position in range(len(paths)) if position not in known]


def merge_answers(
    known: dict[int, Answer], new: Answers, positions: Sequence[int], statuses: Sequence[FileStatus]
) -> Answers:
    """The answers for all files: the known ones, and the new ones at their positions."""
    num_classes = new.probs.shape[1]
    probs = np.zeros((len(statuses), num_classes), np.float32)
    errors: list[AudioError | None] = [None] * len(statuses)
    used_s: list[float | None] = [None] * len(statuses)
    answers = dict(known)
    answers.update(zip(positions, _rows_of(new), strict=True))
    for position, answer in answers.items():
        probs[position], errors[position], used_s[position] = answer
    return Answers(probs, errors, used_s, statuses)


def _rows_of(answers: Answers) -> Iterator[Answer]:
    return zip(answers.probs, answers.errors, answers.used_s, strict=True)
