"""Waves of 20 s that are hard for a front end in different ways."""

import numpy as np
import scipy.signal

from melgpu.demo import synthesizer

RATE = 22_050


def signals() -> dict[str, np.ndarray]:
    rng, t = np.random.default_rng(0), np.arange(20 * RATE) / RATE
    noise = rng.standard_normal(len(t))
    clicks = np.zeros(len(t))
    clicks[:: RATE // 3] = 1
    waves = {
        "noise": noise / 4,
        "sweep": scipy.signal.chirp(t, 30, 20, 11_000, "logarithmic"),
        "clicks": clicks,
        "steep": scipy.signal.lfilter([1], [1, -0.99], noise) / 40,
        "full scale": np.sign(np.sin(2 * np.pi * 440 * t)),
        "-60 dB": noise * 1e-3,
        "music": np.resize(synthesizer.compose("waltz", np.random.default_rng(3)), len(t)),
    }
    return {name: wave.astype(np.float32) for name, wave in waves.items()}
