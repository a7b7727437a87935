"""An independent front end in float64, by NumPy and SciPy alone: the reference of the engines."""

import numpy as np
import scipy.signal

from melgpu.recipe_schema import MelSpec

AMIN = 1e-10


def slaney_filterbank(sample_rate: int, spec: MelSpec) -> np.ndarray:
    """Triangular filters of unit area, shape (M, F): 200/3 Hz a mel below 1 kHz, above it 27 mels a factor of 6.4.

    Source: Slaney, "Auditory Toolbox", Interval Research technical report 1998-010.
    """
    lowest, highest = _to_mel(np.array([spec.fmin, spec.fmax or sample_rate / 2]))
    edges = _to_hertz(np.linspace(lowest, highest, spec.n_mels + 2))
    hertz = np.fft.rfftfreq(spec.n_fft, 1 / sample_rate)
    low, middle, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    triangles = np.minimum((hertz - low) / (middle - low), (high - hertz) / (high - middle))
    return np.maximum(0, triangles) * 2 / (high - low)


def _to_mel(hertz: np.ndarray) -> np.ndarray:
    return np.where(hertz < 1000, hertz * 3 / 200, 15 + 27 * np.log(np.maximum(hertz, 1) / 1000) / np.log(6.4))


def _to_hertz(mel: np.ndarray) -> np.ndarray:
    return np.where(mel < 15, mel * 200 / 3, 1000 * 6.4 ** ((mel - 15) / 27))


def decibels(wave: np.ndarray, sample_rate: int, spec: MelSpec) -> np.ndarray:
    """Log-mel power of a wave (T,), shape (M, N), in dB re its maximum, within [-top_db, 0]."""
    padded = np.pad(wave.astype(np.float64), spec.n_fft // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, spec.n_fft)[:: spec.hop_length]
    power = np.abs(np.fft.rfft(frames * scipy.signal.get_window("hann", spec.n_fft), axis=1)) ** 2
    mel = slaney_filterbank(sample_rate, spec) @ power.T
    level = 10 * np.log10(np.maximum(mel, AMIN) / max(mel.max(), AMIN))
    return np.maximum(level, -spec.top_db)
