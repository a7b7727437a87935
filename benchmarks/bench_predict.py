"""How many tracks a second does the whole ensemble judge, and how much of that time is the networks' own?

    python -m benchmarks.bench_predict [--recipe NAME] [--tracks 16] [--music FOLDER] [--device cuda]

All networks of the last round (18 in zalo2019: six on three folds), with random weights. Two-minute files are decoded
once, their pictures and mirror images go through all networks; beside it, in turn, the networks alone, on as many
pictures that lie on the device. The share of the second in the first is what the pipeline leaves to the networks.
"""

import os
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from benchmarks import measurement, timing
from benchmarks.cli import arguments, paths_of, recipe_of
from melgpu import cli
from melgpu.data import windows
from melgpu.data.batch import Batch
from melgpu.data.loader import WindowLoader
from melgpu.models import classifier, inference
from melgpu.recipe import Recipe

NUM_CLASSES = 10


def time_pass(models: list, features, batches: Iterable[Batch], recipe: Recipe, device: torch.device) -> float:
    """Seconds until all probabilities are there."""
    bfloat16 = classifier.use_bfloat16(recipe.optim.precision, device)
    started = time.perf_counter()
    for _ in inference.window_probs(models, features, batches, recipe.predict.flip, bfloat16):
        pass
    return time.perf_counter() - started


def build(name: str, recipe: Recipe, device: torch.device) -> classifier.Classifier:
    """A network with random weights on the device."""
    return classifier.build(name, NUM_CLASSES, recipe).to(device)


def time_ready(name: str, recipe: Recipe, size: int, repeats: int, device: torch.device) -> list[float]:
    """Seconds of one network for a batch of pictures that lie on the device, and their mirror images."""
    models = [build(name, recipe, device)]
    pictures = measurement.front_end(recipe, device)(measurement.noise(recipe, size, device))
    ready = measurement.same_batch(pictures)
    return [time_pass(models, measurement.Ready(), [next(ready)], recipe, device) for _ in range(repeats + 1)][1:]


def index_of(recipe: Recipe, num_tracks: int) -> windows.WindowIndex:
    """The windows by which tracks are judged."""
    public = np.zeros(num_tracks, bool)
    return windows.prediction_windows(np.arange(num_tracks), public, recipe.audio, recipe.windows)


def run(recipe: Recipe, paths: list[str], repeats: int, device: torch.device) -> dict:
    spec, size = recipe.rounds[-1], recipe.loader.predict_batch_size
    models = [build(name, recipe, device) for name in spec.backbones for _ in spec.folds]
    features, index = measurement.front_end(recipe, device), index_of(recipe, len(paths))
    pictures = features(measurement.noise(recipe, size, device))
    sizes = [len(index[start : start + size]) for start in range(0, len(index), size)]
    samples: dict[str, list[float]] = {"networks alone": [], "files to probabilities": []}
    with WindowLoader(paths, recipe.audio, recipe.loader, device) as loader:
        for _ in range(repeats + 1):
            ready = (next(measurement.same_batch(pictures[:count])) for count in sizes)
            samples["networks alone"].append(time_pass(models, measurement.Ready(), ready, recipe, device))
            batches = loader.batches(index, measurement.window_samples(recipe), size)
            samples["files to probabilities"].append(time_pass(models, features, batches, recipe, device))
    samples = {way: own[1:] for way, own in samples.items()}  # the first warms up
    alone, whole = (float(np.median(own)) for own in samples.values())
    result = {"benchmark": "predict", **timing.machine(device), "models": len(models), "tracks": len(paths)}
    result |= {"windows": len(index), "batch_size": size, "image_size": recipe.mel.image_size}
    result |= {"workers": min(recipe.loader.workers, os.cpu_count() or 1), "samples_s": samples}
    return result | {"tracks_per_s": len(paths) / whole, "share_of_the_networks": alone / whole}


def main(given: list[str] | None = None) -> int:
    parser = arguments(__doc__, tracks=16)
    parser.add_argument("--repeats", type=int, default=3, help="samples of each way (default: 3)")
    args = parser.parse_args(given)
    recipe = recipe_of(args)
    with tempfile.TemporaryDirectory() as folder:
        result = run(recipe, paths_of(args, Path(folder)), args.repeats, cli.select_device(args.device))
    low, high = (
        min(result["samples_s"]["files to probabilities"]),
        max(result["samples_s"]["files to probabilities"]),
    )
    Console(highlight=False).print(
        f"{result['models']} networks, {result['tracks']} tracks, {result['windows']} windows and their mirror images, "
        f"{result['device']}\n{result['tracks_per_s']:.3g} tracks/s ({result['tracks'] / high:.3g} to "
        f"{result['tracks'] / low:.3g}); the networks alone take {result['share_of_the_networks']:.1%} of that time"
    )
    implausible = ["the pipeline"] if result["share_of_the_networks"] > 1.1 else []
    return timing.finish(result, args.out, implausible)


if __name__ == "__main__":
    cli.run(main)
