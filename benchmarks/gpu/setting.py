"""What the steps share: recipe, device, audio files, and how much is measured."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks.commands.bench import networks
from benchmarks.gpu import music
from melgpu.errors import InputError
from melgpu.recipe import Recipe, load_recipe

# Random weights, since a GPU machine may have no network; audio from files, since a cache is measured on its own.
ALWAYS = ["backbone.pretrained=false", "loader.pcm_cache='off'"]
SMALL = ["rounds=[{backbones=['resnet10t', 'test_efficientnet'], folds=[0], blend={cnn=1.0}}]"]
MUSIC_LIMIT_S = 120.0


class Measurement(NamedTuple):
    """A row: its name, and what measures its values; one of them is `text`, what the table shows."""

    name: str
    measure: Callable[[], dict]


@dataclass(frozen=True)
class Setting:
    """Everything is small on a CPU: pictures, networks, numbers of windows and repetitions.

    batch_size : windows of a training step
    batch_sizes : windows of a call of a front end
    seconds : of one measurement of a front end
    steps, rounds : steps of a sample, samples of each variant
    predict_tracks : tracks that the ensemble predicts in a pass
    """

    recipe: Recipe
    device: torch.device
    folder: Path
    small: bool
    batch_size: int
    batch_sizes: tuple[int, ...]
    seconds: float
    steps: int
    rounds: int
    predict_tracks: int

    @property
    def networks(self) -> list[str]:
        return networks(self.recipe)

    def music(self) -> list[str]:
        """The audio files, once another process has written them. Raises InputError where it takes too long."""
        deadline = time.monotonic() + MUSIC_LIMIT_S
        while not music.is_complete(self.folder):
            if time.monotonic() > deadline:
                raise InputError(f"{self.folder}: no audio files after {MUSIC_LIMIT_S:.0f} s")
            time.sleep(0.1)
        return music.paths(self.folder)


def make(device: torch.device, folder: Path) -> Setting:
    """The setting for a device; `folder` has, or will have, the audio files."""
    if device.type == "cuda":
        recipe = load_recipe(["zalo2019"], ALWAYS)
        return Setting(recipe, device, folder, False, 32, (1, 8, 32, 64), 0.2, 6, 3, 10)
    recipe = load_recipe(["demo"], [*ALWAYS, *SMALL, "loader.predict_batch_size=2"])
    return Setting(recipe, device, folder, True, 4, (1, 4), 0.05, 2, 2, 2)
