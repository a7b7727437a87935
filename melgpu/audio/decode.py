"""Decode an audio file to mono float32 at the target sample rate, in part or as a stream.

Channels are summed first, then the part that is needed is resampled (soxr HQ, librosa's default too) and scaled to
their mean, then windows are cut by integer samples. A header's frame count is never trusted, and no more is read than
`max_s` needs, so a file of hours takes no more memory than one of minutes. This module does not import torch, so that
worker processes start fast.
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

BLOCK_SAMPLES = 1 << 17  # of all channels together
SMALL_BLOCK_SAMPLES = 1 << 11  # likewise; a decoding error loses its whole block
STREAM_BLOCK_SAMPLES = 1 << 14  # likewise: 0.2 s of a CD
TAIL_S = 0.5  # read beyond `max_s`, so that the resampler's edge effect is cut off
MIN_USABLE_S = 1.0  # shorter beginnings of files with an error are not used
MAX_AMPLITUDE = 1e4  # 80 dB above full scale: no recording reaches it
SAMPLE_RATE_LIMITS = (1_000, 768_000)  # Hz; a header outside them is wrong
MAX_DURATION_S = 7 * 24 * 3600  # a header beyond it is wrong: a chained Ogg can claim 2^63 - 1 frames
DECODER_VERSION = 2  # increased when the same file decodes to other samples
INVALID_SAMPLES = "contains samples that are not finite numbers, or absurdly large"


class DecodeError(InputError):
    """A file that cannot be decoded; the message holds its path and the reason."""


@dataclass(frozen=True)
class DecodedAudio:
    """The decoded samples of a file and its properties.

    wave : shape (T,), float32 at the target sample rate; the usable samples before an error, possibly none
    source_rate : sample rate of the file in Hz; 0 if it could not be read
    channels : number of channels; 0 if it could not be read
    error : reason of the decoding error; None if there was none
    """

    wave: np.ndarray
    source_rate: int
    channels: int
    error: str | None


def decode(path: str | Path, sample_rate: int, max_s: float) -> np.ndarray:
    """Decode at most the first `max_s` of a file to mono float32, shape (T,), T >= 1; samples may exceed [-1, 1].

    Raises DecodeError.
    """
    audio = read_audio(path, sample_rate, max_s)
    if audio.error:
        raise DecodeError(f"{path}: {audio.error}")
    return audio.wave


def read_audio(path: str | Path, sample_rate: int, max_s: float) -> DecodedAudio:
    """Like `decode`, but returns a decoding error together with the usable samples before it.

    Not thread-safe: standard error is redirected while libsndfile decodes.
    """
    channel_sum, rate, channels, problem = _read_channel_sum(str(path), max_s + TAIL_S, BLOCK_SAMPLES)
    if problem:  # the block with the error is lost: small blocks lose fewer samples before it
        channel_sum, rate, channels, problem = _read_channel_sum(str(path), max_s + TAIL_S, SMALL_BLOCK_SAMPLES)
    wave = resampled_mean(channel_sum, channels, rate, sample_rate)
    if len(wave) and not (wave.min() > -MAX_AMPLITUDE and wave.max() < MAX_AMPLITUDE):  # true for NaN, too
        problem = problem or INVALID_SAMPLES
        # Cut before the resampler, which would spread an invalid sample over its neighbours.
        num_valid = (np.abs(channel_sum) < MAX_AMPLITUDE).argmin()
        channel_sum = channel_sum[:num_valid]
        wave = resampled_mean(channel_sum, channels, rate, sample_rate)
    if problem and len(channel_sum) < MIN_USABLE_S * rate:
        wave = wave[:0]
    wave = wave[: math.ceil(max_s * sample_rate)]
    problem = problem or (None if len(wave) else "contains no audio")
    return DecodedAudio(wave, rate, channels, problem)


def stream_audio(path: str | Path, sample_rate: int) -> Iterator[np.ndarray]:
    """Decode a file of any length in blocks of shape (T,), possibly empty: together the samples that `decode` returns.

    Raises DecodeError; at an error in the middle, after all samples before it. Memory does not depend on the length.
    """
    resampler = None
    channels = 1
    problem: str | None = "contains no audio"
    try:
        for rate, block in _uniform_blocks(str(path), STREAM_BLOCK_SAMPLES):
            if not resampler:
                _check_rate(rate)
                resampler = soxr.ResampleStream(rate, sample_rate, 1)  # its default quality is HQ, too
                channels = block.shape[1]
                problem = None
            channel_sum = np.empty(len(block), np.float32)
            _add_channels(block, channel_sum)
            num_valid = _num_valid(channel_sum, MAX_AMPLITUDE * channels)
            yield resampler.resample_chunk(channel_sum[:num_valid]) * np.float32(1 / channels)
            if num_valid < len(channel_sum):
                raise InputError(INVALID_SAMPLES)
    except InputError as error:
        problem = str(error)  # raised at the end, after the samples that the resampler still holds
    if resampler:
        yield resampler.resample_chunk(np.empty(0, np.float32), last=True) * np.float32(1 / channels)
    if problem:
        raise DecodeError(f"{path}: {problem}")


def _num_valid(wave: np.ndarray, max_amplitude: float) -> int:
    """Number of samples before the first that is not finite or too large."""
    if wave.min(initial=0) > -max_amplitude and wave.max(initial=0) < max_amplitude:  # false for NaN, too
        return len(wave)
    return int((np.abs(wave) < max_amplitude).argmin())


def resampled_mean(channel_sum: np.ndarray, channels: int, rate: int, sample_rate: int) -> np.ndarray:
    """The mean over channels at another sample rate; scaled after resampling, where there are fewer samples."""
    if len(channel_sum) == 0:
        return channel_sum
    # At the same rate a copy, since the wave is scaled in place and callers still need the sum.
    wave = channel_sum.copy() if rate == sample_rate else soxr.resample(channel_sum, rate, sample_rate, quality="HQ")
    return np.multiply(wave, np.float32(1 / channels), out=wave)


def header_duration_s(path: Path) -> float | None:
    """Duration in s claimed by a file's header; None if it claims none or an implausible one."""
    if path.suffix.lower() in pyav.SUFFIXES:
        return pyav.header_duration_s(path)
    with _native_stderr_silenced(), contextlib.suppress(soundfile.SoundFileError, RuntimeError):
        info = soundfile.info(path)
        if 0 < info.frames < MAX_DURATION_S * info.samplerate:
            return info.frames / info.samplerate
    return None


