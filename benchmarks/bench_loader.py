"""How fast do files become batches on the device, and how long does one wait for the first?

    python -m benchmarks.bench_loader [--music FOLDER] [--tracks 64] [--epochs 10] [--device cuda] [--plot FILE.png]

An epoch of shuffled windows of two-minute tracks through the stream: cold (decoded on the fly), from the bank on disk,
from the bank in the device's memory; with and without pictures. Beside it the way that melgpu replaces, on the same
files and cores: librosa loads the file, each window's mel picture is drawn by matplotlib into a JPEG file, and read
back and resized by Pillow. The limit of a bank is the copy of its samples by this machine's memory (or the GPU's).
"""

import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from rich.box import SIMPLE
from rich.table import Table

from benchmarks import measurement, plots, roofline, timing
from benchmarks.cli import arguments, paths_of, recipe_of
from benchmarks.references import baselines
from melgpu import cli
from melgpu.audio.pool import WorkerPool
from melgpu.data import windows
from melgpu.data.batch import Batch
from melgpu.data.loader import WindowLoader, check_files
from melgpu.data.pcm_cache import PcmCache, open_cache
from melgpu.errors import InputError
from melgpu.recipe import Recipe


def with_cache(recipe: Recipe, cache: str) -> Recipe:
    return recipe.model_copy(update={"loader": recipe.loader.model_copy(update={"pcm_cache": cache})})


def order_of(recipe: Recipe, num_tracks: int, epoch: int) -> windows.WindowIndex:
    """What an epoch of a network trains on."""
    whole = windows.training_windows(np.arange(num_tracks), [""] * num_tracks, recipe.audio, recipe.windows)
    return windows.shuffle(whole, recipe.shuffle_tracks_for("resnet50"), recipe.seed, epoch)


def epoch(loader: WindowLoader, recipe: Recipe, number: int) -> Iterator[Batch]:
    index = order_of(recipe, len(loader.paths), number)
    return loader.batches(index, measurement.window_samples(recipe), recipe.optim.batch_size)


def time_epoch(batches: Iterable[Batch], then: Callable[[torch.Tensor], object], device: torch.device) -> dict:
    """Windows a second, seconds until the first batch, and the longest wait for one after it."""
    waits, count = [], 0
    started = asked = time.perf_counter()
    for batch in batches:
        waits.append(time.perf_counter() - asked)
        then(batch.waves)
        count += len(batch.tracks)
        asked = time.perf_counter()
    timing.synchronize(device)
    rate = count / (time.perf_counter() - started)
    return {"windows_per_s": rate, "first_batch_s": waits[0], "longest_wait_s": max(waits[1:], default=0.0)}


def nothing(waves: torch.Tensor) -> None:
    """What a step does that needs no time."""


def time_original(paths: list[str], recipe: Recipe, folder: str, workers: int) -> dict:
    with WorkerPool(workers, 600.0) as pool:
        job = folder, recipe.model_dump(mode="json", include={"audio", "windows", "mel"})
        for answer in [pool.submit(baselines.original_way, paths[0], *job) for _ in range(2 * workers)]:  # warms all up
            answer.result()
        started = time.perf_counter()
        answers = [pool.submit(baselines.original_way, path, *job) for path in paths]
        answers[0].result()
        first_s = time.perf_counter() - started
        counts, sizes = zip(*(answer.result() for answer in answers), strict=True)
    rate = sum(counts) / (time.perf_counter() - started)
    return {"windows_per_s": rate, "first_batch_s": first_s, "bytes_a_track": sum(sizes) / len(sizes)}


def copy_limit(recipe: Recipe, cache: PcmCache, device: torch.device) -> float:
    """Windows a second that memory can copy: one core from the bank's pages to a batch, or the GPU inside its own."""
    length = measurement.window_samples(recipe)
    if device.type == "cuda":
        return roofline.copy_bandwidth(device) / (8 * length)  # read and written
    waves = np.array(cache.waves[:32])
    target = np.zeros((len(waves), length), np.float32)
    rng = np.random.default_rng(0)

    def copy() -> None:
        for row, start in enumerate(rng.integers(0, waves.shape[1] - length, len(waves)).tolist()):
            target[row] = waves[row, start : start + length]

    return len(waves) / min(timing.measure(copy, device))


