"""Audio in containers that libsndfile does not read (m4a, aac, amr, wma, ...), through PyAV, an optional extra."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from melgpu.errors import InputError

UNREADABLE = "not readable as audio"
SUFFIXES = (".m4a", ".mp4", ".aac", ".amr", ".wma", ".webm", ".mka")


def decode_blocks(path: Path) -> Iterator[tuple[int, np.ndarray]]:
    """Sample rate in Hz and samples, shape (frames, channels), float32, piece by piece. Raises InputError."""
    try:
        import av
    except ImportError:
        raise InputError(f"{path.suffix} files need PyAV: pip install 'melgpu[containers]'") from None
    try:
        with av.open(str(path), metadata_errors="ignore") as container:
            if not container.streams.audio:
                raise InputError("contains no audio")
            as_float = av.AudioResampler(format="fltp")
            for frame in container.decode(audio=0):
                for part in as_float.resample(frame):
                    yield part.sample_rate, part.to_ndarray().T
    except (av.FFmpegError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{UNREADABLE} ({getattr(error, 'strerror', None) or error})") from None


def header_duration_s(path: Path) -> float | None:
    """The length in s that a file's header claims; None where it claims none."""
    import av

    with av.open(str(path), metadata_errors="ignore") as container:
        return container.duration / av.time_base if container.duration else None
