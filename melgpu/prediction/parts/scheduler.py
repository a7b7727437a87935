"""Which part of how many a process predicts: as the command line says, or by the index that a scheduler gives it."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from melgpu.errors import InputError
from melgpu.prediction.parts.file_list import MAX_PARTS

FLAG = "--part"
SLURM_INDEX = "SLURM_ARRAY_TASK_ID"
INDICES = (SLURM_INDEX, "JOB_COMPLETION_INDEX", "RANK")  # of Slurm's arrays, Kubernetes' Indexed Jobs, torchrun


@dataclass(frozen=True)
class Part:
    """Part `index`, counted from 0, of `count`; `source` is the flag or variable that says so."""

    index: int
    count: int
    source: str = FLAG

    def __str__(self) -> str:
        return f"part {self.index} of {self.count}"


def choose_part(
    flag: str | None, count: int | None, frozen_counts: Mapping[str, int], environ: Mapping[str, str] = os.environ
) -> Part:
    """The part by `--part I/N`, or else by a scheduler's index; its number of parts by the first that has one.

    count : of `--parts`; frozen_counts : by the file that holds them, in the order in which they count

    Raises InputError where there is none, or where numbers contradict each other.
    """
    if flag:
        index, flag_count = _parsed(flag)
        if count and count != flag_count:
            raise InputError(f"--part {flag} and --parts {count}: give one of them")
        part = Part(index, flag_count)
    else:
        source = next((name for name in INDICES if environ.get(name, "").isdecimal()), None)
        if not source:
            raise InputError(f"--part I/N is needed: none of {', '.join(INDICES)} is set")
        counts = [count, *frozen_counts.values(), _scheduler_count(source, environ)]
        known = next((known for known in counts if known), None)
        if not known:
            raise InputError(
                f"{source}={environ[source]}: of how many parts? Give --parts N, or write the list with "
                "--write-list and --parts"
            )
        part = Part(int(environ[source]), known, source)
    for file, frozen in frozen_counts.items():
        if frozen != part.count:
            raise InputError(f"{part}, from {part.source}: {file} has {frozen} parts: give this number")
    return _checked(part)


def _parsed(flag: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", flag, re.ASCII)
    if not match:
        raise InputError(f"--part {flag}: not I/N, as 0/8 to 7/8")
    return int(match.group(1)), int(match.group(2))


def _scheduler_count(source: str, environ: Mapping[str, str]) -> int | None:
    """The number of a scheduler's tasks, where their indices are 0 to one less."""
    if source == "RANK":
        return int(environ.get("WORLD_SIZE", "0")) or None
    if source != SLURM_INDEX:
        return None
    # An array that repairs some parts, as --array=3,7-9, has another count than the list has parts.
    first, last, count = (environ.get(f"SLURM_ARRAY_TASK_{name}", "") for name in ("MIN", "MAX", "COUNT"))
    is_whole = first == "0" and count.isdecimal() and last == str(int(count) - 1)
    return int(count) if is_whole else None


def _checked(part: Part) -> Part:
    check_count(part.count)
    if part.index >= part.count:
        raise InputError(f"{part}, from {part.source}: parts are counted from 0 to {part.count - 1}")
    return part


def check_count(count: int) -> None:
    """Raise InputError for a number of parts that cannot be."""
    if not 1 <= count <= MAX_PARTS:
        raise InputError(f"{count} parts; expected 1 to {MAX_PARTS:,}")
