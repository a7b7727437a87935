"""The quarantine: a CSV file of the audio files with errors, with the reason and the usable duration of each."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from melgpu import files
from melgpu.errors import InputError

COLUMNS = ("file", "reason", "usable_s")


@dataclass(frozen=True)
class AudioError:
    """The error of an audio file; the `usable_s` before it are used, 0 if there is no usable audio."""

    path: str
    reason: str
    usable_s: float

    @property
    def unusable(self) -> bool:
        return self.usable_s == 0

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


def has_usable_audio(audio_error: AudioError | None) -> bool:
    """Whether a file with this error, or with none, has audio that is used."""
    return audio_error is None or not audio_error.unusable


def record_errors(path: Path, audio_errors: Iterable[AudioError]) -> None:
    """Add errors to a quarantine file; earlier errors of the same audio files are replaced. Without errors, no file."""
    recorded = {audio_error.path: audio_error for audio_error in load_errors(path)}
    updated = recorded | {audio_error.path: audio_error for audio_error in audio_errors}
    if updated == recorded:
        return
    _write_errors(path, updated.values())


def _write_errors(path: Path, audio_errors: Iterable[AudioError]) -> None:
    in_order = sorted(audio_errors, key=lambda audio_error: audio_error.path)
    rows = [(audio_error.path, audio_error.reason, f"{audio_error.usable_s:.1f}") for audio_error in in_order]
    files.write_csv(path, COLUMNS, rows)


def rename_files(path: Path, new_paths: Mapping[str, str]) -> None:
    """Replace the paths of files that were moved, in a quarantine file, if there is one."""
    audio_errors = load_errors(path)
    if audio_errors:
        renamed = [replace(error, path=new_paths.get(error.path, error.path)) for error in audio_errors]
        _write_errors(path, renamed)


def load_errors(path: Path) -> list[AudioError]:
    """The errors that `record_errors` wrote; none if there is no file. Raises InputError for a malformed one."""
    if not path.exists():
        return []
    with files.read_csv(path, "a quarantine file", COLUMNS) as (_, rows):
        return [AudioError(audio_path, reason, float(usable_s)) for audio_path, reason, usable_s in rows]


def check_error_rate(audio_errors: dict[str, AudioError], num_files: int, max_fraction: float) -> None:
    """Raise InputError if more than a fraction of all files has errors."""
    if len(audio_errors) > max_fraction * num_files:
        problem = (
            f"{len(audio_errors)} of {num_files} files have errors, "
            f"more than loader.max_error_fraction = {max_fraction:g} allows"
        )
        raise InputError([*map(str, audio_errors.values()), problem])


def summarize(audio_errors: list[AudioError], path: Path) -> str:
    """One line for the console."""
    num_usable = sum(not audio_error.unusable for audio_error in audio_errors)
    return f"{len(audio_errors)} files with errors in quarantine, {num_usable} of them used up to the error: {path}"
