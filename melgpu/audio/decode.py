"""One audio file to mono float32 at the target rate, in part or as a stream; `DecodeError` says which file and why.

Channels are summed first, then the part that is needed is resampled (soxr HQ, librosa's default too) and scaled to
their mean, then windows are cut by integer samples. A header's frame count is never trusted, and no more is read than
`max_s` needs, so a file of hours costs no more memory than one of minutes. This module does not import torch: decoding
processes start fast.
"""

import contextlib
import math
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr

from melgpu.audio import pyav, remote
from melgpu.audio.pyav import UNREADABLE
from melgpu.errors import InputError

BLOCK_SAMPLES, SMALL_BLOCK_SAMPLES = 1 << 17, 1 << 11  # of all channels together
STREAM_BLOCK_SAMPLES = 1 << 14  # a flaw in a stream takes its block with it: 0.2 s of a CD
TAIL_S = 0.5  # read beyond `max_s`, so that the resampler's end effect stays outside
MIN_USABLE_S = 1.0  # a broken file's good beginning counts from this length
MAX_AMPLITUDE = 1e4  # nothing that was recorded is 80 dB above full scale
SAMPLE_RATE_LIMITS = (1_000, 768_000)  # Hz; a header outside them lies
MAX_DURATION_S = 7 * 24 * 3600  # a header beyond it lies
DECODER_VERSION = 2  # changes when the same file would give other samples
INVALID_SAMPLES = "contains samples that are not finite numbers, or absurdly large"


class DecodeError(InputError):
    """A file that gives no usable audio; the message names it and the reason."""


@dataclass(frozen=True)
class DecodedAudio:
    """What a file gave.

    wave : shape (T,), float32 at the rate asked for; what was read before the flaw, or nothing
    source_rate : the file's own rate in Hz; 0 where none could be read
    channels : 0 likewise
    flaw : what is wrong with the file; None where it is well
    """

    wave: np.ndarray
    source_rate: int
    channels: int
    error: str | None


def decode(path: str | Path, sample_rate: int, max_s: float) -> np.ndarray:
    """At most the first `max_s` of a file as mono float32, shape (T,), T of at least 1; it may exceed [-1, 1].

    Raises DecodeError.
    """
    sound = read_audio(path, sample_rate, max_s)
    if sound.error:
        raise DecodeError(f"{path}: {sound.error}")
    return sound.wave


def read_audio(path: str | Path, sample_rate: int, max_s: float) -> DecodedAudio:
    """What `decode` gives, with the flaw of a broken file beside what could be saved of it.

    One thread at a time: libsndfile's own notes on standard error are silenced meanwhile.
    """
    total, rate, channels, problem = _read_channel_sum(str(path), max_s + TAIL_S, BLOCK_SAMPLES)
    if problem:  # the block with the flaw was lost: come nearer to it in small ones
        total, rate, channels, problem = _read_channel_sum(str(path), max_s + TAIL_S, SMALL_BLOCK_SAMPLES)
    wave = _resampled_mean(total, channels, rate, sample_rate)
    if len(wave) and not (wave.min() > -MAX_AMPLITUDE and wave.max() < MAX_AMPLITUDE):  # true for NaN, too
        problem = problem or INVALID_SAMPLES
        total = total[: (np.abs(total) < MAX_AMPLITUDE).argmin()]
        wave = _resampled_mean(total, channels, rate, sample_rate)
    if problem and len(total) < MIN_USABLE_S * rate:
        wave = wave[:0]
    wave = wave[: math.ceil(max_s * sample_rate)]
    return DecodedAudio(wave, rate, channels, problem or (None if len(wave) else "contains no audio"))


def stream_audio(path: str | Path, sample_rate: int) -> Iterator[np.ndarray]:
    """A whole file of any length, piece by piece, each of shape (T,), perhaps empty: the samples that `decode` gives.

    Raises DecodeError, of a flaw in the middle after all that was good before it. Memory does not depend on the length.
    """
    resampler, channels, problem = None, 1, "contains no audio"
    try:
        for rate, block in _uniform_blocks(str(path), STREAM_BLOCK_SAMPLES):
            if not resampler:
                _check_rate(rate)
                resampler, channels, problem = soxr.ResampleStream(rate, sample_rate, 1), block.shape[1], None  # HQ
            total = np.empty(len(block), np.float32)
            _add_channels(block, total)
            good = _num_valid(total, MAX_AMPLITUDE * channels)
            yield resampler.resample_chunk(total[:good]) * np.float32(1 / channels)
            if good < len(total):
                raise InputError(INVALID_SAMPLES)
    except InputError as error:
        problem = str(error)
    if resampler:
        yield resampler.resample_chunk(np.empty(0, np.float32), last=True) * np.float32(1 / channels)
    if problem:
        raise DecodeError(f"{path}: {problem}")