def run(recipe: Recipe, paths: list[str], device: torch.device, epochs: int, folder: Path, originals: int) -> dict:
    """Time every way once an epoch."""
    result = {"benchmark": "loader", **timing.machine(device), "tracks": len(paths), "rows": []}
    result |= {"window_s": recipe.windows.window_s}
    result["workers"] = min(recipe.loader.workers, os.cpu_count() or 1)
    pictures = measurement.front_end(recipe, device)
    disk = with_cache(recipe, "disk")
    cache, built_s = fill_cache(paths, disk, folder)
    result["pcm_cache"] = {"built_s": built_s, "bytes": cache.pcm.stat().st_size}
    most = {where: copy_limit(recipe, cache, where) for where in (device, torch.device("cpu"))}
    plans = [("cold", recipe, None, None), ("bank on disk", disk, cache, most[torch.device("cpu")])]
    plans.append((f"bank in {device}'s memory", with_cache(recipe, "gpu"), cache, most[device]))
    for name, wanted, own, most in plans:
        for ending, then in (("", nothing), (", pictures", pictures)):
            row = time_way(paths, wanted, device, own, then, epochs)
            result["rows"].append({"way": name + ending, **row, "limit_windows_per_s": None if ending else most})
    if originals:
        row = time_original(paths[:originals], recipe, str(folder), result["workers"])
        result["rows"].append({"way": "librosa, matplotlib, JPEG", **row, "limit_windows_per_s": None})
    return result


def fill_cache(paths: list[str], recipe: Recipe, folder: Path) -> tuple[PcmCache, float]:
    """A bank of all tracks below a folder, and the seconds that it took. Raises InputError where a file is broken."""
    cache = open_cache(folder / "pcm_cache", recipe.audio, recipe.loader)
    started = time.perf_counter()
    audio_errors = [
        str(audio_error) for audio_error in check_files(paths, recipe.audio, recipe.loader, cache) if audio_error
    ]
    if audio_errors:
        raise InputError(audio_errors)
    return cache, time.perf_counter() - started


def time_way(
    paths: list[str], recipe: Recipe, device: torch.device, cache: PcmCache | None, then: Callable, epochs: int
) -> dict:
    """Medians over epochs; the first batch of the first one, and the memory after each."""
    found, memory = [], []
    with WindowLoader(paths, recipe.audio, recipe.loader, device, cache) as loader:
        if recipe.loader.pcm_cache == "gpu":
            list(loader.load_to_device(np.arange(len(paths))))
        for number in range(epochs):
            found.append(time_epoch(epoch(loader, recipe, number), then, device))
            memory.append(timing.memory(device))
    row = measurement.rates_of([one["windows_per_s"] for one in found])
    row |= {"first_batch_s": found[0]["first_batch_s"], "longest_wait_s": max(one["longest_wait_s"] for one in found)}
    return {**row, "memory_mib": memory}


def table(result: dict) -> Table:
    shown = Table(
        title=f"Files to batches on {result['device']}, {result['workers']} processes, {result['tracks']} tracks",
        box=SIMPLE,
    )
    for column in ("way", "windows/s", "times real time", "of its limit", "first batch", "longest wait", "MiB"):
        shown.add_column(column, justify="left" if column == "way" else "right")
    for row in result["rows"]:
        most, rate = row["limit_windows_per_s"], row["windows_per_s"]
        memory, wait = row.get("memory_mib"), row.get("longest_wait_s")
        shown.add_row(
            row["way"],
            f"{rate:,.1f}",
            f"{result['window_s'] * rate:,.0f}",
            f"{rate / most:.0%}" if most else "",
            f"{row['first_batch_s']:.2f} s",
            "" if wait is None else f"{wait:.2f} s",
            f"{memory[0]:,.0f} to {memory[-1]:,.0f}" if memory else "",
        )
    return shown


def plot(result: dict, path: Path) -> None:
    rates = {(row["way"], ""): row["windows_per_s"] for row in result["rows"]}
    plots.bars(rates, "windows a second", f"Files to batches, {result['device']}", path)


def main(given: list[str] | None = None) -> int:
    parser = arguments(__doc__, tracks=64)
    parser.add_argument("--originals", type=int, default=4, help="tracks for the original way; 0 leaves it out")
    parser.add_argument("--epochs", type=int, default=3, help="times that each figure is taken (default: 3)")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="keep a plot")
    args = parser.parse_args(given)
    recipe = recipe_of(args)
    with tempfile.TemporaryDirectory() as folder:
        paths = paths_of(args, Path(folder))
        result = run(recipe, paths, cli.select_device(args.device), args.epochs, Path(folder), args.originals)
    timing.console().print(table(result))
    if args.plot:
        plot(result, args.plot)
    beyond = (row["way"] for row in result["rows"] if timing.is_beyond(row))
    return timing.finish(result, args.out, beyond)


if __name__ == "__main__":
    cli.run(main)
