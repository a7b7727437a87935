"""The part of one file that a track needs to a summary of it: rate, channels, length, silence, content, fingerprint."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from melgpu.audio import fingerprint, remote, worker
from melgpu.audio.blocks import header_duration_s
from melgpu.errors import InputError

MIN_SAMPLE_RATE = 8_000  # Hz; a fingerprint needs it
SILENCE_LEVEL = 1e-4  # -80 dB of full scale
HASHED_BYTES = 1 << 16  # of a file's head, middle and end each


@dataclass(frozen=True)
class FileSummary:
    """Properties of a file, from as much of it as a track needs.

    error : what is wrong with the file, None if nothing is; the same that training finds
    source_rate : in Hz, 0 where nothing could be decoded
    channels : 0 likewise
    length_s : by its headers, None where that is implausible
    is_silent : whether it never exceeds `SILENCE_LEVEL`
    content : hash that is equal for files of equal content; empty for a file with an error
    fingerprint : of the first `fingerprint.EXCERPT_S`, shape (F,) uint32, see `melgpu.audio.fingerprint`
    """

    error: str | None
    source_rate: int
    channels: int
    length_s: float | None
    is_silent: bool
    content: str
    fingerprint: np.ndarray


def inspect_file(path: str, sample_rate: int, track_s: float, min_s: float) -> FileSummary:
    """Decode a file as a track of `track_s` at `sample_rate`, where that is at least `MIN_SAMPLE_RATE`."""
    rate = max(sample_rate, MIN_SAMPLE_RATE)
    try:
        with remote.local_copy(path) as local_path:
            audio = worker.read_track(local_path, rate, track_s, min_s)
            content = "" if audio.error else _content_hash(local_path)
            length_s = None if audio.error else header_duration_s(local_path)
    except (OSError, InputError) as error:  # of the download, or the file was removed meanwhile
        return FileSummary(str(error), 0, 0, None, False, "", np.empty(0, np.uint32))
    is_silent = len(audio.wave) > 0 and bool(np.abs(audio.wave).max() < SILENCE_LEVEL)
    excerpt = audio.wave[: round(fingerprint.EXCERPT_S * rate)]
    sub_fingerprints = fingerprint.fingerprint(excerpt, rate)
    return FileSummary(audio.error, audio.source_rate, audio.channels, length_s, is_silent, content, sub_fingerprints)


def _content_hash(path: Path) -> str:
    """A hash of a file's size, head, middle and end."""
    size = os.stat(path).st_size
    digest = hashlib.blake2b(str(size).encode(), digest_size=16)
    with open(path, "rb") as file:
        for offset in (0, size // 2, max(0, size - HASHED_BYTES)):
            file.seek(offset)
            digest.update(file.read(HASHED_BYTES))
    return digest.hexdigest()
