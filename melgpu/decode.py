"""One audio file to mono float32 at the target rate; `DecodeError` says which file and why.

The mean over channels is taken first, then the whole part that is needed is resampled (soxr HQ, librosa's default
too), then windows are cut by integer samples. A header's frame count is never trusted, and no more is read than
`max_s` needs, so a file of hours costs no more memory than one of minutes. This module does not import torch: decoding
processes start fast.
"""

import contextlib
import math
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile
import soxr

from melgpu.errors import InputError

BLOCK_FRAMES = 1 << 16
TAIL_S = 0.5  # read beyond `max_s`, so that the resampler's end effect stays outside
VERSION = 1  # changes when the same file would give other samples


class DecodeError(InputError):
    """A file that gives no usable audio; the message names it and the reason."""


def decode(path: Path, sample_rate: int, max_s: float) -> np.ndarray:
    """At most the first `max_s` of a file as mono float32, shape (T,), T of at least 1; it may exceed [-1, 1].

    Raises DecodeError. One thread at a time: libsndfile's own notes on standard error are silenced meanwhile.
    """
    wave, source_rate = _read(path, max_s + TAIL_S)
    if source_rate != sample_rate:
        wave = soxr.resample(wave, source_rate, sample_rate, quality="HQ")
    wave = wave[: math.ceil(max_s * sample_rate)]
    if len(wave) == 0:
        raise DecodeError(f"{path}: contains no audio")
    return wave


def _read(path: Path, max_s: float) -> tuple[np.ndarray, int]:
    """The mean over channels, shape (T,), and the file's own rate in Hz."""
    _refuse_irregular(path)
    try:
        with _native_stderr_silenced(), soundfile.SoundFile(path) as file:
            wanted = math.ceil(max_s * file.samplerate)
            blocks = list(_mono_blocks(file, wanted))
            source_rate = file.samplerate
    except (soundfile.SoundFileError, RuntimeError, OSError) as error:
        raise DecodeError(f"{path}: not readable as audio ({_reason(path, error)})") from None
    wave = np.concatenate(blocks) if blocks else np.empty(0, np.float32)
    if len(wave) == 0:
        raise DecodeError(f"{path}: contains no audio")
    if not np.isfinite(wave).all():
        raise DecodeError(f"{path}: contains samples that are not finite numbers")
    return wave, source_rate


def _mono_blocks(file: soundfile.SoundFile, wanted: int) -> Iterator[np.ndarray]:
    while wanted > 0:
        block = file.read(min(BLOCK_FRAMES, wanted), dtype="float32", always_2d=True)
        if len(block) == 0:
            return
        wanted -= len(block)
        yield block.mean(axis=1)


def _refuse_irregular(path: Path) -> None:
    """A pipe would block, a device may never end: look before opening."""
    try:
        info = os.stat(path)
    except OSError as error:
        raise DecodeError(f"{path}: {error.strerror}") from None
    if not stat.S_ISREG(info.st_mode):
        raise DecodeError(f"{path}: not a regular file")
    if info.st_size == 0:
        raise DecodeError(f"{path}: the file is empty")
    if not os.access(path, os.R_OK):
        raise DecodeError(f"{path}: no permission to read it")


def _reason(path: Path, error: Exception) -> str:
    """libsndfile's reason, except where it is known to mislead."""
    reason = getattr(error, "error_string", str(error)).strip().rstrip(".")
    if "does not exist" in reason:  # what it says of an mp3 that it cannot parse
        return f"its content is no {path.suffix.lstrip('.').lower() or 'audio'} stream"
    return reason


@contextlib.contextmanager
def _native_stderr_silenced() -> Iterator[None]:
    """mpg123 inside libsndfile writes notes of its own to file descriptor 2; what matters comes back as an error."""
    kept, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(null)
