"""Waveforms to log-mel pictures on the device.

waves (B, T) -> mel power (B, M, N) -> dB re each window's own maximum -> resized picture (B, 3, S, S) in [0, 1],
where 0 is `top_db` below the maximum (and silence), 1 the maximum; low frequencies at the bottom, time to the right.
The definition is librosa's: Slaney mel scale and norm, Hann window, centred frames, zero padding. All arithmetic is
IEEE float32: autocast and TF32 are disabled (TF32 has an error of up to 2.3 dB). A window with samples that are not
finite gives a picture that is NaN throughout; other windows of the batch are unaffected. Nothing here synchronizes
with the device.
"""

import warnings

import torch
import torch.nn.functional as F
from nnAudio.features.mel import MelSpectrogram
from torch import Tensor, nn
from torchaudio.functional import compute_deltas, create_dct

from melgpu.errors import InputError
from melgpu.features.precision import float32_precision
from melgpu.recipe_schema import MelSpec

AMIN = 1e-10  # power that counts as silence, as in librosa
NUM_MFCC = 40  # without the first coefficient, which is the mean level
CPU_CHUNK_SIZE = 1  # windows per chunk on a CPU: more do not fit into its cache
MAX_DELTA_DB = 10.0  # a delta of so many dB per frame is white, of as many downwards black


