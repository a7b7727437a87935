"""Waves to the grey pictures of fixed range of LogMel's engine `fused`, by an FFT and the kernels of `triton_kernels`.

Only this module imports them, and LogMel only where the engine is used: Triton comes with PyTorch for CUDA alone.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from melgpu.features import triton_kernels
from melgpu.recipe_schema import MelSpec


class FusedEngine(nn.Module):
    """The window, and the mel bands and the resizing in time as banded matrices, on the device of the waves."""

    taper: Tensor
    first_bin: Tensor
    band_weights: Tensor
    block_taps: Tensor

    def __init__(self, spec: MelSpec, taper: Tensor, mel_basis: Tensor, amin: float):
        """The window of a spectrum, (n_fft,), and the mel basis, (M, F), on the CPU; power up to `amin` is silence."""
        super().__init__()
        self.spec = spec
        self.amin = amin
        self._time_resize_cache: dict[tuple[int, torch.device], tuple[Tensor, Tensor]] = {}
        self.register_buffer("taper", taper.clone(), persistent=False)
        first_bin, band_weights = triton_kernels.to_banded(mel_basis)
        self.register_buffer("first_bin", first_bin, persistent=False)
        self.register_buffer("band_weights", band_weights, persistent=False)
        self.register_buffer("block_taps", triton_kernels.block_taps(band_weights), persistent=False)

    def runs_on(self, device: torch.device) -> bool:
        """On a GPU; on a CPU in Triton's interpreter."""
        return device.type == "cuda" or triton_kernels.INTERPRETED

    def spectra(self, waves: Tensor) -> Tensor:
        """Complex spectra, shape (B, N, F), of waves (B, T)."""
        return torch.fft.rfft(triton_kernels.cut_frames(waves, self.taper, self.spec.hop_length))

    def levels(self, waves: Tensor) -> tuple[Tensor, Tensor]:
        """The log2 of mel power, shape (B, N, M), and each window's maximum power, (B,)."""
        spectra = self.spectra(waves)
        return triton_kernels.mel_levels(spectra, self.first_bin, self.band_weights, self.block_taps, self.amin)

    def log_power(self, waves: Tensor) -> tuple[Tensor, Tensor]:
        """The log10 of mel power, shape (B, M, N), and each window's maximum power, (B, 1, 1)."""
        levels, peak = self.levels(waves)
        return levels.mT * math.log10(2), peak[:, None, None]

    def pixels(self, waves: Tensor) -> Tensor:
        """Pixel values, shape (B, M, S): resized in time only, low frequencies at the bottom."""
        levels, peak = self.levels(waves)
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
