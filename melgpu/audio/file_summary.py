"""The part of one file that a track needs to a summary of it: rate, channels, length, silence, fingerprint."""

from dataclasses import dataclass

import numpy as np

from melgpu.audio import fingerprint, remote, worker
from melgpu.audio.blocks import header_duration_s
from melgpu.audio.quarantine import AudioError
from melgpu.audio.worker import CheckedFile
from melgpu.errors import InputError

SILENCE_LEVEL = 1e-4  # -80 dB of full scale


@dataclass(frozen=True)
class FileSummary:
    """Properties of a file, from as much of it as a track needs.

    checked : its audio error and fingerprint, the same that training finds
    source_rate : in Hz, 0 where nothing could be decoded
    channels : 0 likewise
    length_s : by its headers, None where that is implausible
    is_silent : whether it never exceeds `SILENCE_LEVEL`
    """

    checked: CheckedFile
    source_rate: int
    channels: int
    length_s: float | None
    is_silent: bool

    @property
    def error(self) -> str | None:
        """What is wrong with the file, None if nothing is."""
        return self.checked.error.reason if self.checked.error else None


def unreadable(path: str, reason: str) -> FileSummary:
    """The summary of a file of which nothing is known but why."""
    return FileSummary(CheckedFile(AudioError(path, reason, 0.0), fingerprint.NONE), 0, 0, None, False)


def inspect_file(path: str, sample_rate: int, num_samples: int, min_s: float) -> FileSummary:
    """Decode a file as a track of `num_samples` at `sample_rate`."""
    try:
        with remote.local_copy(path) as local_path:
            audio = worker.read_track(local_path, sample_rate, num_samples / sample_rate, min_s)
            length_s = None if audio.error else header_duration_s(local_path)
    except (OSError, InputError) as error:  # of the download, or the file was removed meanwhile
        return unreadable(path, str(error))
    is_silent = len(audio.wave) > 0 and bool(np.abs(audio.wave).max() < SILENCE_LEVEL)
    checked = worker.checked_file(path, sample_rate, num_samples, audio)
    return FileSummary(checked, audio.source_rate, audio.channels, length_s, is_silent)
