"""How many tracks a second does the whole ensemble predict, and what fraction of that time do the networks need?

    python -m benchmarks.bench_predict [--recipe NAME] [--tracks 16] [--music FOLDER] [--device cuda]

All networks of the last round (18 in zalo2019: six on three folds), with random weights. Two-minute files are decoded
once, their pictures and mirror images go through all networks; alternating with it, the networks alone, on as many
pictures on the device. The ratio of their times is the fraction of time in which the networks are busy.
"""

import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from torch import nn

from benchmarks import measurement, timing
from benchmarks.cli import make_parser, paths_of, recipe_of
from melgpu import cli
from melgpu.audio.pool import num_processes
from melgpu.data import windows
from melgpu.data.batch import Batch
from melgpu.data.loader import WindowLoader
from melgpu.models import classifier, inference
from melgpu.recipe import Recipe

NUM_CLASSES = 10


def time_pass(
    models: Sequence[nn.Module], features: nn.Module, batches: Iterable[Batch], recipe: Recipe, device: torch.device
) -> float:
    """Seconds to predict all windows of the batches."""
    bfloat16 = classifier.use_bfloat16(recipe.optim.precision, device)
    started = time.perf_counter()
    for _ in inference.window_probs(models, features, batches, recipe.predict.flip, bfloat16):
        pass
    return time.perf_counter() - started


def build(name: str, recipe: Recipe, device: torch.device) -> classifier.Classifier:
    """A network with random weights on the device."""
    return classifier.build(name, NUM_CLASSES, recipe).to(device)


def time_ready(name: str, recipe: Recipe, size: int, repeats: int, device: torch.device) -> list[float]:
    """Seconds of one network for a batch of pictures on the device and their mirror images."""
    models = [build(name, recipe, device)]
    pictures = measurement.front_end(recipe, device)(measurement.noise(recipe, size, device))
    ready = measurement.repeat_batch(pictures)
    return [
        time_pass(models, measurement.PrecomputedPictures(), [next(ready)], recipe, device) for _ in range(repeats + 1)
    ][1:]


def prediction_index(recipe: Recipe, num_tracks: int) -> windows.WindowIndex:
    """The prediction windows of tracks (none of the public test set)."""
    public = np.zeros(num_tracks, bool)
    return windows.prediction_windows(np.arange(num_tracks), public, recipe.audio, recipe.windows)


def run(recipe: Recipe, paths: list[str], repeats: int, device: torch.device) -> dict:
    spec, size = recipe.rounds[-1], recipe.loader.predict_batch_size
    models = [build(name, recipe, device) for name in spec.backbones for _ in spec.folds]
    features, index = measurement.front_end(recipe, device), prediction_index(recipe, len(paths))
    pictures = features(measurement.noise(recipe, size, device))
    sizes = [len(index[start : start + size]) for start in range(0, len(index), size)]
    samples: dict[str, list[float]] = {"networks alone": [], "files to probabilities": []}
    with WindowLoader(paths, recipe.audio, recipe.loader, device) as loader:
        for _ in range(repeats + 1):
            ready = (next(measurement.repeat_batch(pictures[:count])) for count in sizes)
            samples["networks alone"].append(
                time_pass(models, measurement.PrecomputedPictures(), ready, recipe, device)
            )
            batches = loader.batches(index, measurement.window_samples(recipe), size)
            samples["files to probabilities"].append(time_pass(models, features, batches, recipe, device))
    samples = {variant: pass_s[1:] for variant, pass_s in samples.items()}  # the first is a warm-up
    networks_s, pipeline_s = (float(np.median(pass_s)) for pass_s in samples.values())
    result = {"benchmark": "predict", **timing.describe_machine(device), "models": len(models), "tracks": len(paths)}
    result |= {"windows": len(index), "batch_size": size, "image_size": recipe.mel.image_size}
    result |= {"workers": num_processes(recipe.loader.workers), "samples_s": samples}
    return result | {"tracks_per_s": len(paths) / pipeline_s, "share_of_the_networks": networks_s / pipeline_s}


def main(argv: list[str] | None = None) -> int:
    parser = make_parser(__doc__, tracks=16)
    parser.add_argument("--repeats", type=int, default=3, help="samples of each variant (default: 3)")
    args = parser.parse_args(argv)
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
