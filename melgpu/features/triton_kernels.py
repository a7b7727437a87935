"""The `fused` engine of LogMel: Triton kernels for all that is not the FFT.

waves (B, T) -> `cut_frames`: zero padding, frames, times the window -> (B, N, n_fft) -> FFT of torch -> spectra
(B, N, F) -> `mel_levels`: power, banded mel product, logarithm and each window's maximum in one pass -> (B, N, M)
-> `render`: dB re the maximum, clipping, scaling, resizing in time, flipping -> pictures (B, M, S).
A mel band covers at most W adjacent bins, a pixel at most K adjacent frames, so both matrix products are banded. All
arithmetic is float32. Without a GPU the kernels run in Triton's interpreter (TRITON_INTERPRET=1).

Bytes moved for a window of 441,000 samples, 862 frames, 1,025 bins, 512 bands, 512 pixels: 34.6 MB.

| step | reads + writes, MB |
|---|---|
| cut_frames | 1.76 + 7.06 |
| FFT | 7.06 + 7.07 |
| mel_levels | 7.07 + 1.77 |
| render | 1.77 + 1.05 |

torch.stft would move 26.5 MB instead of the first two steps' 23.0: it writes the padded wave and reads it again.
"""

import os

import torch
import triton
import triton.language as tl
from torch import Tensor

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
# The block of a program, in frames x samples, bands x frames, or bands x pixels.
BLOCK_CUT_FRAMES = 4
BLOCK_SAMPLES = 512
BLOCK_FRAMES = 8
BLOCK_BANDS = 64
BLOCK_PIXELS = 32
DB_PER_OCTAVE = 3.010299956639812  # 10 log10(2): a factor of two of power, in dB


@triton.jit
def _cut_frames_kernel(
    waves: tl.tensor, taper: tl.tensor, frames: tl.tensor,
    num_samples: tl.tensor, num_frames: tl.tensor, hop: tl.tensor, n_fft: tl.tensor,
    FRAMES: tl.constexpr, SAMPLES: tl.constexpr,
) -> None:  # fmt: skip
    frame = tl.program_id(0) * FRAMES + tl.arange(0, FRAMES)[:, None]
    position = tl.program_id(1) * SAMPLES + tl.arange(0, SAMPLES)[None, :]
    window = tl.program_id(2).to(tl.int64)  # offsets into a large batch exceed 32 bits
    inside = (frame < num_frames) & (position < n_fft)
    sample = frame * hop + position - n_fft // 2  # a frame is centred
    in_wave = (sample >= 0) & (sample < num_samples)
    value = tl.load(waves + window * num_samples + sample, mask=inside & in_wave, other=0.0)
    factor = tl.load(taper + position, mask=position < n_fft, other=0.0)
    tl.store(frames + (window * num_frames + frame) * n_fft + position, value * factor, mask=inside)


@triton.jit
def _mel_levels_kernel(
    spectra: tl.tensor, first_bin: tl.tensor, weights: tl.tensor, num_taps: tl.tensor, levels: tl.tensor,
    peak: tl.tensor, num_frames: tl.tensor, num_bins: tl.tensor, num_bands: tl.tensor, amin: tl.tensor,
    FRAMES: tl.constexpr, BANDS: tl.constexpr,
) -> None:  # fmt: skip
    # Neighbouring lanes take neighbouring bands, whose bins are neighbours in memory: lanes run along the first axis,
    # and each takes one band at a time, since a contiguity of 1 keeps Triton from giving it four for wider stores.
    bands = tl.max_contiguous(tl.program_id(1) * BANDS + tl.arange(0, BANDS)[:, None], [1, 1])
    frames = tl.program_id(0) * FRAMES + tl.arange(0, FRAMES)[None, :]
    window = tl.program_id(2).to(tl.int64)
    inside = (frames < num_frames) & (bands < num_bands)
    start = tl.load(first_bin + bands, mask=bands < num_bands, other=0)
    bins = spectra + (window * num_frames + frames) * num_bins + start
    total = tl.zeros((BANDS, FRAMES), tl.float32)
    block_taps = tl.load(num_taps + tl.program_id(1))
    tap = 0
    while tap < block_taps:  # range() does not take a loaded number in Triton's interpreter
        weight = tl.load(weights + tap * num_bands + bands, mask=bands < num_bands, other=0.0)
        # A weight of 0 is beyond the end of a band, where there may be no bin.
        pair = tl.load(bins + tap, mask=inside & (weight > 0), other=0)
        # One load for a complex number; which half is the real one does not matter to its power.
        low = pair.to(tl.int32).to(tl.float32, bitcast=True)
        high = (pair >> 32).to(tl.int32).to(tl.float32, bitcast=True)
        total += weight * (low * low + high * high)
        tap += 1
    level = tl.log2(tl.maximum(total, amin))
    tl.store(levels + (window * num_frames + frames) * num_bands + bands, level, mask=inside)
    nan_as_inf = tl.where(total == total, total, float("inf"))  # NaN makes the peak infinite, so the picture is NaN
    block_peak = tl.max(tl.where(inside, nan_as_inf, 0.0))
    # Floats that are not negative have the order of their bits as integers, for which there is an atomic maximum.
    tl.atomic_max(peak + window, block_peak.to(tl.int32, bitcast=True), sem="relaxed")


