"""Parity of LogMel on a device: its error against a float64 reference, saved in every checkpoint.

The probe is a seeded wave of a sweep, noise and clicks. A LogMel that misses the parity gate is rejected before
training, one whose pictures differ from those that a checkpoint was trained on is rejected before prediction.
"""

from dataclasses import dataclass

import torch

from melgpu.errors import InputError
from melgpu.features.log_mel import AMIN, LogMel
from melgpu.recipe_schema import EngineName

# The parity gate: largest and mean error above the floor of -top_db. TF32 misses it, float32 has a tenth of the first.
MAX_ERROR_DB = 0.05
MAX_MEAN_ERROR_DB = 0.001
MAX_PIXEL_ERROR = 0.002  # against the checkpoint's picture; 0.05 dB of 80 are 0.0006
PROBE_S = 4.0
GRID_SIZE = 12  # the probe's picture is sampled at so many rows and columns


@dataclass(frozen=True)
class ParityFigures:
    """Largest and mean error in dB of an engine on a device, and pixels of the probe's picture, shape (P,)."""

    engine: EngineName
    device: str
    max_db: float
    mean_db: float
    picture: tuple[float, ...]


def probe_wave(sample_rate: int) -> torch.Tensor:
    """The probe, shape (T,), float32."""
    num_samples = round(PROBE_S * sample_rate)
    t = torch.arange(num_samples, dtype=torch.float64) / sample_rate
    generator = torch.Generator().manual_seed(0)
    sweep = torch.sin(2 * torch.pi * 0.1 * sample_rate * t * t / PROBE_S)  # from 0 Hz to a fifth of the sample rate
    wave = 0.5 * sweep + 0.05 * torch.randn(num_samples, generator=generator, dtype=torch.float64)
    wave[:: sample_rate // 2] += 1  # clicks, two a second
    return wave.float()


def reference_decibels(front_end: LogMel, wave: torch.Tensor) -> torch.Tensor:
    """The reference of `front_end.decibels`, shape (M, N): the same definition in float64 by an FFT on the CPU."""
    spec = front_end.spec
    window = torch.hann_window(spec.n_fft, dtype=torch.float64)
    wave = wave.double().cpu()
    spectra = torch.stft(wave, spec.n_fft, spec.hop_length, window=window, pad_mode="constant", return_complex=True)
    power = front_end.mel_basis.to_dense().double().cpu() @ spectra.abs().square()
    relative_power = power.clamp(min=AMIN) / power.max().clamp(min=AMIN)
    return (10 * relative_power.log10()).clamp(min=-spec.top_db)


@torch.no_grad()
def measure_parity(front_end: LogMel, sample_rate: int, device: torch.device) -> ParityFigures:
    """The parity of a front end on a device."""
    wave = probe_wave(sample_rate)
    expected = reference_decibels(front_end, wave)
    actual = front_end.exact_decibels(wave[None].to(device))[0].cpu().double()
    abs_error = (actual - expected).abs()[expected > -front_end.spec.top_db]
    picture = front_end(wave[None].to(device))[0].cpu()
    if front_end.engine_on(device) == "fused":
        # Its second kernel renders: compare its pixels with the reference, too.
        expected_pixels = front_end.render(expected.float()[None, None])[0, 0]
        pixel_error = (picture[0] - expected_pixels).abs().flatten().double()
        abs_error = torch.cat([abs_error, pixel_error * front_end.spec.top_db])
    grid = torch.linspace(0, picture.shape[-1] - 1, GRID_SIZE).long()
    sampled_pixels = picture[:, grid][:, :, grid].flatten().tolist()
    return ParityFigures(
        engine=front_end.engine_on(device),
        device=str(device),
        max_db=float(abs_error.max()),
        mean_db=float(abs_error.mean()),
        picture=tuple(round(pixel, 5) for pixel in sampled_pixels),
    )


def check_parity(figures: ParityFigures) -> None:
    """Raise InputError where parity figures miss the gate."""
    # `not <=` instead of `>`: an error of NaN misses the gate, too.
    if not (figures.max_db <= MAX_ERROR_DB and figures.mean_db <= MAX_MEAN_ERROR_DB):
        raise InputError(
            f"the front end misses the parity gate on {figures.device}: engine {figures.engine} has an error of "
            f"up to {figures.max_db:.3f} dB, {figures.mean_db:.4f} dB on average (allowed: {MAX_ERROR_DB} and "
            f"{MAX_MEAN_ERROR_DB}); choose another mel.engine"
        )


def check_same_pictures(figures: ParityFigures, trained: ParityFigures, name: str) -> None:
    """Raise InputError where pictures differ from those that a network was trained on, by their parity figures."""
    pixels = list(zip(figures.picture, trained.picture, strict=False))  # lengths are compared below
    max_error = max((abs(pixel - expected) for pixel, expected in pixels), default=1.0)
    if len(figures.picture) != len(trained.picture) or not max_error <= MAX_PIXEL_ERROR:
        raise InputError(
            f"{name}: trained on other pictures than those of engine {figures.engine} on {figures.device} "
            f"(pixels differ by up to {max_error:.3f} from those of engine {trained.engine} on {trained.device})"
        )
