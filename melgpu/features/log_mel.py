"""Waveforms to log-mel pictures on the device.

waves (B, T) -> mel power (B, M, N) -> dB re each window's own maximum -> resized picture (B, 3, S, S) in [0, 1],
where 0 is `top_db` below the maximum (and silence), 1 the maximum; low frequencies at the bottom, time to the right.
The definition is librosa's: Slaney mel scale and norm, Hann window, centred frames, zero padding. All arithmetic is
IEEE float32: autocast and TF32 are disabled (TF32 has an error of up to 2.3 dB). A window with samples that are not
finite gives a picture that is NaN throughout; other windows of the batch are unaffected. Nothing here synchronizes
with the device. nnAudio supplies window, kernels and mel basis, and its convolution is the reference; the faster
engines compute the same from its window and mel basis, within the parity gate (`melgpu.features.parity`).
"""

import warnings
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from nnAudio.features.mel import MelSpectrogram
from torch import Tensor, nn

from melgpu.errors import InputError
from melgpu.features import channels
from melgpu.features.memory import in_parts_that_fit
from melgpu.features.precision import float32_precision
from melgpu.recipe_schema import EngineName, MelSpec

if TYPE_CHECKING:
    from melgpu.features.fused import FusedEngine

AMIN = 1e-10  # power that counts as silence, as in librosa
CPU_CHUNK_SIZE = 1  # windows per chunk on a CPU: more do not fit into its cache
MAX_GPU_FRACTION = 1 / 16  # of a GPU's memory, for the spectra of a chunk: a network needs the rest
MAX_GPU_CHUNK_SIZE = 65_535  # CUDA's limit of a grid's last axis, along which the kernels of `fused` take windows