@triton.jit
def _render_kernel(
    levels: tl.tensor, peak: tl.tensor, first_frame: tl.tensor, weights: tl.tensor, pictures: tl.tensor,
    num_frames: tl.tensor, num_bands: tl.tensor, size: tl.tensor, scale: tl.tensor, amin: tl.tensor,
    TAPS: tl.constexpr, BANDS: tl.constexpr, PIXELS: tl.constexpr,
) -> None:  # fmt: skip
    pixels = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)[None, :]
    bands = tl.program_id(1) * BANDS + tl.arange(0, BANDS)[:, None]
    window = tl.program_id(2).to(tl.int64)
    inside = (bands < num_bands) & (pixels < size)
    window_peak = tl.load(peak + window)
    reference = tl.log2(tl.maximum(window_peak, amin))
    start = tl.load(first_frame + pixels, mask=pixels < size, other=0)
    pixel_value = tl.zeros((BANDS, PIXELS), tl.float32)
    for tap in range(TAPS):
        weight = tl.load(weights + tap * size + pixels, mask=pixels < size, other=0.0)
        frames = tl.minimum(start + tap, num_frames - 1)  # beyond a pixel's frames the weight is 0
        level = tl.load(levels + (window * num_frames + frames) * num_bands + bands, mask=inside, other=0.0)
        pixel_value += weight * tl.maximum((level - reference) * scale + 1, 0.0)
    pixel_value = tl.where(window_peak <= amin, 0.0, pixel_value)
    pixel_value = tl.where(window_peak < float("inf"), pixel_value, float("nan"))
    row = num_bands - 1 - bands  # low frequencies at the bottom
    tl.store(pictures + (window * num_bands + row) * size + pixels, pixel_value, mask=inside)


def cut_frames(waves: Tensor, taper: Tensor, hop: int) -> Tensor:
    """Centred frames (B, N, n_fft) of waves (B, T), zero beyond their ends, times the taper (n_fft,): torch.stft's."""
    num_windows, num_samples = waves.shape
    n_fft = len(taper)
    num_frames = (num_samples + 2 * (n_fft // 2) - n_fft) // hop + 1
    frames = waves.new_empty((num_windows, num_frames, n_fft))
    grid = (triton.cdiv(num_frames, BLOCK_CUT_FRAMES), triton.cdiv(n_fft, BLOCK_SAMPLES), num_windows)
    _cut_frames_kernel[grid](
        waves.contiguous(), taper, frames, num_samples, num_frames, hop, n_fft,
        FRAMES=BLOCK_CUT_FRAMES, SAMPLES=BLOCK_SAMPLES,
    )  # fmt: skip
    return frames


def mel_levels(
    spectra: Tensor, first_bin: Tensor, weights: Tensor, num_taps: Tensor, amin: float
) -> tuple[Tensor, Tensor]:
    """Mel power (B, N, M), at least amin, as its log2, and each window's maximum power (B,), of spectra (B, N, F).

    Band m is the sum over w of weights[w, m] times the power of bin first_bin[m] + w; `num_taps` are the weights that
    each block of bands needs (`block_taps`). The spectra are complex64 and contiguous. Where a window has power that is
    not finite, its maximum is infinite.
    """
    num_windows, num_frames, num_bins = spectra.shape
    num_bands = weights.shape[1]
    levels = spectra.new_empty((num_windows, num_frames, num_bands), dtype=torch.float32)
    # Zeros: each program raises its window's maximum, and power is never negative.
    peak = spectra.new_zeros(num_windows, dtype=torch.int32)
    grid = (triton.cdiv(num_frames, BLOCK_FRAMES), triton.cdiv(num_bands, BLOCK_BANDS), num_windows)
    _mel_levels_kernel[grid](
        torch.view_as_real(spectra).view(torch.int64), first_bin, weights, num_taps, levels, peak,
        num_frames, num_bins, num_bands, amin, FRAMES=BLOCK_FRAMES, BANDS=BLOCK_BANDS,
    )  # fmt: skip
    return levels, peak.view(torch.float32)


def render(levels: Tensor, peak: Tensor, first_frame: Tensor, weights: Tensor, top_db: float, amin: float) -> Tensor:
    """Pictures (B, M, S) in [0, 1] of log2 levels (B, N, M) and maximum powers (B,); NaN where these are not finite.

    Column s is the sum over k of weights[k, s] times frame first_frame[s] + k. A window of at most amin is 0.
    """
    num_windows, num_frames, num_bands = levels.shape
    taps, size = weights.shape
    pictures = levels.new_empty((num_windows, num_bands, size))
    grid = (triton.cdiv(size, BLOCK_PIXELS), triton.cdiv(num_bands, BLOCK_BANDS), num_windows)
    _render_kernel[grid](
        levels, peak, first_frame, weights, pictures, num_frames, num_bands, size, DB_PER_OCTAVE / top_db, amin,
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


def block_taps(weights: Tensor) -> Tensor:
    """How many of the weights (width, M) each block of BLOCK_BANDS bands needs, int32."""
    positions = torch.arange(1, len(weights) + 1)[:, None]
    last = torch.where(weights > 0, positions, 0).amax(0)
    blocks = last.split(BLOCK_BANDS)
    return torch.stack([block.amax() for block in blocks]).to(torch.int32)
