"""melgpu and its baselines, from the same files on the same cores to pictures on the device.

The variants are measured in turn, one sample each a round, so that a drift of the machine's speed affects all alike.
Worker processes are one for each core. Baseline front ends get the windows of melgpu's loader. Disk space and waiting
time are those of the recipe's whole training set: the original pipeline renders all pictures before its first step;
melgpu's loader, with any front end, decodes every file once, to check it or to fill the PCM cache.
"""

import argparse
import contextlib
import importlib.util
import itertools
import tempfile
import time
from collections.abc import Callable, Generator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from rich.box import SIMPLE
from rich.table import Table

from benchmarks import bench_decode, bench_features, bench_loader, measurement, plots, timing
from benchmarks.commands.bench import Bench, prepare
from benchmarks.references import baselines
from melgpu.data.loader import WindowLoader, check_files
from melgpu.errors import InputError
from melgpu.recipe import Recipe

TRACKS = 5158  # of the competition's training set
BASE = "melgpu, decoded on the fly"
CACHED = "melgpu, PCM cache on disk"
ORIGINAL = "original: librosa, matplotlib, JPEG"
READ_BACK = "original, later epochs: JPEG read back"


def front_ends(recipe: Recipe, device: torch.device) -> bench_features.Builders:
    """What builds the baseline front ends, by name; NVIDIA DALI where it is installed."""
    baseline = bench_features.baselines(recipe, device)
    if "librosa" in baseline:
        baseline["librosa in one process"] = baseline.pop("librosa")
    with contextlib.suppress(ModuleNotFoundError):
        if importlib.util.find_spec("nvidia.dali"):
            baseline["NVIDIA DALI"] = partial(_dali, recipe, device)
    return baseline


def _dali(recipe: Recipe, device: torch.device) -> bench_features.FrontEnd:
    from benchmarks.references import dali  # only here: few machines have it

    return dali.front_end(recipe, device)


def baseline_epochs(
    bench: Bench, recipe: Recipe, loader: WindowLoader, build: Callable[[], bench_features.FrontEnd]
) -> Generator[dict]:
    """Timings of epochs with a baseline front end, which is built, or fails, when the first is asked for."""
    yield from loader_epochs(bench, recipe, loader, build())


def loader_epochs(bench: Bench, recipe: Recipe, loader: WindowLoader, front_end: Callable) -> Generator[dict]:
    """Timings of epochs from files to pictures, without end."""
    for epoch in itertools.count():
        yield bench_loader.time_epoch(bench_loader.epoch_batches(loader, recipe, epoch), front_end, bench.device)


def original_pictures(bench: Bench) -> Generator[dict]:
    """Timings of the original pipeline on one track for each process: pictures rendered and read back."""
    while True:
        paths = bench.cycled_paths(max(1, bench.workers))
        yield bench_loader.time_original(paths, bench.recipe, str(bench.folder), bench.workers)


def original_read_back(bench: Bench) -> Generator[dict]:
    """Timings of later epochs of the original pipeline: pictures read back."""
    while True:
        picture = str(next(bench.folder.glob("*.jpg")))
        count, size = 8 * bench.track_windows, bench.recipe.mel.image_size
        pass_s = bench_decode.measure(
            baselines.read_back, (size, count), [picture] * max(1, bench.workers), bench.workers, 1
        )
        yield {"windows_per_s": count * max(1, bench.workers) / pass_s[0]}


def variants(bench: Bench, stack: contextlib.ExitStack) -> dict[str, Generator[dict]]:
    """The timings of all variants by name."""
    recipe, device = bench.recipe, bench.device
    disk = bench_loader.with_cache(recipe, "disk")
    uncached = stack.enter_context(WindowLoader(bench.paths, recipe.audio, recipe.loader, device))
    cached = stack.enter_context(WindowLoader(bench.paths, disk.audio, disk.loader, device, bench.pcm_cache))
    log_mel = measurement.front_end(recipe, device)
    loops = {
        BASE: loader_epochs(bench, recipe, uncached, log_mel),
        CACHED: loader_epochs(bench, disk, cached, log_mel),
    }
    for name, build in front_ends(recipe, device).items():
        loops[f"melgpu's loader, {name}"] = baseline_epochs(bench, recipe, uncached, build)
    return {**loops, ORIGINAL: original_pictures(bench), READ_BACK: original_read_back(bench)}


