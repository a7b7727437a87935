"""A file or URL to blocks of samples, by the decoder that reads all of it.

libsndfile is the faster one. PyAV takes over where it refuses a file or breaks off, and where the file goes on after
the end that it sees. Files are opened by descriptor: of a path libsndfile would also read a sidecar of macOS (`._x`).
"""

import contextlib
import math
import os
import stat
import sys
from collections.abc import Iterator
from io import FileIO
from pathlib import Path

import numpy as np
import soundfile

from melgpu.audio import pyav, remote
from melgpu.audio.parts import UNREADABLE, FileSlice, Part, check_length, read_parts
from melgpu.errors import InputError

MAX_DURATION_S = 7 * 24 * 3600  # a header beyond it is wrong


def read_blocks(path: str, block_samples: int, max_s: float) -> Iterator[tuple[int, np.ndarray]]:
    """(sample rate in Hz, samples, shape (frames, channels), float32) of one format, of a path or URL.

    As much as is taken of it, and at least the first `max_s`; standard error is silenced only during decoding. Raises
    InputError.
    """
    frames = 0
    audio_format = None
    with remote.local_copy(path) as local_path, open_file(local_path) as file:
        blocks = _decode_file(file, block_samples, max_s)
        try:
            while True:
                with _native_stderr_silenced():
                    rate, block = next(blocks, (0, None))
                if block is None:
                    return
                audio_format = audio_format or (rate, block.shape[1])
                if audio_format != (rate, block.shape[1]):
                    change = f"{audio_format[0]} Hz, {audio_format[1]} channels to {rate} Hz, {block.shape[1]}"
                    after_s = frames / audio_format[0]
                    raise InputError(f"changes after {after_s:.1f} s from {change}; the rest is left out")
                frames += len(block)
                yield rate, block
        except InputError as error:
            message = str(error)
            if audio_format and frames:  # a part of the file was readable after all
                message = message.replace(UNREADABLE, f"decoding failed after {frames / audio_format[0]:.1f} s")
            raise InputError(message) from None


def header_duration_s(path: Path) -> float | None:
    """Length in s of a file's audio, by its headers or a count without decoding; None where that is not known."""
    with contextlib.suppress(InputError), open_file(path) as file, _native_stderr_silenced():
        parts = read_parts(file, math.inf)
        lengths_s = [part.length_s or math.nan for part in parts]
        if 0 < sum(lengths_s) < MAX_DURATION_S:  # false for NaN, too
            return sum(lengths_s)
        with contextlib.suppress(soundfile.SoundFileError, RuntimeError, OSError), _open_soundfile(file) as sound:
            if 0 < sound.frames < MAX_DURATION_S * sound.samplerate:
                return sound.frames / sound.samplerate
        return pyav.header_duration_s(FileSlice(file, 0, parts[-1].end))
    return None


def open_file(path: Path) -> FileIO:
    """A regular file, opened for reading. Raises InputError."""
    try:
        # Checked before opening: a pipe would block, a device may be endless.
        info = os.stat(path)
        if not stat.S_ISREG(info.st_mode):
            raise InputError("not a regular file")
        if info.st_size == 0:
            raise InputError("the file is empty")
        return FileIO(path)
    except PermissionError:
        raise InputError("no permission to read it") from None
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):  # which is a ValueError
            raise
        raise InputError(getattr(error, "strerror", None) or str(error)) from None


def _decode_file(file: FileIO, block_samples: int, max_s: float) -> Iterator[tuple[int, np.ndarray]]:
    parts = read_parts(file, max_s)
    for part in parts:
        whole = file if len(parts) == 1 else None
        frames = 0
        rate = 1
        for rate, block in _decode_part(FileSlice(file, part.start, part.end), whole, part, block_samples):
            frames += len(block)
            yield rate, block
        check_length(part.claimed_s, frames / rate, part.max_shortfall_s)


def _decode_part(
    file: FileSlice, whole: FileIO | None, part: Part, block_samples: int
) -> Iterator[tuple[int, np.ndarray]]:
    """The blocks of a part by libsndfile, then what it leaves by PyAV; `whole` is the file if this is all of it."""
    frames = 0
    is_read = False
    if not part.needs_pyav:
        with contextlib.suppress(InputError):  # PyAV has the last word
            for rate, block in _libsndfile_blocks(whole or file, part, block_samples):
                frames += len(block)
                yield rate, block
            is_read = frames > 0
    if is_read and (part.end_known or (whole and whole.tell() == part.end)):
        return
    try:
        yield from pyav.decode_blocks(file, part, start=frames)
    except InputError:
        if not is_read:
            raise


def _libsndfile_blocks(file: FileIO | FileSlice, part: Part, block_samples: int) -> Iterator[tuple[int, np.ndarray]]:
    try:
        with _open_soundfile(file) as sound:
            if part.length_s and sound.frames / sound.samplerate < part.length_s - part.max_shortfall_s:
                raise InputError("libsndfile would stop before its end")
            frames = max(1, block_samples // sound.channels)
            while len(block := sound.read(frames, dtype="float32", always_2d=True)):
                yield sound.samplerate, block
    except (soundfile.SoundFileError, RuntimeError, OSError) as error:
        raise InputError(f"{UNREADABLE} ({error})") from None


class SequentialSoundFile(soundfile.SoundFile):
    """A file that is read from its beginning to its end."""

    def seekable(self) -> bool:
        # python-soundfile seeks after each block, to where the file is: without an index mpg123 then loses its state.
        return False


def _open_soundfile(file: FileIO | FileSlice) -> soundfile.SoundFile:
    """By descriptor where that is possible: calls from C to Python would take a third of the time of decoding."""
    file.seek(0)
    if isinstance(file, FileSlice):
        return SequentialSoundFile(file, "r")
    return SequentialSoundFile(file.fileno(), "r", closefd=False)


@contextlib.contextmanager
def _native_stderr_silenced() -> Iterator[None]:
    """mpg123 inside libsndfile writes warnings to file descriptor 2; errors are raised all the same."""
    if sys.stderr is None:  # started with it closed (2>&-): the descriptor may be any file by now
        yield
        return
    saved_fd = os.dup(2)
    null_fd = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null_fd, 2)
    try:
        yield
    finally:
        os.dup2(saved_fd, 2)
        os.close(saved_fd)
        os.close(null_fd)
