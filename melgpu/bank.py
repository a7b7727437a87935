"""Decoded PCM on disk, memory-mapped: a cache that can be deleted at any time without changing a result.

One .npy file a track, float32, named by a hash of all that decides its samples; written whole or not at all, so that
jobs may share a bank and a killed one leaves nothing half-written.
"""

import hashlib
import os
from pathlib import Path

import numpy as np

from melgpu import files
from melgpu.decode import VERSION


class Bank:
    """Waves of tracks at one sample rate, cut to one length."""

    def __init__(self, folder: Path, sample_rate: int, max_s: float):
        self.folder, self.sample_rate, self.max_s = folder, sample_rate, max_s

    def get(self, path: Path) -> np.ndarray | None:
        """The wave of a file, shape (T,), memory-mapped; None where it is not in the bank."""
        try:
            return np.load(self._place(path), mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError):  # absent or damaged: decode again
            return None

    def put(self, path: Path, wave: np.ndarray) -> None:
        with files.replacing(self._place(path)) as temporary, open(temporary, "wb") as file:
            np.save(file, wave, allow_pickle=False)

    def _place(self, path: Path) -> Path:
        info = os.stat(path)
        key = (os.path.realpath(path), info.st_size, info.st_mtime_ns, self.sample_rate, self.max_s, VERSION)
        return self.folder / f"{hashlib.sha256(repr(key).encode()).hexdigest()[:32]}.npy"