def run(bench: Bench) -> dict:
    """Measure all variants in turn; rates, disk space and the time until the first step of each.

    A variant that fails here costs its row, melgpu's own the run.
    """
    result = {"benchmark": "compare", **bench.metadata(), "corpus_tracks": TRACKS, "rows": [], "failed": {}}
    check_s, fill_s, cache_bytes = preparation(bench)
    with contextlib.ExitStack() as stack:
        loops = variants(bench, stack)
        timings: dict[str, list[dict]] = {name: [] for name in loops}
        for _ in range(bench.effort.repeats + 1):
            for name in list(timings):
                try:
                    timings[name].append(next(loops[name]))
                except Exception as error:  # each library fails in its own way
                    if name in (BASE, CACHED):
                        raise
                    del timings[name]
                    result["failed"][name] = measurement.failure(error)
    first_s = {CACHED: timings[CACHED][0]["first_batch_s"], ORIGINAL: 0.0}
    base_rates = [timed["windows_per_s"] for timed in timings[BASE][1:]]  # the first is a warm-up
    for name, samples in timings.items():
        rates = [timed["windows_per_s"] for timed in samples[1:]]
        row = {"way": name, **measurement.rate_summary(rates), "base_is_times_as_fast": ratio(base_rates, rates)}
        wait = {CACHED: fill_s * TRACKS, ORIGINAL: bench.track_windows * TRACKS / np.median(rates)}
        space = {CACHED: cache_bytes, ORIGINAL: samples[0].get("bytes_a_track", 0)}
        row |= {"disk_bytes": space.get(name, 0) * TRACKS}
        row |= {
            "wait_s": None
            if name == READ_BACK
            else wait.get(name, check_s * TRACKS) + first_s.get(name, timings[BASE][0]["first_batch_s"])
        }
        result["rows"].append(row)
    return result


def preparation(bench: Bench) -> tuple[float, float, float]:
    """Seconds a track to check all files and to fill a PCM cache, and its bytes a track. Raises InputError."""
    recipe, count = bench.recipe, len(bench.paths)
    started = time.perf_counter()
    checked = check_files(bench.paths, recipe.audio, recipe.loader, None)
    audio_errors = [str(file.error) for file in checked if file.error]
    check_s = (time.perf_counter() - started) / count
    if audio_errors:
        raise InputError(audio_errors)
    cache, fill_s = bench_loader.fill_cache(
        bench.paths, bench_loader.with_cache(recipe, "disk"), bench.folder / "timed"
    )
    return check_s, fill_s / count, cache.pcm_path.stat().st_size / count


def ratio(base: list[float], rates: list[float]) -> list[float]:
    """How many times as fast the base is, sample by sample: median, minimum and maximum."""
    ratios = [base_rate / rate for base_rate, rate in zip(base, rates, strict=True)]
    return [float(np.median(ratios)), min(ratios), max(ratios)]


def make_table(result: dict) -> Table:
    table = Table(
        title=f"From files to pictures on {result['device']}, {result['cores']} cores",
        caption=f"disk, first step: for the {result['corpus_tracks']:,} tracks of the competition's training set",
        box=SIMPLE,
    )
    for column in ("variant", "windows/s", "melgpu is times as fast", "disk", "until the first step"):
        table.add_column(column, justify="left" if column == "variant" else "right")
    for row in result["rows"]:
        median, low, high = row["base_is_times_as_fast"]
        wait = "" if row["wait_s"] is None else duration(row["wait_s"])
        times = f"{median:.2f} ({low:.2f}-{high:.2f})"
        table.add_row(row["way"], f"{row['windows_per_s']:,.1f}", times, f"{row['disk_bytes'] / 1e9:.1f} GB", wait)
    return table


def duration(seconds: float) -> str:
    """Seconds as text in days, h, min or s."""
    for unit, size in (("days", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:.1f} s"


def main(args: argparse.Namespace) -> int:
    """Compare all variants, and print and save the result."""
    with tempfile.TemporaryDirectory() as folder:
        result = run(prepare(args, Path(folder)))
    timing.console().print(make_table(result))
    for name, reason in result["failed"].items():
        timing.console().print(f"{name} failed: {reason}")
    if args.plot:
        rates = {(row["way"], ""): row["windows_per_s"] for row in result["rows"]}
        plots.bars(rates, "windows a second", f"From files to pictures, {result['device']}", args.plot)
    return timing.finish(result, args.out, ())
