"""How fast do files become batches on the device, and how long does the first batch take?

    python -m benchmarks.bench_loader [--music FOLDER] [--tracks 64] [--epochs 10] [--device cuda] [--plot FILE.png]

An epoch of shuffled windows of two-minute tracks through the loader: decoded on the fly, from the PCM cache on disk,
from the device cache; with and without pictures. For comparison the original pipeline, on the same files and cores:
librosa loads the file, matplotlib plots each window's mel picture into a JPEG file, and Pillow reads it back and
resizes it. The limit of a cache is the copy of its samples by this machine's memory (or the GPU's).
"""

import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from rich.box import SIMPLE
from rich.table import Table

from benchmarks import measurement, plots, roofline, timing
from benchmarks.cli import make_parser, paths_of, recipe_of
from benchmarks.references import baselines
from melgpu import cli
from melgpu.audio.pool import WorkerPool, num_processes
from melgpu.data import windows
from melgpu.data.batch import Batch
from melgpu.data.loader import WindowLoader, check_files
from melgpu.data.pcm_cache import PcmCache, open_cache
from melgpu.errors import InputError
from melgpu.recipe import Recipe


def with_cache(recipe: Recipe, cache: str) -> Recipe:
    return measurement.with_value(recipe, "loader.pcm_cache", cache)


def epoch_index(recipe: Recipe, num_tracks: int, epoch: int) -> windows.WindowIndex:
    """The shuffled training windows of an epoch."""
    full_index = windows.training_windows(np.arange(num_tracks), [""] * num_tracks, recipe.audio, recipe.windows)
    return windows.shuffle(full_index, recipe.shuffle_tracks_for("resnet50"), recipe.seed, epoch)


def epoch_batches(loader: WindowLoader, recipe: Recipe, epoch: int) -> Iterator[Batch]:
    index = epoch_index(recipe, len(loader.paths), epoch)
    return loader.batches(index, measurement.window_samples(recipe), recipe.optim.batch_size)


def time_epoch(batches: Iterable[Batch], process: Callable[[torch.Tensor], object], device: torch.device) -> dict:
    """Windows a second, seconds until the first batch, and the longest wait for a later batch.

    `process` is called with each batch's waves (B, T).
    """
    waits, count = [], 0
    started = requested = time.perf_counter()
    for batch in batches:
        waits.append(time.perf_counter() - requested)
        process(batch.waves)
        count += len(batch.tracks)
        requested = time.perf_counter()
    timing.synchronize(device)
    rate = count / (time.perf_counter() - started)
    return {"windows_per_s": rate, "first_batch_s": waits[0], "longest_wait_s": max(waits[1:], default=0.0)}


def no_op(waves: torch.Tensor) -> None:
    """A step that takes no time."""


def time_original(paths: list[str], recipe: Recipe, folder: str, workers: int) -> dict:
    """Windows a second of the original pipeline, seconds until its first track, and bytes of its pictures a track."""
    with WorkerPool(workers, 600.0) as pool:
        args = folder, recipe.model_dump(mode="json", include={"audio", "windows", "mel"})
        warmup = [pool.submit(baselines.original_pipeline, paths[0], *args) for _ in range(2 * workers)]
        for future in warmup:
            future.result()
        started = time.perf_counter()
        futures = [pool.submit(baselines.original_pipeline, path, *args) for path in paths]
        futures[0].result()
        first_s = time.perf_counter() - started
        counts, sizes = zip(*(future.result() for future in futures), strict=True)
    rate = sum(counts) / (time.perf_counter() - started)
    return {"windows_per_s": rate, "first_batch_s": first_s, "bytes_a_track": sum(sizes) / len(sizes)}


def copy_limit(recipe: Recipe, cache: PcmCache, device: torch.device) -> float:
    """Windows a second that memory can copy: one core from the cache's pages to a batch, or a GPU within its memory."""
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
    """Time all variants, one sample an epoch."""
    result = {"benchmark": "loader", **timing.describe_machine(device), "tracks": len(paths), "rows": []}
    result |= {"window_s": recipe.windows.window_s}
    result["workers"] = num_processes(recipe.loader.workers)
    pictures = measurement.front_end(recipe, device)
    disk = with_cache(recipe, "disk")
    cache, built_s = fill_cache(paths, disk, folder)
    result["pcm_cache"] = {"built_s": built_s, "bytes": cache.pcm_path.stat().st_size}
    cpu = torch.device("cpu")
    limits = {memory_device: copy_limit(recipe, cache, memory_device) for memory_device in (device, cpu)}
    variants = [("decoded on the fly", recipe, None, None), ("PCM cache on disk", disk, cache, limits[cpu])]
    variants.append((f"device cache on {device}", with_cache(recipe, "gpu"), cache, limits[device]))
    for name, variant_recipe, variant_cache, limit in variants:
        for ending, process in (("", no_op), (", pictures", pictures)):
            row = time_variant(paths, variant_recipe, device, variant_cache, process, epochs)
            result["rows"].append({"way": name + ending, **row, "limit_windows_per_s": None if ending else limit})
    if originals:
        row = time_original(paths[:originals], recipe, str(folder), result["workers"])
        result["rows"].append({"way": "librosa, matplotlib, JPEG", **row, "limit_windows_per_s": None})
    return result


