"""How much slower is training from audio files than training on pictures that are on the device already?

    python -m benchmarks.bench_train [--backbones resnet50 ...] [--batch-size 32] [--music FOLDER] [--plot FILE.png]

The same training loop on three inputs: pictures on the device; waves on the device (with the front end); two-minute
files decoded on the fly, once all prefetched tracks are used up. Of the last, each stage's fraction of the time is
saved; `python -m benchmarks` names the bottleneck and what to change.
"""

import argparse
import itertools
import tempfile
import time
from collections.abc import Generator, Iterator
from pathlib import Path

import numpy as np
import torch
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from torch import nn

from benchmarks import measurement, plots, timing
from benchmarks.cli import make_parser, paths_of, recipe_of
from melgpu import cli
from melgpu.audio.pool import num_processes
from melgpu.data import windows
from melgpu.data.batch import Batch
from melgpu.data.loader import PREFETCH_BATCHES, WindowLoader, num_prefetched_tracks
from melgpu.data.targets import Targets
from melgpu.models import classifier
from melgpu.recipe import Recipe
from melgpu.training import loop
from melgpu.training.stage_timer import fractions
from melgpu.training.state import Training, start_training

VARIANTS = ("pictures ready", "waves ready", "from files")
NUM_CLASSES, MAX_TRACKS = 10, 1 << 16


def time_steps(steps: Iterator[loop.StepDone], count: int, device: torch.device) -> float:
    """Seconds a step, over `count` steps, with the device synchronised."""
    timing.synchronize(device)
    started = time.perf_counter()
    for _ in itertools.islice(steps, count):
        pass
    timing.synchronize(device)
    return (time.perf_counter() - started) / count


def prefetched_steps(recipe: Recipe, batch_size: int) -> int:
    """Steps until a loader has used up the tracks that it prefetched before the first step."""
    track_windows = windows.num_windows(recipe.audio.track_s, recipe.windows.window_s, recipe.windows.hop_s)
    return PREFETCH_BATCHES + 2 + num_prefetched_tracks(recipe.loader) * track_windows // batch_size


def new_training(name: str, recipe: Recipe, device: torch.device) -> Training:
    """A network with random weights on the device, no layer frozen, before its first step."""
    optim = measurement.with_value(recipe, "optim.warmup_epochs", 0).optim_for(name)
    return start_training(classifier.build(name, NUM_CLASSES, recipe).to(device), optim, recipe.machine)


def time_variant(
    state: Training,
    name: str,
    recipe: Recipe,
    features: nn.Module,
    batches: Iterator[Batch],
    warmup_steps: int,
    counts: tuple[int, int],
) -> list[float]:
    """Seconds a step; `counts` are steps a sample and the number of samples."""
    steps, repeats = counts
    steps_done = training_loop(state, name, recipe, features, batches)
    time_steps(steps_done, warmup_steps, state.metric_sums.device)
    state.timer.restart()
    samples = [time_steps(steps_done, steps, state.metric_sums.device) for _ in range(repeats)]
    steps_done.close()
    return samples


def training_loop(
    state: Training, name: str, recipe: Recipe, features: nn.Module, batches: Iterator[Batch]
) -> Generator[loop.StepDone]:
    """melgpu's training loop over batches of any tracks."""
    targets, optim = Targets(torch.arange(MAX_TRACKS) % NUM_CLASSES, torch.ones(NUM_CLASSES)), recipe.optim_for(name)
    return loop.train_epoch(state, features, batches, targets, optim, recipe.augment, recipe.seed)


def time_ready(
    name: str, recipe: Recipe, batch_size: int, steps: int, repeats: int, device: torch.device
) -> list[float]:
    """Seconds a step of one network alone, on pictures on the device."""
    pictures = measurement.front_end(recipe, device)(measurement.noise(recipe, batch_size, device))
    state, batches = new_training(name, recipe, device), measurement.repeat_batch(pictures)
    return time_variant(state, name, recipe, measurement.PrecomputedPictures(), batches, 2, (steps, repeats))


