"""Spectra to the grey pictures of fixed range of LogMel's engine `fused`, by the kernels of `triton_kernels`.

Only this module imports them, and LogMel only where the engine is used: Triton comes with PyTorch for CUDA alone.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from melgpu.features import triton_kernels
from melgpu.recipe_schema import MelSpec


class FusedEngine(nn.Module):
    """The mel bands and the resizing in time as banded matrices, on the device of the spectra."""

    first_bin: Tensor
    band_weights: Tensor
    block_taps: Tensor

    def __init__(self, spec: MelSpec, mel_basis: Tensor, amin: float):
        """`mel_basis` is dense, shape (M, F), on the CPU; power up to `amin` is silence."""
        super().__init__()
        self.spec = spec
        self.amin = amin
        self._time_resize_cache: dict[tuple[int, torch.device], tuple[Tensor, Tensor]] = {}
        first_bin, band_weights = triton_kernels.to_banded(mel_basis)
        self.register_buffer("first_bin", first_bin, persistent=False)
        self.register_buffer("band_weights", band_weights, persistent=False)
        self.register_buffer("block_taps", triton_kernels.block_taps(band_weights), persistent=False)

    def runs_on(self, device: torch.device) -> bool:
        """On a GPU; on a CPU in Triton's interpreter."""
        return device.type == "cuda" or triton_kernels.INTERPRETED

    def levels(self, spectra: Tensor) -> tuple[Tensor, Tensor]:
        """The log2 of mel power, shape (B, N, M), and each window's maximum power, (B,), of spectra (B, F, N)."""
        frames = spectra.mT.contiguous()  # no copy: torch.stft lays them out as (B, N, F)
        return triton_kernels.mel_levels(frames, self.first_bin, self.band_weights, self.block_taps, self.amin)

    def log_power(self, spectra: Tensor) -> tuple[Tensor, Tensor]:
        """The log10 of mel power, shape (B, M, N), and each window's maximum power, (B, 1, 1)."""
        levels, peak = self.levels(spectra)
        return levels.mT * math.log10(2), peak[:, None, None]

    def pixels(self, spectra: Tensor) -> Tensor:
        """Pixel values, shape (B, M, S): resized in time only, low frequencies at the bottom."""
        levels, peak = self.levels(spectra)
        first_frame, weights = self._time_resize_weights(levels.shape[1], levels.device)
        return triton_kernels.render(levels, peak, first_frame, weights, self.spec.top_db, self.amin)

    def _time_resize_weights(self, num_frames: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """The matrix of `interpolate` with antialiasing from frames to pixels, banded; cached by number of frames."""
        cache = self._time_resize_cache
        if (num_frames, device) not in cache:
            first_frame, weights = triton_kernels.to_banded(time_resize_matrix(num_frames, self.spec.image_size))
            cache[num_frames, device] = (first_frame.to(device), weights.to(device))
        return cache[num_frames, device]


def time_resize_matrix(num_frames: int, size: int) -> Tensor:
    """The matrix (S, N) by which `interpolate` with antialiasing makes S pixels of N frames."""
    impulses = torch.eye(num_frames)[None, None]  # resized unit impulses are the matrix's columns
    return F.interpolate(impulses, (num_frames, size), mode="bilinear", antialias=True)[0, 0].mT