class LogMel(nn.Module):
    """The front end of every network, the same module for training, prediction and benchmarks.

    Engines give the same numbers. `nnaudio` is nnAudio's convolution; `fft` the same transform from nnAudio's window
    and mel basis by real FFT and a sparse mel product (a bin lies in at most two bands); `fused` (CUDA) the FFT and two
    Triton kernels for all that follows. `auto` is `fft` on a CPU, where the convolution is ten times slower, and
    `nnaudio` on a GPU. Raises InputError where mel bands contain no FFT bin.
    """

    mel_basis: Tensor  # (M, F), dense or sparse
    colour_map: Tensor
    dct: Tensor
    first_bin: Tensor
    band_weights: Tensor

    def __init__(self, spec: MelSpec, sample_rate: int, chunk_size: int = 0):
        """`chunk_size` windows are processed at a time; 0 takes CPU_CHUNK_SIZE on a CPU and all on a GPU."""
        super().__init__()
        self.spec = spec.changed()  # validates a spec that was copied with other values
        self.chunk_size = chunk_size
        divisors = (1, 2, 4) if spec.channels == "resolutions" else (1,)
        self.mels = nn.ModuleList(_mel_spectrogram(spec, sample_rate, spec.n_fft // divisor) for divisor in divisors)
        mel_basis = self.mels[0].get_buffer("mel_basis")
        _check_mel_bands(mel_basis, spec, sample_rate)
        # Buffers move with the module but are not saved: they follow from the recipe.
        with warnings.catch_warnings(action="ignore"):  # torch calls its CSR tensors beta, and cannot copy them
            kept_basis = mel_basis.clone() if spec.engine == "nnaudio" else mel_basis.to_sparse_csr()
            self.register_buffer("mel_basis", kept_basis, persistent=False)
        if spec.channels == "viridis":
            self.register_buffer("colour_map", _viridis(), persistent=False)
        if spec.channels == "mfcc":
            self.register_buffer("dct", _liftered_dct(spec.n_mels), persistent=False)
        if spec.engine == "fused":
            self._prepare_fused(mel_basis)

    def forward(self, waves: Tensor) -> Tensor:
        """Pictures, shape (B, 3, S, S), float32; with grey channels, three views of one channel."""
        chunk_size = self.chunk_size or (CPU_CHUNK_SIZE if waves.device.type == "cpu" else len(waves))
        with torch.no_grad(), torch.autocast(waves.device.type, enabled=False), float32_precision("ieee"):
            pictures = [self._pictures(chunk) for chunk in waves.float().split(chunk_size)]
        # Joined before replication: parts of three channels would take three times the memory.
        joined = pictures[0] if len(pictures) == 1 else torch.cat(pictures)
        return joined.expand(-1, 3, -1, -1)

    def _pictures(self, waves: Tensor) -> Tensor:
        """Pictures, shape (B, 1, S, S) where the channels are the same, else (B, 3, S, S)."""
        if self.engine_on(waves.device) == "fused":
            return self._resize(self._fused_pixels(waves).unsqueeze(1))
        if self.spec.channels == "resolutions":
            channels = [self.decibels(waves, resolution) for resolution in range(len(self.mels))]
            return self.render(torch.stack(channels, dim=1))
        decibels = self.decibels(waves)
        pictures = self.render(decibels.unsqueeze(1))
        if self.spec.channels == "mfcc":
            return torch.cat([pictures, *self._mfcc_and_deltas(decibels)], dim=1)
        return self._apply_colour_map(pictures) if self.spec.channels == "viridis" else pictures

    def decibels(self, waves: Tensor, resolution: int = 0) -> Tensor:
        """Log-mel power, shape (B, M, N), in dB re each window's maximum, within [-top_db, 0]; NaN where not finite.

        `resolution` 0 is a window length of n_fft, 1 and 2 a half and a quarter of it.
        """
        return self.power_to_db(self.power(waves, resolution))

    def exact_decibels(self, waves: Tensor) -> Tensor:
        """`decibels` as `forward` computes them: IEEE float32, without autocast."""
        with torch.no_grad(), torch.autocast(waves.device.type, enabled=False), float32_precision("ieee"):
            return self.decibels(waves.float())

    def power_to_db(self, power: Tensor) -> Tensor:
        """Power (B, M, N) in dB re each window's maximum."""
        peak = power.amax((-2, -1), keepdim=True)
        # A peak that is not finite gives a reference of NaN, which makes the whole window NaN.
        reference = peak.clamp(min=AMIN).log10().masked_fill(~peak.isfinite(), torch.nan)
        decibels = power.clamp(min=AMIN).log10_().sub_(reference).mul_(10)  # in place: allocation costs more
        # Silence would be 0 dB everywhere, its own maximum: it is defined as the darkest picture.
        return decibels.clamp_(min=-self.spec.top_db).masked_fill_(peak <= AMIN, -self.spec.top_db)

    def power(self, waves: Tensor, resolution: int = 0) -> Tensor:
        """Mel power, shape (B, M, N), by the engine of the waves' device."""
        engine = self.engine_on(waves.device)
        if engine == "fused":
            return self._fused_power(waves)[0].mT
        if engine == "fft":
            return self._power_fft(waves, resolution)
        return self.mels[resolution](waves)

    def engine_on(self, device: torch.device) -> str:
        """The engine that runs on a device: on a CPU, `fft` replaces `fused` (except in Triton's interpreter)."""
        if self.spec.engine == "fused" and device.type == "cpu" and not self.kernels.INTERPRETED:
            return "fft"
        if self.spec.engine == "auto":
            return "fft" if device.type == "cpu" else "nnaudio"
        return self.spec.engine

    def _spectra(self, waves: Tensor, resolution: int = 0) -> Tensor:
        """Complex spectra, shape (B, F, N), or (F, N) of one wave (T,)."""
        spec = self.spec
        window = self.mels[resolution].get_buffer("stft.wcos")[0, 0]  # the kernel at 0 Hz is the window itself
        return torch.stft(waves, spec.n_fft, spec.hop_length, window=window, pad_mode="constant", return_complex=True)

    def _power_fft(self, waves: Tensor, resolution: int) -> Tensor:
        def window_power(wave: Tensor) -> Tensor:  # one window at a time fits into the CPU's cache
            spectra = self._spectra(wave, resolution)
            return torch.sparse.mm(self.mel_basis, spectra.real.square() + spectra.imag.square())

        return torch.stack([window_power(wave) for wave in waves])

    def _prepare_fused(self, mel_basis: Tensor) -> None:
        from melgpu.features import triton_kernels  # only here: it imports Triton, which no other engine needs

        self.kernels = triton_kernels
        first_bin, band_weights = triton_kernels.to_banded(mel_basis)
        self.register_buffer("first_bin", first_bin, persistent=False)
        self.register_buffer("band_weights", band_weights, persistent=False)

    def _fused_power(self, waves: Tensor) -> tuple[Tensor, Tensor]:
        """Mel power, shape (B, N, M), and each window's maximum, (B,)."""
        spectra = self._spectra(waves).mT.contiguous()  # (B, N, F), as torch.stft lays them out
        return self.kernels.mel_power(spectra, self.first_bin, self.band_weights)

    def _fused_pixels(self, waves: Tensor) -> Tensor:
        """Pixel values, shape (B, M, S): resized in time only, low frequencies at the bottom."""
        power, peak = self._fused_power(waves)
        first_frame, weights = self._time_resize_weights(power.shape[1], waves.device)
        return self.kernels.render(power, peak, first_frame, weights, self.spec.top_db, AMIN)

    def _time_resize_weights(self, num_frames: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """The matrix of `interpolate` with antialiasing from frames to pixels, banded; cached by number of frames."""
        cache = self.__dict__.setdefault("_time_resize_cache", {})
        if (num_frames, device) not in cache:
            # Resized unit impulses are the columns of the matrix.
            impulses = torch.eye(num_frames)[None, None]
            size = (num_frames, self.spec.image_size)
            matrix = F.interpolate(impulses, size, mode="bilinear", antialias=True)[0, 0].mT  # (S, N)
            banded = self.kernels.to_banded(matrix)
            cache[num_frames, device] = tuple(tensor.to(device) for tensor in banded)
        return cache[num_frames, device]

    def render(self, decibels: Tensor) -> Tensor:
        """dB (B, C, M, N) to pictures (B, C, S, S) in [0, 1]."""
        if self.spec.range == "window":
            return self._resize(_min_max_scale(decibels).flip(-2))
        return self._resize((decibels / self.spec.top_db + 1).flip(-2))

    def _resize(self, pictures: Tensor) -> Tensor:
        size = (self.spec.image_size, self.spec.image_size)
        if pictures.shape[-2:] == size:
            return pictures
        return F.interpolate(pictures, size, mode="bilinear", antialias=True)

    def _apply_colour_map(self, pictures: Tensor) -> Tensor:
        # NaN is no index of a colour: it is replaced here and put back below.
        levels = (pictures[:, 0].nan_to_num() * 256).long().clamp(0, 255)
        coloured = self.colour_map[levels].permute(0, 3, 1, 2)
        return coloured.masked_fill(pictures.isnan(), torch.nan)

    def _mfcc_and_deltas(self, decibels: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures (B, 1, S, S) of the MFCC, min-max scaled, and of the deltas in time, grey where they are 0."""
        mfcc = (decibels.mT @ self.dct).mT.unsqueeze(1)
        deltas = compute_deltas(decibels, win_length=9).unsqueeze(1) / (2 * MAX_DELTA_DB) + 0.5
        mfcc_picture = self._resize(_min_max_scale(mfcc).flip(-2))
        delta_picture = self._resize(deltas.clamp(0, 1).flip(-2))
        return mfcc_picture, delta_picture


def _check_mel_bands(mel_basis: Tensor, spec: MelSpec, sample_rate: int) -> None:
    if not bool(mel_basis.any(1).all()):
        raise InputError(
            f"mel.n_mels = {spec.n_mels}: {int((~mel_basis.any(1)).sum())} mel bands contain no bin of an FFT of "
            f"{spec.n_fft} at {sample_rate} Hz; use fewer bands or a larger mel.n_fft"
        )


def _mel_spectrogram(spec: MelSpec, sample_rate: int, win_length: int) -> MelSpectrogram:
    return MelSpectrogram(
        sr=sample_rate,
        n_fft=spec.n_fft,
        win_length=win_length,
        hop_length=spec.hop_length,
        n_mels=spec.n_mels,
        fmin=spec.fmin,
        fmax=spec.fmax or None,
        pad_mode="constant",  # as in librosa; nnAudio would reflect
        norm=1,  # Slaney's, which nnAudio does not take by name
        verbose=False,
    )


def _liftered_dct(n_mels: int) -> Tensor:
    """DCT matrix, shape (M, NUM_MFCC): dB (..., M) times it are MFCC, liftered so that high coefficients are visible.

    Source: Juang, Rabiner and Wilpon, "On the use of bandpass liftering in speech recognition" (1987), as in librosa.
    """
    lifter = 2 * (NUM_MFCC + 1)
    gains = 1 + lifter / 2 * torch.sin(torch.pi * torch.arange(1, NUM_MFCC + 2) / lifter)
    return (create_dct(NUM_MFCC + 1, n_mels, "ortho") * gains)[:, 1:]  # without the first coefficient


def _min_max_scale(values: Tensor) -> Tensor:
    """Each channel of each window (last two axes) min-max scaled to [0, 1]; a constant one is 0."""
    low = values.amin((-2, -1), keepdim=True)
    high = values.amax((-2, -1), keepdim=True)
    return (values - low) / (high - low).clamp(min=1e-6)


def _viridis() -> Tensor:
    """Matplotlib's viridis colour map, shape (256, 3)."""
    import matplotlib  # only here: other pictures do not need it

    return torch.tensor(matplotlib.colormaps["viridis"](range(256))[:, :3], dtype=torch.float32)
