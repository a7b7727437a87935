"""Memory that is reused from batch to batch and from epoch to epoch, since page faults cost more than the copies."""

import mmap
import os
import sys

import numpy as np
import torch


class BatchMemory:
    """Host memory for batches: pinned for a GPU, else that of a batch which is not referred to any more."""

    def __init__(self, device: torch.device, num_waiting: int):
        """`num_waiting` batches wait for the device at a time."""
        self._is_pinned = device.type == "cuda"
        # As many as are in use at a time: those that wait, one that is filled, one that the caller works on.
        self._max_arrays = num_waiting + 2
        self._arrays: list[np.ndarray] = []

    def empty(self, *shape: int) -> torch.Tensor:
        """A float32 tensor, not initialized."""
        if self._is_pinned:
            return torch.empty(*shape, pin_memory=True)  # PyTorch caches pinned memory
        # No caller gives a batch back. But its tensor and all views of that refer to the array: if the list alone does,
        # the batch is gone. Counted before the loop, whose variable is a reference, too.
        refcounts = _refcounts(self._arrays)
        for array, refcount in zip(self._arrays, refcounts, strict=True):
            if array.shape == shape and refcount == UNUSED_REFCOUNT:
                return torch.from_numpy(array)
        recent = self._arrays[1 - self._max_arrays :]
        self._arrays = [*recent, np.empty(shape, np.float32)]
        return torch.from_numpy(self._arrays[-1])


def _refcounts(arrays: list[np.ndarray]) -> list[int]:
    """The reference count of each array of a list, this function's included; a tensor or a view of one adds another."""
    return [sys.getrefcount(array) for array in arrays]


UNUSED_REFCOUNT = _refcounts([np.empty(0)])[0]  # measured, as it differs between versions of Python


class SlotMemory:
    """Shared memory of tracks; the largest that was released is kept for the next epoch."""

    def __init__(self, num_samples: int):
        self._num_samples = num_samples
        self._spare: SharedSlots | None = None

    def acquire(self, num_slots: int) -> "SharedSlots":
        """Slots for `num_slots` tracks or more."""
        if self._spare is None or len(self._spare.waves) < num_slots:
            return SharedSlots(num_slots, self._num_samples)
        spare = self._spare
        self._spare = None
        return spare

    def release(self, slots: "SharedSlots") -> None:
        if self._spare is None:
            self._spare = slots
            return
        smaller, self._spare = sorted([self._spare, slots], key=lambda shared: len(shared.waves))
        smaller.close()

    def close(self) -> None:
        if self._spare:
            self._spare.close()
            self._spare = None


class SharedSlots:
    """Shared memory of tracks, shape (slots, samples of a track): worker processes write to it, this one reads it.

    An anonymous file: its pages are allocated as they are written, and the size of /dev/shm is no limit.
    """

    def __init__(self, num_slots: int, num_samples: int):
        self._file = os.memfd_create("melgpu")
        os.ftruncate(self._file, max(4, 4 * num_slots * num_samples))  # bytes; an empty file cannot be mapped
        # The array keeps the mapping alive; `close` ends only the descriptor.
        memory = np.frombuffer(mmap.mmap(self._file, 0), np.float32)
        self.waves = memory[: num_slots * num_samples].reshape(num_slots, num_samples)

    def location(self, slot: int) -> tuple[str, int]:
        """A file that other processes can open, and the offset of a slot in it, in bytes."""
        # Worker processes do not inherit the descriptor and the file has no name: they open it through /proc.
        return f"/proc/{os.getpid()}/fd/{self._file}", slot * self.waves.strides[0]

    def close(self) -> None:
        os.close(self._file)
