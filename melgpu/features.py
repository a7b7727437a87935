"""Waveforms to images on the device.

waves (B, T) -> mel power (B, M, N) -> dB below each window's own maximum -> resized picture (B, 3, S, S) in [0, 1],
where 0 is `top_db` below the maximum (and silence), 1 the maximum; low frequencies at the bottom, time to the right.
The numbers are librosa's: Slaney mel scale and norm, Hann window, centred frames, zero padding. All arithmetic is IEEE
float32: autocast and TF32 stay outside (TF32 costs up to 2.3 dB).
"""

import contextlib
import warnings
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from nnAudio.features.mel import MelSpectrogram
from torch import Tensor, nn

from melgpu.recipe import MelSpec

AMIN = 1e-10  # power that counts as silence, librosa's


class LogMel(nn.Module):
    """The front end of every network: build once, use for training, prediction and benchmarks alike.

    Engines give the same numbers. `nnaudio` is nnAudio's convolution; `fft` the same transform from nnAudio's window
    and mel basis by real FFT and a sparse mel product (a bin feeds at most two bands); `auto` is `fft` on a CPU, where
    the convolution is ten times slower, and `nnaudio` on a GPU.
    """

    def __init__(self, spec: MelSpec, sample_rate: int):
        super().__init__()
        self.spec = spec
        self.mel = MelSpectrogram(
            sr=sample_rate,
            n_fft=spec.n_fft,
            hop_length=spec.hop_length,
            n_mels=spec.n_mels,
            fmin=spec.fmin,
            fmax=spec.fmax or None,
            pad_mode="constant",
            norm=1,
            verbose=False,
        )
        with warnings.catch_warnings(action="ignore"):  # torch calls its CSR tensors beta
            self.register_buffer("bank", self.mel.mel_basis.to_sparse_csr(), persistent=False)  # (M, F)

    @torch.no_grad()
    def forward(self, waves: Tensor) -> Tensor:
        """Images, shape (B, 3, S, S), float32; the three channels are views of one."""
        with torch.autocast(waves.device.type, enabled=False), _ieee_float32():
            decibels = self.decibels(waves)  # (B, M, N)
            pictures = (decibels / self.spec.top_db + 1).flip(-2).unsqueeze(1)
            size = (self.spec.image_size, self.spec.image_size)
            if pictures.shape[-2:] != size:
                pictures = F.interpolate(pictures, size, mode="bilinear", antialias=True)
            return pictures.expand(-1, 3, -1, -1)

    def decibels(self, waves: Tensor) -> Tensor:
        """Log-mel power, shape (B, M, N), in dB re each window's maximum, within [-top_db, 0]."""
        power = self.power(waves.float())
        peak = power.amax((-2, -1), keepdim=True)
        decibels = 10 * torch.log10(power.clamp(min=AMIN) / peak.clamp(min=AMIN))
        return torch.where(peak > AMIN, decibels, -self.spec.top_db).clamp(min=-self.spec.top_db)

    def power(self, waves: Tensor) -> Tensor:
        """Mel power, shape (B, M, N), by this device's engine."""
        return self._power_fft(waves) if self.engine_on(waves.device) == "fft" else self.mel(waves)

    def engine_on(self, device: torch.device) -> str:
        """The engine that runs on a device."""
        if self.spec.engine != "auto":
            return self.spec.engine
        return "fft" if device.type == "cpu" else "nnaudio"

    def _power_fft(self, waves: Tensor) -> Tensor:
        spec, window = self.spec, self.mel.stft.wcos[0, 0]  # at 0 Hz the cosine is 1: the bare window
        spectra = torch.stft(
            waves, spec.n_fft, spec.hop_length, window=window, pad_mode="constant", return_complex=True
        )  # (B, F, N)
        power = spectra.real.square() + spectra.imag.square()
        return torch.stack([torch.sparse.mm(self.bank, window_power) for window_power in power])


@contextlib.contextmanager
def _ieee_float32() -> Iterator[None]:
    """Keeps cuDNN from running nnAudio's convolution in TF32, its default, and cuBLAS the mel product."""
    switches = (torch.backends.cudnn.conv, torch.backends.cuda.matmul)
    before = [switch.fp32_precision for switch in switches]
    for switch in switches:
        switch.fp32_precision = "ieee"
    try:
        yield
    finally:
        for switch, precision in zip(switches, before, strict=True):
            switch.fp32_precision = precision
