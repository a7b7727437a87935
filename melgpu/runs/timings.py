"""What a run spent its time on: a line for each piece of work done, added to a CSV in its folder.

Networks' training is not in it: their logs say that (see `spent`).
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


@dataclass(frozen=True)
class StageTiming:
    """`amount` of `unit` done in `seconds` of a round's stage, 0 where it is not known; `ended` is a time, UTC."""

    ended: str
    round: int
    stage: str
    seconds: float
    amount: int
    unit: str


COLUMNS = tuple(field.name for field in fields(StageTiming))


@contextmanager
def measure(path: Path, round_number: int, stage: str, amount: int, unit: str) -> Iterator[None]:
    """Add how long the block took to the record at `path`; nothing where it fails."""
    started = time.monotonic()
    yield
    record(path, round_number, stage, time.monotonic() - started, amount, unit)


def record(path: Path, round_number: int, stage: str, seconds: float, amount: int, unit: str) -> None:
    """Add a piece of work that has just ended; a damaged record is begun anew, for it is worth less than the work."""
    try:
        known = load(path)
    except InputError:
        known = []
    ended = datetime.now(UTC).isoformat(timespec="seconds")
    piece = StageTiming(ended, round_number, stage, round(seconds, 3), amount, unit)
    files.write_csv(path, COLUMNS, map(astuple, [*known, piece]))


def load(path: Path) -> list[StageTiming]:
    """What was measured so far; nothing where there is no file. Raises InputError for a damaged or foreign one."""
    if not path.exists():
        return []
    with files.read_csv(path, "a record of times", COLUMNS) as (_, rows):
        pieces = [StageTiming(e, int(n), stage, float(s), int(amount), unit) for e, n, stage, s, amount, unit in rows]
        if not all(0 <= piece.seconds < math.inf and piece.amount >= 0 for piece in pieces):
            raise ValueError("a time or an amount that is none")
    return pieces
