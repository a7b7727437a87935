"""Channels of a picture other than grey: matplotlib's viridis, MFCC, and deltas in time."""

import torch
import torchaudio.functional
from torch import Tensor

NUM_MFCC = 40  # without the first coefficient, which is the mean level
MAX_DELTA_DB = 10.0  # a delta of so many dB per frame is white, of as many downwards black


def viridis() -> Tensor:
    """Matplotlib's viridis colour map, shape (256, 3)."""
    import matplotlib  # only here: other pictures do not need it

    return torch.tensor(matplotlib.colormaps["viridis"](range(256))[:, :3], dtype=torch.float32)


def apply_colour_map(pictures: Tensor, colour_map: Tensor) -> Tensor:
    """Pictures (B, 1, S, S) in the colours of a map (256, 3), (B, 3, S, S)."""
    # NaN is no index of a colour: it is replaced here and put back below.
    levels = (pictures[:, 0].nan_to_num() * 256).long().clamp(0, 255)
    coloured = colour_map[levels].permute(0, 3, 1, 2)
    return coloured.masked_fill(pictures.isnan(), torch.nan)


def liftered_dct(n_mels: int) -> Tensor:
    """DCT matrix, shape (M, NUM_MFCC): dB (..., M) times it are MFCC, liftered so that high coefficients are visible.

    Source: Juang, Rabiner and Wilpon, "On the use of bandpass liftering in speech recognition" (1987), as in librosa.
    """
    lifter = 2 * (NUM_MFCC + 1)
    gains = 1 + lifter / 2 * torch.sin(torch.pi * torch.arange(1, NUM_MFCC + 2) / lifter)
    dct = torchaudio.functional.create_dct(NUM_MFCC + 1, n_mels, "ortho")
    return (dct * gains)[:, 1:]  # without the first coefficient


def mfcc(decibels: Tensor, dct: Tensor) -> Tensor:
    """MFCC, shape (B, 1, NUM_MFCC, N), of dB (B, M, N), min-max scaled."""
    return min_max_scale((decibels.mT @ dct).mT.unsqueeze(1))


def deltas(decibels: Tensor) -> Tensor:
    """Deltas in time, shape (B, 1, M, N), of dB (B, M, N), grey where they are 0."""
    slopes = torchaudio.functional.compute_deltas(decibels, win_length=9).unsqueeze(1)
    return (slopes / (2 * MAX_DELTA_DB) + 0.5).clamp(0, 1)


def min_max_scale(values: Tensor) -> Tensor:
    """Each channel of each window (last two axes) min-max scaled to [0, 1]; a constant one is 0."""
    low = values.amin((-2, -1), keepdim=True)
    high = values.amax((-2, -1), keepdim=True)
    return (values - low) / (high - low).clamp(min=1e-6)
