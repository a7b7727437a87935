"""Wall time of a run's stages, appended to a CSV in the run folder.

Training is not in it: the training logs have the times of epochs.
"""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path

from melgpu import files
from melgpu.errors import InputError

TEACHER_SPEED = "predicting some tracks by the teacher"
STUDENT_SPEED = "predicting some tracks by the student"


@dataclass(frozen=True)
class StageTiming:
    """Wall time of one stage of a round: `amount` of `unit` in `seconds`; `amount` 0 if unknown, `ended` in UTC."""

    ended: str
    round: int
    stage: str
    seconds: float
    amount: int
    unit: str


COLUMNS = tuple(field.name for field in fields(StageTiming))


@contextmanager
def measure(path: Path, round_number: int, stage: str, amount: int, unit: str) -> Iterator[None]:
    """Record the wall time of the block in the CSV at `path`; nothing if the block raises."""
    started = time.monotonic()
    yield
    record(path, round_number, stage, time.monotonic() - started, amount, unit)


def record(path: Path, round_number: int, stage: str, seconds: float, amount: int, unit: str) -> None:
    """Append the timing of a stage that has just ended; a malformed CSV is replaced, so that it cannot stop a run."""
    try:
        timings = load(path)
    except InputError:
        timings = []
    ended = datetime.now(UTC).isoformat(timespec="seconds")
    timing = StageTiming(ended, round_number, stage, round(seconds, 3), amount, unit)  # to ms
    files.write_csv(path, COLUMNS, map(astuple, [*timings, timing]))  # anew, since only whole files are atomic


def load(path: Path) -> list[StageTiming]:
    """All timings recorded so far; an empty list without a file. Raises InputError for a malformed one."""
    if not path.exists():
        return []
    with files.read_csv(path, "a table of timings", COLUMNS) as (_, rows):
        timings = [
            StageTiming(ended, int(round_number), stage, float(seconds), int(amount), unit)
            for ended, round_number, stage, seconds, amount, unit in rows
        ]
        if not all(0 <= timing.seconds < math.inf and timing.amount >= 0 for timing in timings):
            raise ValueError("a negative or infinite value")
    return timings


def find(path: Path, stage: str) -> StageTiming | None:
    """The latest timing of a stage; None where there is none, or the file is malformed."""
    try:
        timings = load(path)
    except InputError:
        return None
    return next((timing for timing in reversed(timings) if timing.stage == stage), None)
