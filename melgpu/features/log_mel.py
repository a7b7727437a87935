"""Waveforms to pictures on the device.

waves (B, T) -> mel power (B, M, N) -> dB below each window's own maximum -> resized picture (B, 3, S, S) in [0, 1],
where 0 is `top_db` below the maximum (and silence), 1 the maximum; low frequencies at the bottom, time to the right.
The numbers are librosa's: Slaney mel scale and norm, Hann window, centred frames, zero padding. All arithmetic is IEEE
float32: autocast and TF32 stay outside (TF32 costs up to 2.3 dB). A window with samples that are not finite gives a
picture that is NaN throughout; its neighbours in the batch are not touched. Nothing here waits for the device.
"""

import contextlib
import warnings
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from nnAudio.features.mel import MelSpectrogram
from torch import Tensor, nn
from torchaudio.functional import compute_deltas, create_dct

from melgpu.errors import InputError
from melgpu.recipe import MelSpec

AMIN = 1e-10  # power that counts as silence, librosa's
NNAUDIO_FLOOR = 1e-8  # what nnAudio adds to the power of each bin where its Fourier kernels learn
NUM_MFCC = 40  # without the first, which is the mean level
CPU_BATCH = 1  # windows at a time: more fall out of the cache
DELTA_DB = 10.0  # a rise of so many dB a frame is white, the same fall black


