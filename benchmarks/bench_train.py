"""How much slower is training from audio files than training on pictures that already lie on the device?

    python -m benchmarks.bench_train [--backbones resnet50 ...] [--batch-size 32] [--music FOLDER] [--plot FILE.png]

The same training loop, three ways: pictures that lie on the device; waves that lie there (with the front end);
two-minute files decoded on the fly, once all that was decoded ahead is used up. Of the last, each stage's share of the
time is kept; what limits, and what to change, is told by `python -m benchmarks`.
"""

import itertools
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from torch import nn

from benchmarks import measurement, plots, timing
from benchmarks.cli import arguments, paths_of, recipe_of
from melgpu import cli
from melgpu.data import windows
from melgpu.data.batch import Batch
from melgpu.data.loader import BATCHES_AHEAD, WindowLoader, num_prefetched_tracks
from melgpu.data.targets import Targets
from melgpu.models import classifier
from melgpu.recipe import Recipe
from melgpu.training import loop
from melgpu.training.loop import Training
from melgpu.training.stage_timer import fractions

WAYS = ("pictures ready", "waves ready", "from files")
NUM_CLASSES, MOST_TRACKS = 10, 1 << 16


def time_steps(steps: Iterator[int], count: int, device: torch.device) -> float:
    """Seconds a step, over `count` steps that the device has ended."""
    timing.synchronize(device)
    started = time.perf_counter()
    for _ in itertools.islice(steps, count):
        pass
    timing.synchronize(device)
    return (time.perf_counter() - started) / count


def head_start(recipe: Recipe, batch_size: int) -> int:
    """Steps until a stream has used up what it had decoded before the first."""
    track_windows = windows.num_windows(recipe.audio.track_s, recipe.windows.window_s, recipe.windows.hop_s)
    return BATCHES_AHEAD + 2 + num_prefetched_tracks(recipe.loader) * track_windows // batch_size


def begin(name: str, recipe: Recipe, device: torch.device) -> Training:
    """A network with random weights on the device, with nothing frozen, before its first step."""
    optim = recipe.optim_for(name).model_copy(update={"warmup_epochs": 0})
    return loop.start(classifier.build(name, NUM_CLASSES, recipe).to(device), optim, recipe.machine)


def time_way(
    state: Training, name: str, recipe: Recipe, pictures: nn.Module, batches: Iterator[Batch], before: int, counts
) -> list[float]:
    """Seconds a step; `before` steps warm up, `counts` are steps a sample and samples."""
    steps, repeats = counts
    steps_done = training_loop(state, name, recipe, pictures, batches)
    time_steps(steps_done, before, state.sums.device)
    state.timer.restart()
    samples = [time_steps(steps_done, steps, state.sums.device) for _ in range(repeats)]
    steps_done.close()
    return samples


def training_loop(
    state: Training, name: str, recipe: Recipe, pictures: nn.Module, batches: Iterator[Batch]
) -> Iterator[int]:
    """The loop that trains, over batches of any tracks."""
    targets, optim = Targets(torch.arange(MOST_TRACKS) % NUM_CLASSES, torch.ones(NUM_CLASSES)), recipe.optim_for(name)
    return loop.train_epoch(state, pictures, batches, targets, optim, recipe.augment, recipe.seed)


def time_ready(name: str, recipe: Recipe, batch_size: int, steps: int, repeats: int, device) -> list[float]:
    """Seconds a step of one network alone, on pictures that lie on the device."""
    pictures = measurement.front_end(recipe, device)(measurement.noise(recipe, batch_size, device))
    state, batches = begin(name, recipe, device), measurement.same_batch(pictures)
    return time_way(state, name, recipe, measurement.Ready(), batches, 2, (steps, repeats))


def time_backbone(name: str, loader: WindowLoader, recipe: Recipe, batch_size: int, steps: int, repeats: int) -> dict:
    """Seconds a step of one network in each way, and where the time of the whole pipeline goes."""
    state, features = begin(name, recipe, loader.device), measurement.front_end(recipe, loader.device)
    waves, files = (
        measurement.noise(recipe, batch_size, loader.device),
        measurement.epochs(loader, recipe, batch_size),
    )
    sources = (
        (measurement.Ready(), measurement.same_batch(features(waves)), 2),
        (features, measurement.same_batch(waves), 2),
        (features, files, head_start(recipe, batch_size)),
    )
    samples = {}
    for way, source in zip(WAYS, sources, strict=True):
        samples[way] = time_way(state, name, recipe, *source, (steps, repeats))
    files.close()
    medians = {way: float(np.median(own)) for way, own in samples.items()}
    own = state.timer.seconds(wait=True)
    return {"backbone": name, "seconds_a_step": medians, "samples_s": samples, "stage_shares": fractions(own)}


def run(recipe: Recipe, names: list[str], paths: list[str], args, device: torch.device) -> dict:
    result = {"benchmark": "train", **timing.machine(device), "batch_size": args.batch_size, "tracks": len(paths)}
    result |= {"image_size": recipe.mel.image_size, "workers": min(recipe.loader.workers, os.cpu_count() or 1)}
    result["rows"] = []
    with WindowLoader(paths, recipe.audio, recipe.loader, device) as loader:
        for number, name in enumerate(names, start=1):
            Console(stderr=True, highlight=False).print(f"{number}/{len(names)} {name}")
            result["rows"].append(time_backbone(name, loader, recipe, args.batch_size, args.steps, args.repeats))
    return result


def table(result: dict) -> Table:
    title = f"A training step of {result['batch_size']} windows, {result['image_size']} pixels, {result['device']}"
    shown = Table(title=title, box=SIMPLE)
    for column in ("network", *WAYS, "more", "windows/s"):
        shown.add_column(column, justify="left" if column == "network" else "right")
    for row in result["rows"]:
        ready, _, files = (row["seconds_a_step"][way] for way in WAYS)
        times = [f"{1000 * own:,.1f} ms" for own in row["seconds_a_step"].values()]
        shown.add_row(row["backbone"], *times, f"{files / ready - 1:+.1%}", f"{result['batch_size'] / files:,.1f}")
    return shown


def plot(result: dict, path: Path) -> None:
    rates = {
        (row["backbone"], way): result["batch_size"] / seconds
        for row in result["rows"]
        for way, seconds in row["seconds_a_step"].items()
    }
    plots.bars(rates, "windows a second", f"Training, {result['device']}", path)


def main(given: list[str] | None = None) -> int:
    parser = arguments(__doc__, tracks=64)
    parser.add_argument("--backbones", nargs="+", default=list(classifier.BACKBONES), help="default: all six")
    parser.add_argument("--batch-size", type=int, default=32, help="windows (default: 32)")
    parser.add_argument("--steps", type=int, default=10, help="steps a sample (default: 10)")
    parser.add_argument("--repeats", type=int, default=5, help="samples of each way (default: 5)")
    parser.add_argument("--plot", type=Path, help="keep a plot as PNG")
    args = parser.parse_args(given)
    recipe = recipe_of(args)
    with tempfile.TemporaryDirectory() as folder:
        paths = paths_of(args, Path(folder))
        result = run(recipe, args.backbones, paths, args, cli.select_device(args.device))
    timing.console().print(table(result))
    if args.plot:
        plot(result, args.plot)
    return timing.finish(result, args.out, ())


if __name__ == "__main__":
    cli.run(main)
