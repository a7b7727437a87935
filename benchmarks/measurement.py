"""Helpers for measuring single stages: recipes with one change, random waves, constant and training batches, rates."""

import itertools
from collections.abc import Generator, Iterator

import numpy as np
import tomli_w
import torch
from torch import nn

from benchmarks import timing
from melgpu.data import windows
from melgpu.data.batch import Batch
from melgpu.data.loader import WindowLoader
from melgpu.errors import InputError, one_line
from melgpu.features import engines
from melgpu.features.log_mel import LogMel
from melgpu.recipe import Recipe, apply_overrides


class PrecomputedPictures(nn.Module):
    """The front end of batches that hold pictures already: the identity."""

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return pictures


def with_value(recipe: Recipe, key: str, value: object) -> Recipe:
    """A recipe with one `table.key` replaced. Raises InputError for a value that is not valid in this recipe."""
    return apply_overrides(recipe, [f"{key}={tomli_w.dumps({'x': value}).partition('=')[2].strip()}"])


def failure(error: Exception) -> str:
    """Why a measurement failed, in one line; it costs its row and not the run."""
    reason = one_line(error)
    return reason if isinstance(error, InputError) else f"{type(error).__name__}: {reason}"


def rate_summary(samples: list[float]) -> dict:
    """Median and quartiles of rates in windows/s, and the samples."""
    median, low, high = timing.median_and_quartiles(samples)
    return {"windows_per_s": median, "quartiles": [low, high], "samples_windows_per_s": samples}


def window_samples(recipe: Recipe) -> int:
    return windows.to_samples(recipe.windows.window_s, recipe.audio.sample_rate)


def noise(recipe: Recipe, batch_size: int, device: torch.device) -> torch.Tensor:
    """Random waves on the device, shape (B, T)."""
    generator = torch.Generator().manual_seed(0)
    return (0.1 * torch.randn(batch_size, window_samples(recipe), generator=generator)).to(device)


def front_end(recipe: Recipe, device: torch.device) -> LogMel:
    """The front end of a recipe, as training and prediction use it, with the engine that `auto` is on this device."""
    features = LogMel(recipe.mel, recipe.audio.sample_rate, recipe.machine.feature_batch).to(device)
    if recipe.mel.engine == "auto" and device.type == "cuda":
        engines.resolve_engine(features, recipe.audio.sample_rate, device)
    return features


def repeat_batch(waves: torch.Tensor) -> Iterator[Batch]:
    """The same batch of one track, on the device of its waves, without end."""
    rows = torch.zeros(len(waves), dtype=torch.int64)
    return itertools.repeat(Batch(waves, rows, rows, rows == 0))


def training_batches(loader: WindowLoader, recipe: Recipe, batch_size: int) -> Generator[Batch]:
    """Shuffled full batches of a loader's tracks, epoch after epoch, without end."""
    tracks = np.arange(len(loader.paths))
    full_index = windows.training_windows(tracks, [""] * len(tracks), recipe.audio, recipe.windows)
    for epoch in itertools.count():
        index = windows.shuffle(full_index, recipe.shuffle_tracks_for("resnet50"), recipe.seed, epoch)
        index = windows.drop_last(index, batch_size)
        yield from loader.batches(index, window_samples(recipe), batch_size)


def copy_rates(recipe: Recipe, batch_size: int, device: torch.device, seconds: float) -> list[float]:
    """Windows a second from pinned memory to a GPU."""
    host = noise(recipe, batch_size, torch.device("cpu")).pin_memory()
    call_s = timing.measure(lambda: host.to(device, non_blocking=True), device, seconds)
    return [batch_size / elapsed for elapsed in call_s]
