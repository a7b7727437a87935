"""Decoded tracks in the memory of a device, and the windows of a batch from it."""

import numpy as np
import torch

from melgpu.data.windows import WindowIndex
from melgpu.errors import InputError


class DeviceCache:
    """Conformed tracks in a device's memory, from which windows are gathered on the device."""

    def __init__(self, rows: np.ndarray, num_samples: int, device: torch.device):
        try:
            # Zeros, since they are the wave of a track without usable audio.
            self._waves = torch.zeros(len(rows), num_samples, device=device)
        except RuntimeError as error:  # out of memory, on any device
            needed_gb = 4e-9 * len(rows) * num_samples
            raise InputError(
                f"{len(rows)} tracks need {needed_gb:.1f} GB of {device}'s memory: "
                f"--set loader.pcm_cache=disk ({error})"
            ) from None
        self._slots = {row: slot for slot, row in enumerate(rows.tolist())}
        self._valid = np.zeros(len(rows), bool)

    def put(self, row: int, wave: np.ndarray) -> None:
        slot = self._slots[row]
        self._waves[slot] = torch.from_numpy(np.array(wave))  # a copy: torch warns of read-only memory, as the map is
        self._valid[slot] = True

    def has(self, rows: np.ndarray) -> bool:
        return all(row in self._slots for row in np.unique(rows).tolist())

    def gather(self, batch_index: WindowIndex, window_samples: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The windows of a batch, shape (B, T), on the device; and which of them are valid, (B,) bool, on the CPU."""
        slots = np.array([self._slots[row] for row in batch_index.tracks.tolist()], np.int64)
        # Slots and starts in one tensor: one copy to the device.
        positions = torch.from_numpy(np.stack([slots, batch_index.starts])).to(self._waves.device, non_blocking=True)
        windows = self._waves.unfold(1, window_samples, 1)  # a view of the windows at all starts
        return windows[positions[0], positions[1]], torch.from_numpy(self._valid[slots])
