"""The first seconds of one file to a summary of it: rate, channels, length, silence, content, fingerprint."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from melgpu.audio import fingerprint, remote
from melgpu.audio.decode import header_duration_s, read_audio

SAMPLE_RATE = 8_000  # Hz; a fingerprint needs no more
SILENCE_LEVEL = 1e-4  # -80 dB of full scale
HASHED_BYTES = 1 << 16  # of a file's head, middle and end each


@dataclass(frozen=True)
class FileSummary:
    """Properties of a file, from its first `fingerprint.EXCERPT_S`.

    error : what is wrong with the file, None if nothing is
    source_rate : in Hz, 0 where nothing could be decoded
    channels : 0 likewise
    length_s : as claimed by the header, None where that is implausible
    is_silent : whether the excerpt never exceeds `SILENCE_LEVEL`
    content : hash that is equal for files of equal content; empty for a file with an error
    fingerprint : shape (F,) uint32, see `melgpu.audio.fingerprint`
    """

    error: str | None
    source_rate: int
    channels: int
    length_s: float | None
    is_silent: bool
    content: str
    fingerprint: np.ndarray


def inspect_file(path: str) -> FileSummary:
    """Decode the beginning of one file."""
    try:
        with remote.local_copy(path) as local_path:
            audio = read_audio(local_path, SAMPLE_RATE, fingerprint.EXCERPT_S)
            content = "" if audio.error else _content_hash(local_path)
            length_s = None if audio.error else header_duration_s(local_path)
    except Exception as error:  # whatever the decoder raises is an error of the file, not of the check
        return FileSummary(str(error), 0, 0, None, False, "", np.empty(0, np.uint32))
    decoded_s = len(audio.wave) / SAMPLE_RATE
    problem = audio.error
    if length_s and decoded_s < min(length_s, fingerprint.EXCERPT_S) - 1:
        problem = f"its header claims {length_s:.1f} s and it contains {decoded_s:.1f} s"
    is_silent = len(audio.wave) > 0 and bool(np.abs(audio.wave).max() < SILENCE_LEVEL)
    sub_fingerprints = fingerprint.fingerprint(audio.wave, SAMPLE_RATE)
    return FileSummary(problem, audio.source_rate, audio.channels, length_s, is_silent, content, sub_fingerprints)


def _content_hash(path: Path) -> str:
    """A hash of a file's size, head, middle and end."""
    size = os.stat(path).st_size
    digest = hashlib.blake2b(str(size).encode(), digest_size=16)
    with open(path, "rb") as file:
        for offset in (0, size // 2, max(0, size - HASHED_BYTES)):
            file.seek(offset)
            digest.update(file.read(HASHED_BYTES))
    return digest.hexdigest()
