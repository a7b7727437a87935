"""What measurements of single stages share: waves, batches that lie there, whole epochs, rates in windows a second."""

import itertools
from collections.abc import Iterator

import numpy as np
import torch
from torch import nn

from benchmarks import timing
from melgpu.data import windows
from melgpu.data.batch import Batch
from melgpu.data.loader import WindowLoader
from melgpu.features.log_mel import LogMel
from melgpu.recipe import Recipe


class Ready(nn.Module):
    """A front end whose work is done: the batches hold pictures."""

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return pictures


def rates_of(samples: list[float]) -> dict:
    """The median of rates in windows/s, their quartiles, and all of them."""
    middle, low, high = timing.spread(samples)
    return {"windows_per_s": middle, "quartiles": [low, high], "samples_windows_per_s": samples}


def window_samples(settings: Recipe) -> int:
    return windows.to_samples(settings.windows.window_s, settings.audio.sample_rate)


def noise(settings: Recipe, batch_size: int, device: torch.device) -> torch.Tensor:
    """Waves on the device, shape (B, T)."""
    generator = torch.Generator().manual_seed(0)
    return (0.1 * torch.randn(batch_size, window_samples(settings), generator=generator)).to(device)


def front_end(settings: Recipe, device: torch.device) -> LogMel:
    """The pictures of a recipe, as training and prediction draw them."""
    return LogMel(settings.mel, settings.audio.sample_rate, settings.machine.feature_batch).to(device)


def same_batch(waves: torch.Tensor) -> Iterator[Batch]:
    """A batch of one track that lies on the device, again and again."""
    rows = torch.zeros(len(waves), dtype=torch.int64)
    return itertools.repeat(Batch(waves, rows, rows, rows == 0))


def epochs(stream: WindowLoader, settings: Recipe, batch_size: int) -> Iterator[Batch]:
    """Whole shuffled batches of a stream's tracks, epoch after epoch."""
    tracks = np.arange(len(stream.paths))
    whole = windows.training_windows(tracks, [""] * len(tracks), settings.audio, settings.windows)
    for epoch in itertools.count():
        order = windows.shuffle(whole, settings.shuffle_tracks_for("resnet50"), settings.seed, epoch)
        order = windows.drop_last(order, batch_size)
        yield from stream.batches(order, window_samples(settings), batch_size)


def copies(settings: Recipe, batch_size: int, device: torch.device, seconds: float) -> list[float]:
    """Windows a second from pinned memory to a GPU."""
    host = noise(settings, batch_size, torch.device("cpu")).pin_memory()
    return [batch_size / own for own in timing.measure(lambda: host.to(device, non_blocking=True), device, seconds)]
