"""Which files are broken, why, and how much of each was saved: the record that a run keeps of them."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from melgpu import files
from melgpu.errors import InputError

COLUMNS = ("file", "reason", "usable_s")


@dataclass(frozen=True)
class AudioError:
    """What is wrong with a file; `salvaged_s` of its beginning are in use, 0 where nothing is."""

    path: str
    reason: str
    usable_s: float

    @property
    def unusable(self) -> bool:
        return self.usable_s == 0

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


def record_errors(path: Path, audio_errors: Iterable[AudioError]) -> None:
    """Add flaws to the record in a file; what it says of the same files is replaced. No flaws, no file."""
    known = {audio_error.path: audio_error for audio_error in load_errors(path)}
    found = known | {audio_error.path: audio_error for audio_error in audio_errors}
    if found == known:
        return
    rows = (
        (audio_error.path, audio_error.reason, f"{audio_error.usable_s:.1f}")
        for _, audio_error in sorted(found.items())
    )
    files.write_csv(path, COLUMNS, rows)


def load_errors(path: Path) -> list[AudioError]:
    """What `note` wrote; nothing where there is no file. Raises InputError for a foreign one."""
    if not path.exists():
        return []
    with files.read_csv(path, "a quarantine", COLUMNS) as (_, rows):
        return [AudioError(name, reason, float(salvaged_s)) for name, reason, salvaged_s in rows]


def check_error_rate(audio_errors: dict[str, AudioError], num_files: int, max_fraction: float) -> None:
    """Raise InputError where more than a fraction of all files is broken."""
    if len(audio_errors) > max_fraction * num_files:
        problem = (
            f"{len(audio_errors)} of {num_files} files are broken, "
            f"more than loader.max_error_fraction = {max_fraction:g} allows"
        )
        raise InputError([*map(str, audio_errors.values()), problem])


def summarize(audio_errors: list[AudioError], path: Path) -> str:
    """One line for the reader."""
    kept = sum(not audio_error.unusable for audio_error in audio_errors)
    return f"{len(audio_errors)} broken files in quarantine, {kept} of them used up to their flaw: {path}"