def fill_cache(paths: list[str], recipe: Recipe, folder: Path) -> tuple[PcmCache, float]:
    """A PCM cache of all tracks below a folder, and the seconds to fill it. Raises InputError for audio errors."""
    cache = open_cache(folder / "pcm_cache", recipe.audio, recipe.loader, len(paths))
    if cache is None:
        raise ValueError("the recipe has no PCM cache")
    started = time.perf_counter()
    checked = check_files(paths, recipe.audio, recipe.loader, cache)
    audio_errors = [str(file.error) for file in checked if file.error]
    if audio_errors:
        raise InputError(audio_errors)
    return cache, time.perf_counter() - started


def time_variant(
    paths: list[str], recipe: Recipe, device: torch.device, cache: PcmCache | None, process: Callable, epochs: int
) -> dict:
    """Rates of the epochs; seconds until the first batch of the first epoch, and the memory after each."""
    timings, memory = [], []
    with WindowLoader(paths, recipe.audio, recipe.loader, device, cache) as loader:
        if recipe.loader.pcm_cache == "gpu":
            list(loader.load_to_device(np.arange(len(paths))))
        for epoch in range(epochs):
            timings.append(time_epoch(epoch_batches(loader, recipe, epoch), process, device))
            memory.append(timing.memory_in_use(device))
    row = measurement.rate_summary([timed["windows_per_s"] for timed in timings])
    longest_wait_s = max(timed["longest_wait_s"] for timed in timings)
    row |= {"first_batch_s": timings[0]["first_batch_s"], "longest_wait_s": longest_wait_s}
    return {**row, "memory_mib": memory}


def make_table(result: dict) -> Table:
    table = Table(
        title=f"Files to batches on {result['device']}, {result['workers']} processes, {result['tracks']} tracks",
        box=SIMPLE,
    )
    for column in ("variant", "windows/s", "times real time", "of its limit", "first batch", "longest wait", "MiB"):
        table.add_column(column, justify="left" if column == "variant" else "right")
    for row in result["rows"]:
        limit, rate = row["limit_windows_per_s"], row["windows_per_s"]
        memory, wait = row.get("memory_mib"), row.get("longest_wait_s")
        table.add_row(
            row["way"],
            f"{rate:,.1f}",
            f"{result['window_s'] * rate:,.0f}",
            f"{rate / limit:.0%}" if limit else "",
            f"{row['first_batch_s']:.2f} s",
            "" if wait is None else f"{wait:.2f} s",
            f"{memory[0]:,.0f} to {memory[-1]:,.0f}" if memory else "",
        )
    return table


def plot(result: dict, path: Path) -> None:
    rates = {(row["way"], ""): row["windows_per_s"] for row in result["rows"]}
    plots.bars(rates, "windows a second", f"Files to batches, {result['device']}", path)


def main(argv: list[str] | None = None) -> int:
    parser = make_parser(__doc__, tracks=64)
    parser.add_argument(
        "--originals", type=int, default=4, help="tracks for the original pipeline (default: 4); 0 leaves it out"
    )
    parser.add_argument("--epochs", type=int, default=3, help="samples of each variant (default: 3)")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="save a plot")
    args = parser.parse_args(argv)
    recipe = recipe_of(args)
    with tempfile.TemporaryDirectory() as folder:
        paths = paths_of(args, Path(folder))
        result = run(recipe, paths, cli.select_device(args.device), args.epochs, Path(folder), args.originals)
    timing.console().print(make_table(result))
    if args.plot:
        plot(result, args.plot)
    implausible = (row["way"] for row in result["rows"] if timing.exceeds_limit(row))
    return timing.finish(result, args.out, implausible)


if __name__ == "__main__":
    cli.run(main)
