"""Decoding of containers that libsndfile does not read (m4a, aac, amr, wma, ...) with PyAV, an optional dependency."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from melgpu.errors import InputError

UNREADABLE = "not readable as audio"
SUFFIXES = (".m4a", ".mp4", ".aac", ".amr", ".wma", ".webm", ".mka")


def decode_blocks(path: Path) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (sample rate in Hz, samples, shape (frames, channels), float32) per block. Raises InputError."""
    try:
        import av
    except ImportError:
        raise InputError(f"{path.suffix} files need PyAV: pip install 'melgpu[containers]'") from None
    try:
        with av.open(str(path), metadata_errors="ignore") as container:  # tags that are not UTF-8 would raise
            if not container.streams.audio:
                raise InputError("contains no audio")
            to_float = av.AudioResampler(format="fltp")  # planar float32: arrays of shape (channels, frames)
            for frame in container.decode(audio=0):
                for float_frame in to_float.resample(frame):
                    yield float_frame.sample_rate, float_frame.to_ndarray().T
    except (av.FFmpegError, ValueError) as error:
        if isinstance(error, InputError):  # which is a ValueError
            raise
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{UNREADABLE} ({reason})") from None


def header_duration_s(path: Path) -> float | None:
    """Duration in s claimed by a file's header; None if it claims none."""
    import av

    with av.open(str(path), metadata_errors="ignore") as container:
        return container.duration / av.time_base if container.duration else None  # in units of 1 / time_base s
