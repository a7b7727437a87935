"""A network with its front end as one module that torch.export can trace: waveforms to class probabilities.

All is computed in float32, except for a network that was converted with `half`.
"""

import math
import warnings

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from melgpu.data import windows
from melgpu.export.metadata import ExportOptions
from melgpu.features.log_mel import LogMel
from melgpu.models.classifier import LoadedNetwork
from melgpu.recipe import Recipe
from melgpu.recipe_schema import MelSpec

MAX_BATCH = 2**16
MAX_WAVE_SAMPLES = 2**31 - 1
EXAMPLE_BATCH = 2  # torch.export takes an axis of length 1 for one that is always so


class MelPower(nn.Module):
    """nnAudio's mel power, shape (B, M, N), of waves (B, T), by matrix products, which every runtime has.

    Sample n = Q p + q of a frame and bin k = k1 + P k2 of its spectrum, with n_fft = P Q, make the transform two
    shorter ones: a tenth of the products of nnAudio's convolution (n_fft = 2048). All but window and mel basis is
    computed in the graph, and is in no file. Source: Cooley and Tukey, "An algorithm for the machine calculation of
    complex Fourier series" (1965).
    """

    taper: Tensor
    mel_basis: Tensor

    def __init__(self, taper: Tensor, mel_basis: Tensor, hop_length: int):
        super().__init__()
        # Copies: a view would bring the kernels that it is a part of into the file.
        self.register_buffer("taper", taper.clone())
        self.register_buffer("mel_basis", mel_basis.clone())
        self.hop_length = hop_length
        # Frames begin at whole blocks of Q samples, which are copied as they are.
        self.block = _largest_divisor(math.gcd(len(taper), hop_length), math.isqrt(2 * len(taper)))

    def forward(self, waves: Tensor) -> Tensor:
        n_fft = len(self.taper)
        num_q = self.block
        num_p = n_fft // num_q
        num_k2 = num_q // 2 + 1  # the others are bins above the Nyquist frequency
        num_frames = waves.shape[1] // self.hop_length + 1
        p, q, k1, k2 = (torch.arange(count) for count in (num_p, num_q, num_p, num_k2))
        padded = F.pad(waves, (n_fft // 2, n_fft // 2 + -(waves.shape[1] + n_fft) % num_q))
        blocks = p[:, None] + torch.arange(num_frames) * (self.hop_length // num_q)  # (P, N)
        frames = padded.unflatten(1, (-1, num_q)).index_select(1, blocks.flatten())  # (B, P N, Q)
        frames = frames.unflatten(1, (num_p, num_frames)) * self.taper.view(num_p, 1, num_q)
        columns = frames.flatten(2)  # (B, P, N Q)
        short = [(part @ columns).unflatten(2, (num_frames, num_q)) for part in _turns(k1[:, None] * p, num_p)]
        real, imaginary = _turns(q[:, None] * (k1[:, None, None] + num_p * k2), n_fft)  # (P, Q, K2)
        long = short[0] @ torch.cat([real, imaginary], 2) + short[1] @ torch.cat([-imaginary, real], 2)
        power = (long * long).unflatten(3, (2, num_k2)).sum(3)  # (B, P, N, K2)
        basis = F.pad(self.mel_basis, (0, num_p * num_k2 - self.mel_basis.shape[1]))
        basis = basis.unflatten(1, (num_k2, num_p)).transpose(1, 2).flatten(1)  # (M, P K2)
        return basis @ power.transpose(2, 3).flatten(1, 2)


def _turns(turns: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Real and imaginary part of exp(-2 pi i turns / count)."""
    # Whole turns are removed from integers: in float32 large angles would be inexact.
    angles = (turns % count) * (2 * math.pi / count)
    return angles.cos(), -angles.sin()


def _largest_divisor(number: int, limit: int) -> int:
    return max(divisor for divisor in range(1, limit + 1) if number % divisor == 0)


class ExportLogMel(LogMel):
    """The front end of the networks with the engine `nnaudio`, all windows of a batch together."""

    def __init__(self, spec: MelSpec, sample_rate: int):
        super().__init__(spec.changed(engine="nnaudio"), sample_rate)
        # Of the other engines; parts of a sparse tensor, which torch.export cannot trace.
        del self.mel_rows, self.mel_columns, self.mel_values
        mel_powers = []
        for resolution, mel in enumerate(self.mels):
            mel_powers.append(MelPower(self._taper(resolution), mel.get_buffer("mel_basis"), spec.hop_length))
        self.mels = nn.ModuleList(mel_powers)

    def forward(self, waves: Tensor) -> Tensor:
        """Pictures, shape (B, 3, S, S)."""
        return self._pictures(waves).expand(-1, 3, -1, -1)


class WindowClassifier(nn.Module):
    """Waves (B, T) of one window each to class probabilities (B, C); with `flip`, the mean over two views."""

    def __init__(self, network: LoadedNetwork):
        super().__init__()
        recipe = network.metadata.recipe
        self.front_end = ExportLogMel(recipe.mel, recipe.audio.sample_rate)
        self.network = network.model.set_memory_format(channels_last=False)
        self.flip = recipe.predict.flip

    def forward(self, waves: Tensor) -> Tensor:
        pictures = self.front_end(waves).to(self.network.input_norm.weight.dtype)
        views = torch.cat([pictures, pictures.flip(-1)]) if self.flip else pictures
        probs = self.network(views).float().softmax(1)
        return probs.unflatten(0, (2, -1)).mean(0) if self.flip else probs


class TrackClassifier(nn.Module):
    """A wave (T,) of any length to class probabilities (C,): repeated or cut to `track_s`, mean over its windows."""

    starts: Tensor

    def __init__(self, classifier: WindowClassifier, recipe: Recipe):
        super().__init__()
        self.classifier = classifier
        index = windows.prediction_windows(np.zeros(1), np.zeros(1, bool), recipe.audio, recipe.windows)
        self.register_buffer("starts", torch.from_numpy(index.starts).long())
        self.window_samples = windows.to_samples(recipe.windows.window_s, recipe.audio.sample_rate)

    def forward(self, wave: Tensor) -> Tensor:
        positions = self.starts[:, None] + torch.arange(self.window_samples)
        num_samples = torch.full((1,), wave.shape[0])  # ONNX has no remainder by a length
        return self.classifier(wave[positions % num_samples]).mean(0)


def build(network: LoadedNetwork, options: ExportOptions) -> nn.Module:
    """The module to export. It contains the network itself, which `float16` converts."""
    if options.precision == "float16":
        network.model.half()
    classifier = WindowClassifier(network)
    module = classifier if options.form == "windows" else TrackClassifier(classifier, network.metadata.recipe)
    return module.eval().requires_grad_(False)


def trace(module: nn.Module, options: ExportOptions, window_samples: int) -> ExportedProgram:
    """The module as a graph for any number of windows, or any length of a track."""
    if options.form == "windows":
        example = torch.zeros(EXAMPLE_BATCH, window_samples)
        axis = Dim("batch", max=MAX_BATCH)
    else:
        example = torch.zeros(window_samples)
        axis = Dim("samples", min=2, max=MAX_WAVE_SAMPLES)
    with torch.no_grad(), warnings.catch_warnings(action="ignore"):  # of torch about its own deprecated functions
        program = torch.export.export(module, (example,), dynamic_shapes=({0: axis},), strict=False)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # it names folders of this machine
    return program