class LogMel(nn.Module):
    """The front end of every network: build once, use for training, prediction and benchmarks alike.

    Engines give the same numbers. `nnaudio` is nnAudio's convolution; `fft` the same transform from nnAudio's window
    and mel basis by real FFT and a sparse mel product (a bin feeds at most two bands); `fused` (CUDA) the FFT and two
    Triton kernels for all that follows. `auto` is `fft` on a CPU, where the convolution is ten times slower, and
    `nnaudio` on a GPU. Mel filters or Fourier kernels learn where `trainable` says so. Raises InputError where the
    geometry leaves mel bands without a bin.
    """

    def __init__(self, spec: MelSpec, sample_rate: int, chunk_size: int = 0):
        """`at_once` windows go through at a time; 0 takes CPU_BATCH on a CPU and all on a GPU."""
        super().__init__()
        self.spec, self.chunk_size = spec, chunk_size
        self._adds_floor = spec.trainable == "fourier"
        shares = (1, 2, 4) if spec.channels == "resolutions" else (1,)
        self.mels = nn.ModuleList(_mel_spectrogram(spec, sample_rate, spec.n_fft // share) for share in shares)
        mel_basis = self.mels[0].mel_basis.detach()  # (M, F)
        if not bool(mel_basis.any(1).all()):
            raise InputError(
                f"mel.n_mels = {spec.n_mels}: {int((~mel_basis.any(1)).sum())} mel bands contain no bin of an FFT of "
                f"{spec.n_fft} at {sample_rate} Hz; use fewer bands or a larger mel.n_fft"
            )
        with warnings.catch_warnings(action="ignore"):  # torch calls its CSR tensors beta, and cannot copy them
            dense = spec.engine == "nnaudio"
            self.register_buffer(
                "mel_basis", mel_basis.clone() if dense else mel_basis.to_sparse_csr(), persistent=False
            )
        if spec.channels == "viridis":
            self.register_buffer("colours", _viridis(), persistent=False)
        if spec.channels == "mfcc":
            self.register_buffer("dct", _liftered_dct(spec.n_mels), persistent=False)
        if spec.engine == "fused":
            self._prepare_fused(mel_basis)

    def forward(self, waves: Tensor) -> Tensor:
        """Pictures, shape (B, 3, S, S), float32; with grey channels, three views of one."""
        learns = torch.is_grad_enabled() and self.spec.trainable != "none"
        chunk_size = self.chunk_size or (CPU_BATCH if waves.device.type == "cpu" else len(waves))
        with torch.set_grad_enabled(learns), torch.autocast(waves.device.type, enabled=False), _ieee_float32():
            pictures = [self._pictures(part) for part in waves.float().split(chunk_size)]
        return (pictures[0] if len(pictures) == 1 else torch.cat(pictures)).expand(-1, 3, -1, -1)

    def _pictures(self, waves: Tensor) -> Tensor:
        """Pictures, shape (B, 1, S, S) where the channels are the same, else (B, 3, S, S)."""
        if self.engine_on(waves.device) == "fused":
            return self._fit(self._fused(waves).unsqueeze(1))
        if self.spec.channels == "resolutions":
            return self.draw(torch.stack([self.decibels(waves, which) for which in range(len(self.mels))], dim=1))
        decibels = self.decibels(waves)
        pictures = self.draw(decibels.unsqueeze(1))
        if self.spec.channels == "mfcc":
            return torch.cat([pictures, *self._cepstra(decibels)], dim=1)
        return self._coloured(pictures) if self.spec.channels == "viridis" else pictures

    def decibels(self, waves: Tensor, which: int = 0) -> Tensor:
        """Log-mel power, shape (B, M, N), in dB re each window's maximum, within [-top_db, 0]; NaN where not finite.

        `which` picks the resolution: 0 for a window of n_fft, 1 and 2 for a half and a quarter of it.
        """
        return self.power_to_db(self.power(waves, which))

    def exact_decibels(self, waves: Tensor) -> Tensor:
        """`decibels` as `forward` computes them: IEEE float32, without autocast."""
        with torch.no_grad(), torch.autocast(waves.device.type, enabled=False), _ieee_float32():
            return self.decibels(waves.float())

    def power_to_db(self, power: Tensor) -> Tensor:
        """Power (B, M, N) in dB re each window's maximum."""
        peak = power.amax((-2, -1), keepdim=True)
        reference = peak.clamp(min=AMIN).log10().masked_fill(~peak.isfinite(), torch.nan)
        decibels = power.clamp(min=AMIN).log10_().sub_(reference).mul_(10)  # in place: fresh memory costs more
        return decibels.clamp_(min=-self.spec.top_db).masked_fill_(peak <= AMIN, -self.spec.top_db)

    def power(self, waves: Tensor, which: int = 0) -> Tensor:
        """Mel power, shape (B, M, N), by this device's engine."""
        engine = self.engine_on(waves.device)
        if engine == "fused":
            return self._fused_power(waves)[0].mT
        if engine == "fft":
            return self._power_fft(waves, which)
        power = self.mels[which](waves)
        return power - NNAUDIO_FLOOR * self.mels[which].mel_basis.sum(1)[:, None] if self._adds_floor else power

    def engine_on(self, device: torch.device) -> str:
        """The engine that runs on a device: on a CPU, `fft` stands in for `fused` (but for Triton's interpreter)."""
        if self.spec.engine == "fused" and device.type == "cpu" and not self.kernels.INTERPRETED:
            return "fft"
        if self.spec.engine == "auto":
            return "fft" if device.type == "cpu" else "nnaudio"
        return self.spec.engine

    def _spectra(self, waves: Tensor, which: int = 0) -> Tensor:
        """Complex spectra, shape (B, F, N), or (F, N) of one wave (T,)."""
        spec, window = self.spec, self.mels[which].stft.wcos[0, 0]  # at 0 Hz the cosine is 1: the bare window
        return torch.stft(waves, spec.n_fft, spec.hop_length, window=window, pad_mode="constant", return_complex=True)

    def _power_fft(self, waves: Tensor, which: int) -> Tensor:
        def of_one(wave: Tensor) -> Tensor:  # one at a time stays in the cache
            spectra = self._spectra(wave, which)
            return torch.sparse.mm(self.mel_basis, spectra.real.square() + spectra.imag.square())

        return torch.stack([of_one(wave) for wave in waves])

    def _prepare_fused(self, mel_basis: Tensor) -> None:
        from melgpu.features import triton_kernels  # needs Triton

        self.kernels = triton_kernels
        first_bin, band_weights = triton_kernels.banded(mel_basis)
        self.register_buffer("first_bin", first_bin, persistent=False)
        self.register_buffer("band_weights", band_weights, persistent=False)

    def _fused_power(self, waves: Tensor) -> tuple[Tensor, Tensor]:
        """Mel power, shape (B, N, M), and each window's peak, (B,)."""
        spectra = self._spectra(waves).mT.contiguous()  # (B, N, F), as torch.stft lays them out
        return self.kernels.mel_power(spectra, self.first_bin, self.band_weights)

    def _fused(self, waves: Tensor) -> Tensor:
        """Shades, shape (B, M, S): resized in time, low frequencies at the bottom."""
        power, peak = self._fused_power(waves)
        first_frame, weights = self._frame_weights(power.shape[1], waves.device)
        return self.kernels.draw(power, peak, first_frame, weights, self.spec.top_db, AMIN)

    def _frame_weights(self, num_frames: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """How `interpolate` with antialiasing mixes frames to pixels, as bands; kept per number of frames."""
        cache = self.__dict__.setdefault("_frames", {})
        if (num_frames, device) not in cache:
            impulses = torch.eye(num_frames)[None, None]
            size = (num_frames, self.spec.image_size)
            matrix = F.interpolate(impulses, size, mode="bilinear", antialias=True)[0, 0].mT  # (S, N)
            cache[num_frames, device] = tuple(part.to(device) for part in self.kernels.banded(matrix))
        return cache[num_frames, device]

    def draw(self, decibels: Tensor) -> Tensor:
        """dB (B, C, M, N) to pictures (B, C, S, S) in [0, 1]."""
        if self.spec.range == "window":
            return self._fit(_scale_to_range(decibels).flip(-2))
        return self._fit((decibels / self.spec.top_db + 1).flip(-2))

    def _fit(self, pictures: Tensor) -> Tensor:
        size = (self.spec.image_size, self.spec.image_size)
        if pictures.shape[-2:] == size:
            return pictures
        return F.interpolate(pictures, size, mode="bilinear", antialias=True)

    def _coloured(self, pictures: Tensor) -> Tensor:
        shades = (pictures[:, 0].nan_to_num() * 256).long().clamp(0, 255)
        coloured = self.colours[shades].permute(0, 3, 1, 2)
        return coloured.masked_fill(pictures.isnan(), torch.nan)

    def _cepstra(self, decibels: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures (B, 1, S, S) of the MFCC, stretched to their own range, and of the slope, grey where flat."""
        mfcc = (decibels.mT @ self.dct).mT.unsqueeze(1)
        slope = compute_deltas(decibels, win_length=9).unsqueeze(1) / (2 * DELTA_DB) + 0.5
        return self._fit(_scale_to_range(mfcc).flip(-2)), self._fit(slope.clamp(0, 1).flip(-2))


def _mel_spectrogram(spec: MelSpec, sample_rate: int, win_length: int) -> MelSpectrogram:
    return MelSpectrogram(
        sr=sample_rate,
        n_fft=spec.n_fft,
        win_length=win_length,
        hop_length=spec.hop_length,
        n_mels=spec.n_mels,
        fmin=spec.fmin,
        fmax=spec.fmax or None,
        pad_mode="constant",
        norm=1,
        trainable_mel=spec.trainable == "mel",
        trainable_STFT=spec.trainable == "fourier",
        verbose=False,
    )


def _liftered_dct(n_mels: int) -> Tensor:
    """dB (..., M) times this, shape (M, NUM_MFCC), are MFCC, lifted so that the fine ones show beside the coarse.

    Source: Juang, Rabiner and Wilpon, "On the use of bandpass liftering in speech recognition" (1987), as in librosa.
    """
    lifter = 2 * (NUM_MFCC + 1)
    lift = 1 + lifter / 2 * torch.sin(torch.pi * torch.arange(1, NUM_MFCC + 2) / lifter)
    return (create_dct(NUM_MFCC + 1, n_mels, "ortho") * lift)[:, 1:]


def _scale_to_range(values: Tensor) -> Tensor:
    """Each window's channel (last two axes) scaled to [0, 1]; a flat one is 0."""
    low, high = values.amin((-2, -1), keepdim=True), values.amax((-2, -1), keepdim=True)
    return (values - low) / (high - low).clamp(min=1e-6)


def _viridis() -> Tensor:
    """Matplotlib's map, shape (256, 3)."""
    import matplotlib

    return torch.tensor(matplotlib.colormaps["viridis"].colors)


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