def time_backbone(name: str, loader: WindowLoader, recipe: Recipe, batch_size: int, steps: int, repeats: int) -> dict:
    """Seconds a step of one network by variant, and the fractions of time by stage of training from files."""
    state, features = new_training(name, recipe, loader.device), measurement.front_end(recipe, loader.device)
    waves, files = (
        measurement.noise(recipe, batch_size, loader.device),
        measurement.training_batches(loader, recipe, batch_size),
    )
    inputs = (
        (measurement.PrecomputedPictures(), measurement.repeat_batch(features(waves)), 2),
        (features, measurement.repeat_batch(waves), 2),
        (features, files, prefetched_steps(recipe, batch_size)),
    )
    samples = {}
    for variant, source in zip(VARIANTS, inputs, strict=True):
        samples[variant] = time_variant(state, name, recipe, *source, (steps, repeats))
    files.close()
    medians = {variant: float(np.median(step_s)) for variant, step_s in samples.items()}
    stage_s = state.timer.seconds(wait=True)
    return {"backbone": name, "seconds_a_step": medians, "samples_s": samples, "stage_shares": fractions(stage_s)}


def run(recipe: Recipe, names: list[str], paths: list[str], args: argparse.Namespace, device: torch.device) -> dict:
    result = {
        "benchmark": "train",
        **timing.describe_machine(device),
        "batch_size": args.batch_size,
        "tracks": len(paths),
    }
    result |= {"image_size": recipe.mel.image_size, "workers": num_processes(recipe.loader.workers)}
    result["rows"] = []
    with WindowLoader(paths, recipe.audio, recipe.loader, device) as loader:
        for i, name in enumerate(names, start=1):
            Console(stderr=True, highlight=False).print(f"{i}/{len(names)} {name}")
            result["rows"].append(time_backbone(name, loader, recipe, args.batch_size, args.steps, args.repeats))
    return result


def make_table(result: dict) -> Table:
    title = f"A training step of {result['batch_size']} windows, {result['image_size']} pixels, {result['device']}"
    table = Table(title=title, box=SIMPLE)
    for column in ("network", *VARIANTS, "overhead", "windows/s"):
        table.add_column(column, justify="left" if column == "network" else "right")
    for row in result["rows"]:
        ready, _, files = (row["seconds_a_step"][variant] for variant in VARIANTS)
        times = [f"{1000 * step_s:,.1f} ms" for step_s in row["seconds_a_step"].values()]
        table.add_row(row["backbone"], *times, f"{files / ready - 1:+.1%}", f"{result['batch_size'] / files:,.1f}")
    return table


def plot(result: dict, path: Path) -> None:
    rates = {
        (row["backbone"], variant): result["batch_size"] / step_s
        for row in result["rows"]
        for variant, step_s in row["seconds_a_step"].items()
    }
    plots.bars(rates, "windows a second", f"Training, {result['device']}", path)


def main(argv: list[str] | None = None) -> int:
    parser = make_parser(__doc__, tracks=64)
    parser.add_argument("--backbones", nargs="+", default=list(classifier.BACKBONES), help="default: all six")
    parser.add_argument("--batch-size", type=int, default=32, help="windows (default: 32)")
    parser.add_argument("--steps", type=int, default=10, help="steps a sample (default: 10)")
    parser.add_argument("--repeats", type=int, default=5, help="samples of each variant (default: 5)")
    parser.add_argument("--plot", type=Path, help="save a plot as PNG")
    args = parser.parse_args(argv)
    recipe = recipe_of(args)
    with tempfile.TemporaryDirectory() as folder:
        paths = paths_of(args, Path(folder))
        result = run(recipe, args.backbones, paths, args, cli.select_device(args.device))
    timing.console().print(make_table(result))
    if args.plot:
        plot(result, args.plot)
    return timing.finish(result, args.out, ())


if __name__ == "__main__":
    cli.run(main)