def conform(wave: np.ndarray, num_samples: int) -> np.ndarray:
    """Trim a wave, shape (T,), or repeat it, to exactly `num_samples`."""
    if len(wave) == 0:
        raise ValueError("an empty wave cannot be repeated")
    return wave[:num_samples] if len(wave) >= num_samples else np.resize(wave, num_samples)


def _read_channel_sum(path: str, max_s: float, block_samples: int) -> tuple[np.ndarray, int, int, str | None]:
    """(sum over channels of the readable samples, shape (T,); sample rate; number of channels; reason of an error)."""
    channel_sum = np.empty(0, np.float32)
    frames = 0
    rate = 0
    channels = 0
    problem = None
    try:
        for rate, block in _uniform_blocks(path, block_samples):
            if not frames:
                channels = block.shape[1]
                _check_rate(rate)
                channel_sum = np.empty(math.ceil(max_s * rate), np.float32)  # takes memory only as it fills
            frames += _add_channels(block, channel_sum[frames:])
            if frames == len(channel_sum):
                break
    except InputError as error:
        problem = str(error)
    return channel_sum[:frames], rate, channels, problem


def _uniform_blocks(path: str, block_samples: int) -> Iterator[tuple[int, np.ndarray]]:
    """`_blocks` of a path or URL, checked for constant format; standard error is silenced only during decoding."""
    frames = 0
    audio_format = None
    with remote.local_copy(path) as local_path:
        blocks = _blocks(local_path, block_samples)
        try:
            while True:
                with _native_stderr_silenced():
                    rate, block = next(blocks, (0, None))
                if block is None:
                    return
                audio_format = audio_format or (rate, block.shape[1])
                if audio_format != (rate, block.shape[1]):
                    previous = f"{audio_format[0]} Hz, {audio_format[1]} channels"
                    raise InputError(f"changes from {previous} to {rate} Hz, {block.shape[1]}")
                frames += len(block)
                yield rate, block
        except InputError as error:
            message = str(error)
            if audio_format and frames:  # a part of the file was readable after all
                message = message.replace(UNREADABLE, f"decoding failed after {frames / audio_format[0]:.1f} s")
            raise InputError(message) from None


def _add_channels(block: np.ndarray, out: np.ndarray) -> int:
    """Write a block's channel sum to the beginning of `out`, return its length; 20 times as fast as `.sum(axis=1)`."""
    block = block[: len(out)]
    out = out[: len(block)]
    if block.shape[1] == 1:
        out[:] = block[:, 0]
    else:
        np.add(block[:, 0], block[:, 1], out=out)  # in one pass, without a copy of the first
    for channel in block.T[2:]:
        out += channel
    return len(out)


def _blocks(path: Path, block_samples: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (sample rate in Hz, samples, shape (frames, channels), float32) per block. Raises InputError."""
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
        raise InputError(f"{UNREADABLE} ({_libsndfile_reason(path, error)})") from None


def _check_rate(rate: int) -> None:
    if not SAMPLE_RATE_LIMITS[0] <= rate <= SAMPLE_RATE_LIMITS[1]:
        raise InputError(f"its header claims a sample rate of {rate:,} Hz")


def _check_readable(path: Path) -> None:
    """Checked before opening: a pipe would block, a device may be endless."""
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


def _libsndfile_reason(path: Path, error: Exception) -> str:
    """libsndfile's error message, except where it is known to be misleading."""
    reason = getattr(error, "error_string", str(error)).strip().rstrip(".")
    if "does not exist" in reason:  # its message for an mp3 that it cannot parse
        return f"its content is no {path.suffix.lstrip('.').lower() or 'audio'} stream"
    return reason


@contextlib.contextmanager
def _native_stderr_silenced() -> Iterator[None]:
    """mpg123 inside libsndfile writes warnings to file descriptor 2; errors are raised all the same."""
    saved_fd = os.dup(2)
    null_fd = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null_fd, 2)
    try:
        yield
    finally:
        os.dup2(saved_fd, 2)
        os.close(saved_fd)
        os.close(null_fd)