class LogMel(nn.Module):
    """The front end of every network, the same module for training, prediction and benchmarks.

    Engines give the same numbers. `nnaudio` is nnAudio's convolution; `fft` the same transform from nnAudio's window
    and mel basis by real FFT and a sparse mel product (a bin lies in at most two bands); `fused` (CUDA) the FFT and
    Triton kernels for all before and after it. `auto` is `fft` until `engines.resolve_engine` has chosen one for a
    device. Raises InputError for a wrong spec, and where mel bands contain no FFT bin.
    """

    mel_rows: Tensor  # the mel basis in CSR form
    mel_columns: Tensor
    mel_values: Tensor
    colour_map: Tensor
    dct: Tensor

    def __init__(self, spec: MelSpec, sample_rate: int, chunk_size: int = 0):
        """`chunk_size` windows are processed at a time; 0 takes CPU_CHUNK_SIZE on a CPU, on a GPU `gpu_chunk_size`."""
        super().__init__()
        self.spec = spec.changed()  # validates a spec that was copied with other values
        self.chunk_size = chunk_size
        divisors = (1, 2, 4) if spec.channels == "resolutions" else (1,)
        self.mels = nn.ModuleList(_mel_spectrogram(spec, sample_rate, spec.n_fft // divisor) for divisor in divisors)
        mel_basis = self.mels[0].get_buffer("mel_basis")
        # Buffers move with the module but are not saved: they follow from the recipe.
        with warnings.catch_warnings(
            action="ignore"
        ):  # once in a process torch says that CSR tensors are beta, unchecked
            self._register_basis(mel_basis.to_sparse_csr())
            _check_mel_bands(self.mel_basis, spec, sample_rate)
        if spec.channels == "viridis":
            self.register_buffer("colour_map", channels.viridis(), persistent=False)
        if spec.channels == "mfcc":
            self.register_buffer("dct", channels.liftered_dct(spec.n_mels), persistent=False)
        self.fused: FusedEngine | None = None
        self.use_engine(spec.engine)

    def _register_basis(self, basis: Tensor) -> None:
        """Keep a CSR tensor as its parts: itself it cannot be copied."""
        self.register_buffer("mel_rows", basis.crow_indices(), persistent=False)
        self.register_buffer("mel_columns", basis.col_indices(), persistent=False)
        self.register_buffer("mel_values", basis.values(), persistent=False)

    @property
    def mel_basis(self) -> Tensor:
        """The mel basis, sparse, shape (M, F)."""
        shape = (self.spec.n_mels, self.spec.n_fft // 2 + 1)
        return torch.sparse_csr_tensor(self.mel_rows, self.mel_columns, self.mel_values, shape, check_invariants=False)

    def use_engine(self, engine: EngineName) -> None:
        """Compute with this engine from now on. Raises InputError for `fused` without Triton, or for other pictures."""
        self.spec.changed(engine=engine)
        if engine == "fused" and self.fused is None:
            self.fused = self._make_fused()
        self.engine: EngineName = engine

    def _make_fused(self) -> "FusedEngine":
        try:
            from melgpu.features.fused import FusedEngine  # only here: it imports Triton, which no other engine needs
        except ImportError:
            raise InputError("mel.engine fused needs Triton, which comes with PyTorch for CUDA") from None
        mel_basis = self.mels[0].get_buffer("mel_basis")
        return FusedEngine(self.spec, self._taper(), mel_basis.cpu(), AMIN).to(mel_basis.device)

    def forward(self, waves: Tensor) -> Tensor:
        """Pictures, shape (B, 3, S, S), float32; with grey channels, three views of one channel."""
        chunk_size = self.chunk_size or self._default_chunk_size(waves)
        with torch.no_grad(), torch.autocast(waves.device.type, enabled=False), float32_precision("ieee"):
            pictures = [in_parts_that_fit(self._pictures, chunk) for chunk in waves.float().split(chunk_size)]
        # Joined before replication: parts of three channels would take three times the memory.
        joined = pictures[0] if len(pictures) == 1 else torch.cat(pictures)
        return joined.expand(-1, 3, -1, -1)

    def _default_chunk_size(self, waves: Tensor) -> int:
        if waves.device.type != "cuda":
            return CPU_CHUNK_SIZE
        memory = torch.cuda.get_device_properties(waves.device).total_memory
        return gpu_chunk_size(self.spec, waves.shape[-1], memory)

    def _pictures(self, waves: Tensor) -> Tensor:
        """Pictures, shape (B, 1, S, S) where the channels are the same, else (B, 3, S, S)."""
        if self.fused and self.engine_on(waves.device) == "fused":
            return self._resize(self.fused.pixels(waves).unsqueeze(1))
        if self.spec.channels == "resolutions":
            resolutions = [self.decibels(waves, resolution) for resolution in range(len(self.mels))]
            return self.render(torch.stack(resolutions, dim=1))
        decibels = self.decibels(waves)
        pictures = self.render(decibels.unsqueeze(1))
        if self.spec.channels == "mfcc":
            others = (channels.mfcc(decibels, self.dct), channels.deltas(decibels))
            return torch.cat([pictures, *(self._resize(channel.flip(-2)) for channel in others)], dim=1)
        if self.spec.channels == "viridis":
            return channels.apply_colour_map(pictures, self.colour_map)
        return pictures

    def decibels(self, waves: Tensor, resolution: int = 0) -> Tensor:
        """Log-mel power, shape (B, M, N), in dB re each window's maximum, within [-top_db, 0]; NaN where not finite.

        `resolution` 0 is a window length of n_fft, 1 and 2 a half and a quarter of it.
        """
        if self.fused and self.engine_on(waves.device) == "fused":
            return self._log_power_to_db(*self.fused.log_power(waves))
        return self.power_to_db(self.power(waves, resolution))

    def exact_decibels(self, waves: Tensor) -> Tensor:
        """`decibels` as `forward` computes them: IEEE float32, without autocast."""
        with torch.no_grad(), torch.autocast(waves.device.type, enabled=False), float32_precision("ieee"):
            return self.decibels(waves.float())

    def power_to_db(self, power: Tensor) -> Tensor:
        """Power (B, M, N) in dB re each window's maximum."""
        peak = power.amax((-2, -1), keepdim=True)
        return self._log_power_to_db(power.clamp(min=AMIN).log10_(), peak)

    def _log_power_to_db(self, log_power: Tensor, peak: Tensor) -> Tensor:
        """The log10 of power, (B, M, N), in dB re each window's maximum power, (B, 1, 1)."""
        # A peak that is not finite gives a reference of NaN, which makes the whole window NaN.
        reference = peak.clamp(min=AMIN).log10().masked_fill(~peak.isfinite(), torch.nan)
        decibels = log_power.sub_(reference).mul_(10)  # in place: allocation costs more
        # Silence would be 0 dB everywhere, its own maximum: it is defined as the darkest picture.
        return decibels.clamp_(min=-self.spec.top_db).masked_fill_(peak <= AMIN, -self.spec.top_db)

    def power(self, waves: Tensor, resolution: int = 0) -> Tensor:
        """Mel power, shape (B, M, N), by nnAudio's convolution or by FFT."""
        if self.engine_on(waves.device) == "nnaudio":
            return self.mels[resolution](waves)
        return self._power_fft(waves, resolution)

    def engine_on(self, device: torch.device) -> EngineName:
        """The engine that runs on a device: on a CPU, `fft` replaces `fused` (except in Triton's interpreter)."""
        if self.engine == "auto" or (self.fused and self.engine == "fused" and not self.fused.runs_on(device)):
            return "fft"
        return self.engine

    def _spectra(self, waves: Tensor, resolution: int = 0) -> Tensor:
        """Complex spectra, shape (B, F, N), or (F, N) of one wave (T,)."""
        spec = self.spec
        taper = self._taper(resolution)
        return torch.stft(waves, spec.n_fft, spec.hop_length, window=taper, pad_mode="constant", return_complex=True)

    def _taper(self, resolution: int = 0) -> Tensor:
        """nnAudio's window of a spectrum, shape (n_fft,)."""
        return self.mels[resolution].get_buffer("stft.wcos")[0, 0]  # the kernel at 0 Hz is the window itself

    def _power_fft(self, waves: Tensor, resolution: int) -> Tensor:
        if waves.device.type != "cpu":
            return self._power_of_batch(waves, resolution)
        # One window at a time fits into the CPU's cache.
        return torch.cat([self._power_of_batch(wave, resolution) for wave in waves.split(1)])

    def _power_of_batch(self, waves: Tensor, resolution: int) -> Tensor:
        """One FFT and one sparse product of all windows: on a GPU the launches of single ones would take longer."""
        spectra = self._spectra(waves, resolution).mT  # (B, N, F), as torch.stft lays them out
        bin_power = spectra.real.square() + spectra.imag.square()
        mel_power = torch.sparse.mm(self.mel_basis, bin_power.flatten(0, 1).mT)  # (M, B N)
        return mel_power.unflatten(1, bin_power.shape[:2]).transpose(0, 1)

    def render(self, decibels: Tensor) -> Tensor:
        """dB (B, C, M, N) to pictures (B, C, S, S) in [0, 1]."""
        if self.spec.range == "window":
            return self._resize(channels.min_max_scale(decibels).flip(-2))
        return self._resize((decibels / self.spec.top_db + 1).flip(-2))

    def _resize(self, pictures: Tensor) -> Tensor:
        size = (self.spec.image_size, self.spec.image_size)
        if pictures.shape[-2:] == size:
            return pictures
        return F.interpolate(pictures, size, mode="bilinear", antialias=True)


def gpu_chunk_size(spec: MelSpec, num_samples: int, memory_bytes: int) -> int:
    """How many windows a GPU with so much memory processes at a time.

    The size of the memory decides, not what is free of it: a training that resumes computes in the same chunks.
    """
    num_frames = num_samples // spec.hop_length + 1
    # A bound: 28 MB for a window of zalo2019, of which `nnaudio` took 19, `fft` 18 and `fused` 16 on an H100.
    window_bytes = 4 * num_frames * 4 * spec.n_fft
    chunk_size = int(MAX_GPU_FRACTION * memory_bytes / window_bytes)
    return min(max(1, chunk_size), MAX_GPU_CHUNK_SIZE)


def _check_mel_bands(mel_basis: Tensor, spec: MelSpec, sample_rate: int) -> None:
    num_empty = int((mel_basis.crow_indices().diff() == 0).sum())
    if num_empty:
        raise InputError(
            f"mel.n_mels = {spec.n_mels}: {num_empty} mel bands contain no bin of an FFT of {spec.n_fft} at "
            f"{sample_rate} Hz; use fewer bands or a larger mel.n_fft"
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