def _num_valid(wave: np.ndarray, loudest: float) -> int:
    """How many samples come before the first absurd one."""
    if wave.min(initial=0) > -loudest and wave.max(initial=0) < loudest:  # false for NaN, too
        return len(wave)
    return int((np.abs(wave) < loudest).argmin())


def _resampled_mean(total: np.ndarray, channels: int, rate: int, sample_rate: int) -> np.ndarray:
    """A sum over channels as their mean at another rate; scaled last, where there are fewer samples."""
    if len(total) == 0:
        return total
    wave = total.copy() if rate == sample_rate else soxr.resample(total, rate, sample_rate, quality="HQ")
    return np.multiply(wave, np.float32(1 / channels), out=wave)


def header_duration_s(path: Path) -> float | None:
    """The length in s that a file's header claims; None where it claims none, or an absurd one."""
    if path.suffix.lower() in pyav.SUFFIXES:
        return pyav.header_duration_s(path)
    with _native_stderr_silenced(), contextlib.suppress(soundfile.SoundFileError, RuntimeError):
        info = soundfile.info(path)
        return info.frames / info.samplerate if 0 < info.frames < MAX_DURATION_S * info.samplerate else None
    return None


def conform(wave: np.ndarray, num_samples: int) -> np.ndarray:
    """Cut or repeat a wave, shape (T,), to exactly `num_samples`."""
    if len(wave) == 0:
        raise ValueError("an empty wave cannot be repeated")
    return wave[:num_samples] if len(wave) >= num_samples else np.resize(wave, num_samples)


def _read_channel_sum(path: str, max_s: float, block_samples: int) -> tuple[np.ndarray, int, int, str | None]:
    """The sum over channels, shape (T,), of all that can be read; rate, channels, flaw."""
    total, frames, rate, channels, problem = np.empty(0, np.float32), 0, 0, 0, None
    try:
        for rate, block in _uniform_blocks(path, block_samples):
            if not frames:
                channels = block.shape[1]
                _check_rate(rate)
                total = np.empty(math.ceil(max_s * rate), np.float32)  # takes memory only as it fills
            frames += _add_channels(block, total[frames:])
            if frames == len(total):
                break
    except InputError as error:
        problem = str(error)
    return total[:frames], rate, channels, problem


def _uniform_blocks(path: str, block_samples: int) -> Iterator[tuple[int, np.ndarray]]:
    """`_blocks` of a path or URL, of one rate and number of channels; decoders are silenced only while they work."""
    frames, form = 0, None
    with remote.local_copy(path) as place:
        blocks = _blocks(place, block_samples)
        try:
            while True:
                with _native_stderr_silenced():
                    rate, block = next(blocks, (0, None))
                if block is None:
                    return
                form = form or (rate, block.shape[1])
                if form != (rate, block.shape[1]):
                    raise InputError(f"changes from {form[0]} Hz, {form[1]} channels to {rate} Hz, {block.shape[1]}")
                frames += len(block)
                yield rate, block
        except InputError as error:
            told = str(error)
            raise InputError(
                told.replace(UNREADABLE, f"broken after {frames / form[0]:.1f} s") if frames else told
            ) from None


def _add_channels(block: np.ndarray, out: np.ndarray) -> int:
    """Sum a block into the beginning of `out`; channel by channel is 20 times as fast as `block.sum(axis=1)`."""
    block = block[: len(out)]
    out = out[: len(block)]
    if block.shape[1] == 1:
        out[:] = block[:, 0]
    else:
        np.add(block[:, 0], block[:, 1], out=out)
    for channel in block.T[2:]:
        out += channel
    return len(out)


def _blocks(path: Path, block_samples: int) -> Iterator[tuple[int, np.ndarray]]:
    """Sample rate in Hz and samples, shape (frames, channels), float32, piece by piece. Raises InputError."""
    _check_readable(path)
    if path.suffix.lower() in pyav.SUFFIXES:
        yield from pyav.decode_blocks(path)
        return
    try:
        with soundfile.SoundFile(path) as file:
            frames = max(1, block_samples // file.channels)
            while len(block := file.read(frames, dtype="float32", always_2d=True)):
                yield file.samplerate, block
    except (soundfile.SoundFileError, RuntimeError, OSError, TypeError) as error:  # TypeError: headerless .raw
        raise InputError(f"{UNREADABLE} ({_reason(path, error)})") from None


def _check_rate(rate: int) -> None:
    if not SAMPLE_RATE_LIMITS[0] <= rate <= SAMPLE_RATE_LIMITS[1]:
        raise InputError(f"its header claims a sample rate of {rate:,} Hz")


def _check_readable(path: Path) -> None:
    """A pipe would block, a device may never end: look before opening."""
    try:
        info = os.stat(path)
    except (OSError, ValueError) as error:
        raise InputError(getattr(error, "strerror", None) or str(error)) from None
    if not stat.S_ISREG(info.st_mode):
        raise InputError("not a regular file")
    if info.st_size == 0:
        raise InputError("the file is empty")
    if not os.access(path, os.R_OK):
        raise InputError("no permission to read it")


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
