"""The `fused` engine of the front end: two Triton kernels from spectra to pictures.

spectra (B, N, F) complex -> `mel_power`: power, banded mel product and each window's peak in one pass
-> (B, N, M) -> `draw`: dB below the peak, clipping, scaling, resizing in time, mirroring -> pictures (B, M, S).
A mel band covers at most W neighbouring bins, a pixel at most K neighbouring frames, so both products are banded.
Bytes moved for a window of 862 frames, 1,025 bins, 512 bands: 7.1 MB spectra in, 1.8 MB mel power out and in, 1.0 MB
picture out. All arithmetic is float32. Without a GPU the kernels run in Triton's interpreter (TRITON_INTERPRET=1).
"""

import os

import torch
import triton
import triton.language as tl
from torch import Tensor

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
BLOCK_FRAMES, BLOCK_BANDS, BLOCK_PIXELS = 16, 64, 32


@triton.jit
def _mel_power(
    spectra, first_bin, weights, power, peak, num_frames, num_bins, num_bands,
    WIDTH: tl.constexpr, FRAMES: tl.constexpr, BANDS: tl.constexpr,
):  # fmt: skip
    window = tl.program_id(0).to(tl.int64)
    frames = tl.program_id(1) * FRAMES + tl.arange(0, FRAMES)[:, None]
    bands = tl.program_id(2) * BANDS + tl.arange(0, BANDS)[None, :]
    inside = (frames < num_frames) & (bands < num_bands)
    start = tl.load(first_bin + bands, mask=bands < num_bands, other=0)
    row = spectra + 2 * (window * num_frames + frames) * num_bins
    total = tl.zeros((FRAMES, BANDS), tl.float32)
    for step in range(WIDTH):
        weight = tl.load(weights + step * num_bands + bands, mask=bands < num_bands, other=0.0)
        real = tl.load(row + 2 * (start + step), mask=inside & (weight > 0), other=0.0)
        imaginary = tl.load(row + 2 * (start + step) + 1, mask=inside & (weight > 0), other=0.0)
        total += weight * (real * real + imaginary * imaginary)
    tl.store(power + (window * num_frames + frames) * num_bands + bands, total, mask=inside)
    known = tl.where(total == total, total, float("inf"))  # not a number: the whole window will be
    tl.atomic_max(peak + window, tl.max(tl.where(inside, known, 0.0)))


@triton.jit
def _draw(
    power, peak, first_frame, weights, pictures, num_frames, num_bands, size, top_db, amin,
    TAPS: tl.constexpr, BANDS: tl.constexpr, PIXELS: tl.constexpr,
):  # fmt: skip
    window = tl.program_id(0).to(tl.int64)
    bands = tl.program_id(1) * BANDS + tl.arange(0, BANDS)[:, None]
    pixels = tl.program_id(2) * PIXELS + tl.arange(0, PIXELS)[None, :]
    inside = (bands < num_bands) & (pixels < size)
    loudest = tl.load(peak + window)
    reference = tl.log2(tl.maximum(loudest, amin))
    start = tl.load(first_frame + pixels, mask=pixels < size, other=0)
    shade = tl.zeros((BANDS, PIXELS), tl.float32)
    for tap in range(TAPS):
        weight = tl.load(weights + tap * size + pixels, mask=pixels < size, other=0.0)
        frames = tl.minimum(start + tap, num_frames - 1)
        value = tl.load(power + (window * num_frames + frames) * num_bands + bands, mask=inside, other=1.0)
        decibels = 3.010299956639812 * (tl.log2(tl.maximum(value, amin)) - reference)  # 10 log10(2) log2(x)
        shade += weight * (tl.maximum(decibels, -top_db) / top_db + 1)
    shade = tl.where(loudest <= amin, 0.0, shade)
    shade = tl.where(loudest < float("inf"), shade, float("nan"))
    mirrored = num_bands - 1 - bands  # low frequencies at the bottom
    tl.store(pictures + (window * num_bands + mirrored) * size + pixels, shade, mask=inside)


def mel_power(spectra: Tensor, first_bin: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Mel power (B, N, M) and each window's peak (B,) of complex spectra (B, N, F), contiguous.

    Band m is the sum over w of weights[w, m] times the power of bin first_bin[m] + w.
    """
    num_windows, num_frames, num_bins = spectra.shape
    width, num_bands = weights.shape
    power = spectra.new_empty((num_windows, num_frames, num_bands), dtype=torch.float32)
    peak = spectra.new_zeros(num_windows, dtype=torch.float32)
    grid = (num_windows, triton.cdiv(num_frames, BLOCK_FRAMES), triton.cdiv(num_bands, BLOCK_BANDS))
    _mel_power[grid](
        torch.view_as_real(spectra), first_bin, weights, power, peak, num_frames, num_bins, num_bands,
        WIDTH=width, FRAMES=BLOCK_FRAMES, BANDS=BLOCK_BANDS,
    )  # fmt: skip
    return power, peak


def draw(power: Tensor, peak: Tensor, first_frame: Tensor, weights: Tensor, top_db: float, amin: float) -> Tensor:
    """Pictures (B, M, S) in [0, 1] of mel power (B, N, M) and peaks (B,); NaN throughout where a peak is not finite.

    Column s is the sum over k of weights[k, s] times frame first_frame[s] + k.
    """
    num_windows, num_frames, num_bands = power.shape
    taps, size = weights.shape
    pictures = power.new_empty((num_windows, num_bands, size))
    grid = (num_windows, triton.cdiv(num_bands, BLOCK_BANDS), triton.cdiv(size, BLOCK_PIXELS))
    _draw[grid](
        power, peak, first_frame, weights, pictures, num_frames, num_bands, size, top_db, amin,
        TAPS=taps, BANDS=BLOCK_BANDS, PIXELS=BLOCK_PIXELS,
    )  # fmt: skip
    return pictures


def banded(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """A non-negative matrix (rows, columns) as its rows' first columns, (rows,) int32, and weights (width, rows)."""
    columns = torch.arange(matrix.shape[1])
    used = matrix > 0
    first = torch.where(used, columns, matrix.shape[1]).amin(1)
    last = torch.where(used, columns, -1).amax(1)
    width = int((last - first).amax()) + 1
    places = first[:, None] + torch.arange(width)
    weights = torch.where(places <= last[:, None], matrix.gather(1, places.clamp(max=matrix.shape[1] - 1)), 0.0)
    return first.to(torch.int32), weights.t().contiguous()
