"""What a front end's numbers are worth on this device: measured against float64, remembered in every checkpoint.

The probe is a seeded wave of a sweep, noise and clicks. A front end that misses the gate is refused before
training, one that draws other pictures than a checkpoint's is refused before prediction.
"""

import torch

from melgpu.errors import InputError
from melgpu.features.log_mel import AMIN, LogMel

MAX_DB, MEAN_DB = 0.05, 0.001  # the gate: largest and mean difference above the floor
SHADE = 0.002  # how far a pixel may be from the checkpoint's; 0.05 dB of 80 are 0.0006
PROBE_S = 4.0
PIXELS = 12  # the probe's picture is remembered at so many places, both ways


def probe_wave(sample_rate: int) -> torch.Tensor:
    """The probe, shape (T,), float32."""
    count = round(PROBE_S * sample_rate)
    t = torch.arange(count, dtype=torch.float64) / sample_rate
    generator = torch.Generator().manual_seed(0)
    sweep = torch.sin(2 * torch.pi * 0.1 * sample_rate * t * t / PROBE_S)
    wave = 0.5 * sweep + 0.05 * torch.randn(count, generator=generator, dtype=torch.float64)
    wave[:: sample_rate // 2] += 1
    return wave.float()


def reference_decibels(front_end: LogMel, wave: torch.Tensor) -> torch.Tensor:
    """What `front_end.decibels` should be, shape (M, N): the same definition in float64 by an FFT on the CPU."""
    spec = front_end.spec
    window = torch.hann_window(spec.n_fft, dtype=torch.float64)
    wave = wave.double().cpu()
    spectra = torch.stft(wave, spec.n_fft, spec.hop_length, window=window, pad_mode="constant", return_complex=True)
    power = front_end.mel_basis.to_dense().double().cpu() @ spectra.abs().square()
    return (10 * (power.clamp(min=AMIN) / power.max().clamp(min=AMIN)).log10()).clamp(min=-spec.top_db)


@torch.no_grad()
def measure_parity(front_end: LogMel, sample_rate: int, device: torch.device) -> dict:
    """Largest and mean error in dB on this device, the engine, and the probe's picture (JSON data)."""
    wave = probe_wave(sample_rate)
    expected = reference_decibels(front_end, wave)
    got = front_end.exact_decibels(wave[None].to(device))[0].cpu().double()
    error = (got - expected).abs()[expected > -front_end.spec.top_db]
    picture = front_end(wave[None].to(device))[0].cpu()
    if front_end.engine_on(device) == "fused":  # its second kernel draws: hold that against the reference, too
        drawn = front_end.draw(expected.float()[None, None])[0, 0]
        error = torch.cat([error, (picture[0] - drawn).abs().flatten().double() * front_end.spec.top_db])
    places = torch.linspace(0, picture.shape[-1] - 1, PIXELS).long()
    return {
        "engine": front_end.engine_on(device),
        "device": str(device),
        "max_db": float(error.max()),
        "mean_db": float(error.mean()),
        "picture": [round(shade, 5) for shade in picture[:, places][:, :, places].flatten().tolist()],
    }


def check_parity(found: dict) -> None:
    """Raise InputError where figures miss the gate."""
    if not (found["max_db"] <= MAX_DB and found["mean_db"] <= MEAN_DB):
        raise InputError(
            f"the front end is inexact on {found['device']}: engine {found['engine']} is up to {found['max_db']:.3f} dB"
            f" off, {found['mean_db']:.4f} dB on average (allowed: {MAX_DB} and {MEAN_DB}); choose another mel.engine"
        )


def check_same_pictures(found: dict, trained_with: dict, name: str) -> None:
    """Raise InputError where a front end draws other pictures than the one that a checkpoint was trained with."""
    pairs = list(zip(found["picture"], trained_with["picture"], strict=False))
    worst = max((abs(now - then) for now, then in pairs), default=1.0)
    if len(found["picture"]) != len(trained_with["picture"]) or not worst <= SHADE:
        raise InputError(
            f"{name}: trained on other pictures than engine {found['engine']} on {found['device']} draws "
            f"({worst:.3f} off the shades of engine {trained_with['engine']} on {trained_with['device']})"
        )
