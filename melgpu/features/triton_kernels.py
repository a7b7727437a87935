"""The `fused` engine of LogMel: two Triton kernels from spectra to pictures.

spectra (B, N, F) complex -> `mel_power`: power, banded mel product and each window's maximum in one pass
-> (B, N, M) -> `render`: dB re the maximum, clipping, scaling, resizing in time, flipping -> pictures (B, M, S).
A mel band covers at most W adjacent bins, a pixel at most K adjacent frames, so both matrix products are banded.
Bytes moved for a window of 862 frames, 1,025 bins, 512 bands: 7.1 MB spectra in, 1.8 MB mel power out and in, 1.0 MB
picture out. All arithmetic is float32. Without a GPU the kernels run in Triton's interpreter (TRITON_INTERPRET=1).
"""

import os

import torch
import triton
import triton.language as tl
from torch import Tensor

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
# The block of a program, in frames x bands (mel power) or bands x pixels (render).
BLOCK_FRAMES = 16
BLOCK_BANDS = 64
BLOCK_PIXELS = 32


@triton.jit
def _mel_power_kernel(
    spectra: tl.tensor, first_bin: tl.tensor, weights: tl.tensor, power: tl.tensor, peak: tl.tensor,
    num_frames: tl.tensor, num_bins: tl.tensor, num_bands: tl.tensor,
    WIDTH: tl.constexpr, FRAMES: tl.constexpr, BANDS: tl.constexpr,
) -> None:  # fmt: skip
    window = tl.program_id(0).to(tl.int64)  # offsets into a large batch exceed 32 bits
    frames = tl.program_id(1) * FRAMES + tl.arange(0, FRAMES)[:, None]
    bands = tl.program_id(2) * BANDS + tl.arange(0, BANDS)[None, :]
    inside = (frames < num_frames) & (bands < num_bands)
    start = tl.load(first_bin + bands, mask=bands < num_bands, other=0)
    # Spectra are pairs of a real and an imaginary float32.
    frame_spectra = spectra + 2 * (window * num_frames + frames) * num_bins
    total = tl.zeros((FRAMES, BANDS), tl.float32)
    for offset in range(WIDTH):
        weight = tl.load(weights + offset * num_bands + bands, mask=bands < num_bands, other=0.0)
        # A weight of 0 is beyond the end of a band, where there may be no bin.
        real = tl.load(frame_spectra + 2 * (start + offset), mask=inside & (weight > 0), other=0.0)
        imaginary = tl.load(frame_spectra + 2 * (start + offset) + 1, mask=inside & (weight > 0), other=0.0)
        total += weight * (real * real + imaginary * imaginary)
    tl.store(power + (window * num_frames + frames) * num_bands + bands, total, mask=inside)
    nan_as_inf = tl.where(total == total, total, float("inf"))  # NaN makes the peak infinite, so the picture is NaN
    tl.atomic_max(peak + window, tl.max(tl.where(inside, nan_as_inf, 0.0)))


@triton.jit
def _render_kernel(
    power: tl.tensor, peak: tl.tensor, first_frame: tl.tensor, weights: tl.tensor, pictures: tl.tensor,
    num_frames: tl.tensor, num_bands: tl.tensor, size: tl.tensor, top_db: tl.tensor, amin: tl.tensor,
    TAPS: tl.constexpr, BANDS: tl.constexpr, PIXELS: tl.constexpr,
) -> None:  # fmt: skip
    window = tl.program_id(0).to(tl.int64)
    bands = tl.program_id(1) * BANDS + tl.arange(0, BANDS)[:, None]
    pixels = tl.program_id(2) * PIXELS + tl.arange(0, PIXELS)[None, :]
    inside = (bands < num_bands) & (pixels < size)
    window_peak = tl.load(peak + window)
    reference = tl.log2(tl.maximum(window_peak, amin))
    start = tl.load(first_frame + pixels, mask=pixels < size, other=0)
    pixel_value = tl.zeros((BANDS, PIXELS), tl.float32)
    for tap in range(TAPS):
        weight = tl.load(weights + tap * size + pixels, mask=pixels < size, other=0.0)
        frames = tl.minimum(start + tap, num_frames - 1)  # beyond a pixel's frames the weight is 0
        band_power = tl.load(power + (window * num_frames + frames) * num_bands + bands, mask=inside, other=1.0)
        decibels = 3.010299956639812 * (tl.log2(tl.maximum(band_power, amin)) - reference)  # 10 log10(2) log2(x)
        pixel_value += weight * (tl.maximum(decibels, -top_db) / top_db + 1)
    pixel_value = tl.where(window_peak <= amin, 0.0, pixel_value)
    pixel_value = tl.where(window_peak < float("inf"), pixel_value, float("nan"))
    row = num_bands - 1 - bands  # low frequencies at the bottom
    tl.store(pictures + (window * num_bands + row) * size + pixels, pixel_value, mask=inside)


def mel_power(spectra: Tensor, first_bin: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Mel power (B, N, M) and each window's maximum (B,) of complex spectra (B, N, F), contiguous.

    Band m is the sum over w of weights[w, m] times the power of bin first_bin[m] + w.
    """
    num_windows, num_frames, num_bins = spectra.shape
    width, num_bands = weights.shape
    power = spectra.new_empty((num_windows, num_frames, num_bands), dtype=torch.float32)
    # Zeros: each program raises its window's maximum by atomic_max, and power is never negative.
    peak = spectra.new_zeros(num_windows, dtype=torch.float32)
    grid = (num_windows, triton.cdiv(num_frames, BLOCK_FRAMES), triton.cdiv(num_bands, BLOCK_BANDS))
    _mel_power_kernel[grid](
        torch.view_as_real(spectra), first_bin, weights, power, peak, num_frames, num_bins, num_bands,
        WIDTH=width, FRAMES=BLOCK_FRAMES, BANDS=BLOCK_BANDS,
    )  # fmt: skip
    return power, peak


def render(power: Tensor, peak: Tensor, first_frame: Tensor, weights: Tensor, top_db: float, amin: float) -> Tensor:
    """Pictures (B, M, S) in [0, 1] of mel power (B, N, M) and peaks (B,); NaN throughout where a peak is not finite.

    Column s is the sum over k of weights[k, s] times frame first_frame[s] + k.
    """
    num_windows, num_frames, num_bands = power.shape
    taps, size = weights.shape
    pictures = power.new_empty((num_windows, num_bands, size))
    grid = (num_windows, triton.cdiv(num_bands, BLOCK_BANDS), triton.cdiv(size, BLOCK_PIXELS))
    _render_kernel[grid](
        power, peak, first_frame, weights, pictures, num_frames, num_bands, size, top_db, amin,
        TAPS=taps, BANDS=BLOCK_BANDS, PIXELS=BLOCK_PIXELS,
    )  # fmt: skip
    return pictures


def to_banded(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """A non-negative matrix (rows, columns) in banded form: first columns (rows,), int32, and weights (width, rows)."""
    columns = torch.arange(matrix.shape[1])
    nonzero = matrix > 0
    first = torch.where(nonzero, columns, matrix.shape[1]).amin(1)
    last = torch.where(nonzero, columns, -1).amax(1)
    width = int((last - first).amax()) + 1
    band_columns = first[:, None] + torch.arange(width)
    values = matrix.gather(1, band_columns.clamp(max=matrix.shape[1] - 1))
    weights = torch.where(band_columns <= last[:, None], values, 0.0)
    return first.to(torch.int32), weights.t().contiguous()
