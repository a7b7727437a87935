"""The front end for training loops of one's own, `melgpu.LogMel`: waveforms to log-mel pictures on the device.

The pictures are those of melgpu's networks (`melgpu.features.log_mel`), by arguments named like librosa's instead of a
recipe, and with checks of what comes in.
"""

import json
import warnings
from typing import Literal

import torch
from torch import Tensor

from melgpu.features import engines, log_mel
from melgpu.recipe import load_recipe, validate_recipe

INT16_SCALE = 1 / 32_768  # to [-1, 1]


class LogMel(log_mel.LogMel):
    """Waveforms (B, T) to log-mel pictures (B, 3, S, S) for a network that expects images.

    A picture has a window's mel power in dB, from `top_db` below its maximum (0.0) to the maximum (1.0): low
    frequencies at the bottom, time to the right, resized to `image_size` pixels. It is librosa's melspectrogram
    (Slaney's mel scale and norm, Hann window, zero padding), computed in float32 on the device of the waves.

        import timm
        import torch
        import melgpu

        device = "cuda" if torch.cuda.is_available() else "cpu"
        features = melgpu.LogMel(sample_rate=22050).to(device)
        network = timm.create_model("resnet50", pretrained=True, num_classes=10)
        model = torch.nn.Sequential(torch.nn.BatchNorm2d(3), network).to(device)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
        waves = torch.rand(64, 20 * 22050) * 2 - 1  # your windows of 20 s
        labels = torch.randint(10, (64,))
        dataset = torch.utils.data.TensorDataset(waves, labels)
        for epoch in range(3):
            for batch, targets in torch.utils.data.DataLoader(dataset, batch_size=16, shuffle=True):
                pictures = features(batch.to(device))  # (16, 3, 512, 512)
                loss = torch.nn.functional.cross_entropy(model(pictures), targets.to(device))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            print(f"epoch {epoch}: loss {loss.item():.3f}")

    The module moves to a device with `.to`; it has no parameters, no gradient, and nothing in its `state_dict`.
    """

    def __init__(
        self,
        *,
        sample_rate: int = 22050,
        n_fft: int = 2048,
        hop_length: int = 512,
        n_mels: int = 512,
        fmin: float = 0.0,
        fmax: float | None = None,
        top_db: float = 80.0,
        image_size: int = 512,
        engine: Literal["auto", "nnaudio", "fft", "fused"] = "auto",
        channels: Literal["grey", "viridis", "mfcc", "resolutions"] = "grey",
        range: Literal["fixed", "window"] = "fixed",
    ):
        """Rates and frequencies are in Hz, `fmax` None is the Nyquist frequency; raises ValueError.

        engine : `nnaudio` (the reference), `fft` and `fused` (Triton, CUDA only) give the same numbers; `auto` is `fft`
            on a CPU, on a GPU the first of `fused`, `fft`, `nnaudio` that passes the parity gate at the first call
        channels : `grey`, three times the same; `viridis`, its colours; `mfcc`, mel, MFCC and deltas; `resolutions`,
            windows of n_fft, a half and a quarter of it
        range : `window` scales each picture from its own minimum to its maximum
        """
        settings = {
            "engine": engine,
            "channels": channels,
            "range": range,
            "n_fft": n_fft,
            "hop_length": hop_length,
            "n_mels": n_mels,
            "fmin": fmin,
            "fmax": fmax or 0.0,
            "top_db": top_db,
            "image_size": image_size,
        }
        # A recipe's validation, which also knows what does not work together.
        data = json.loads(load_recipe([]).to_json())
        data["audio"]["sample_rate"] = sample_rate
        data["mel"] = settings
        recipe = validate_recipe(data, "of LogMel")
        super().__init__(recipe.mel, sample_rate)
        self.sample_rate = sample_rate  # of the probe that chooses an engine
        for module in self.modules():
            for name, buffer in list(module.named_buffers(recurse=False)):
                # nnAudio would save its kernels, 17 MB, in every checkpoint of a model that contains this module.
                module.register_buffer(name, buffer, persistent=False)

    def forward(self, waves: Tensor) -> Tensor:
        """Pictures, shape (B, 3, S, S), float32, of waves (B, T); (1, 3, S, S) of one wave (T,).

        waves : float32 or float64 in [-1, 1], or int16, on the module's device; of any length, even of one sample

        Grey channels are three views of one: clone them before writing in place. A wave with samples that are not
        finite gives NaN throughout. Raises ValueError for another shape or dtype.
        """
        if self.engine == "auto" and waves.is_cuda:
            resolved = engines.resolve_engine(self, self.sample_rate, waves.device)
            for note in resolved.notes:
                warnings.warn(note, stacklevel=2)
        return super().forward(_to_float_batch(waves))


def _to_float_batch(waves: Tensor) -> Tensor:
    """Waves (B, T) of a float dtype."""
    shape = tuple(waves.shape)
    if len(shape) not in (1, 2) or 0 in shape:
        raise ValueError(f"waves of shape {shape}; expected (B, T) or (T,), with at least one sample")
    if waves.dtype == torch.int16:
        waves = waves.float() * INT16_SCALE
    if waves.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"waves of {waves.dtype}; expected float32 or float64 in [-1, 1], or int16")
    return waves if waves.ndim == 2 else waves.unsqueeze(0)
