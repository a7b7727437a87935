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


def window_samples(recipe: Recipe) -> int:
    return windows.to_samples(recipe.windows.window_s, recipe.audio.sample_rate)


def noise(recipe: Recipe, batch_size: int, device: torch.device) -> torch.Tensor:
    """Waves on the device, shape (B, T)."""
    generator = torch.Generator().manual_seed(0)
    return (0.1 * torch.randn(batch_size, window_samples(recipe), generator=generator)).to(device)


def front_end(recipe: Recipe, device: torch.device) -> LogMel:
    """The pictures of a recipe, as training and prediction draw them."""
    return LogMel(recipe.mel, recipe.audio.sample_rate, recipe.machine.feature_batch).to(device)


def same_batch(waves: torch.Tensor) -> Iterator[Batch]:
    """A batch of one track that lies on the device, again and again."""
    rows = torch.zeros(len(waves), dtype=torch.int64)
    return itertools.repeat(Batch(waves, rows, rows, rows == 0))


def epochs(loader: WindowLoader, recipe: Recipe, batch_size: int) -> Iterator[Batch]:
    """Whole shuffled batches of a stream's tracks, epoch after epoch."""
    tracks = np.arange(len(loader.paths))
    whole = windows.training_windows(tracks, [""] * len(tracks), recipe.audio, recipe.windows)
    for epoch in itertools.count():
        index = windows.shuffle(whole, recipe.shuffle_tracks_for("resnet50"), recipe.seed, epoch)
        index = windows.drop_last(index, batch_size)
        yield from loader.batches(index, window_samples(recipe), batch_size)


def copies(recipe: Recipe, batch_size: int, device: torch.device, seconds: float) -> list[float]:
    """Windows a second from pinned memory to a GPU."""
    host = noise(recipe, batch_size, torch.device("cpu")).pin_memory()
    return [batch_size / own for own in timing.measure(lambda: host.to(device, non_blocking=True), device, seconds)]
