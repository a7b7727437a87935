"""Which files are broken, why, and how much of each was saved: the record that a run keeps of them."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from melgpu import files
from melgpu.errors import InputError

COLUMNS = ("file", "reason", "salvaged_s")


@dataclass(frozen=True)
class Flaw:
    """What is wrong with a file; `salvaged_s` of its beginning are in use, 0 where nothing is."""

    path: str
    reason: str
    salvaged_s: float

    @property
    def is_lost(self) -> bool:
        return self.salvaged_s == 0

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


def note(path: Path, flaws: Iterable[Flaw]) -> None:
    """Add flaws to the record in a file; what it says of the same files is replaced. No flaws, no file."""
    known = {flaw.path: flaw for flaw in load(path)}
    found = known | {flaw.path: flaw for flaw in flaws}
    if found == known:
        return
    rows = ((flaw.path, flaw.reason, f"{flaw.salvaged_s:.1f}") for _, flaw in sorted(found.items()))
    files.write_csv(path, COLUMNS, rows)


def load(path: Path) -> list[Flaw]:
    """What `note` wrote; nothing where there is no file. Raises InputError for a foreign one."""
    if not path.exists():
        return []
    with files.read_csv(path, "a quarantine", COLUMNS) as (_, rows):
        return [Flaw(name, reason, float(salvaged_s)) for name, reason, salvaged_s in rows]


def refuse_many(flaws: dict[str, Flaw], num_files: int, most: float) -> None:
    """Raise InputError where more than a share `most` of all files is broken."""
    if len(flaws) > most * num_files:
        problem = f"{len(flaws)} of {num_files} files are broken, more than stream.max_broken_share = {most:g} allows"
        raise InputError([*map(str, flaws.values()), problem])


def summary(flaws: list[Flaw], path: Path) -> str:
    """One line for the reader."""
    kept = sum(not flaw.is_lost for flaw in flaws)
    return f"{len(flaws)} broken files in quarantine, {kept} of them used up to their flaw: {path}"
