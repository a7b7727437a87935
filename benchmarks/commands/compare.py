"""melgpu beside what people do instead, from the same files on the same cores, to pictures on the device.

Every way is measured once in turn, again and again, so that a drift of the machine's speed meets all alike. Whatever
works in processes has one for each core. Front ends of others get melgpu's decoded windows. Disk space and waiting time
are those of the recipe's whole training set: the original way draws all pictures before its first step; melgpu's
stream, whichever front end it feeds, decodes every file once, to look at it or into a bank.
"""

import contextlib
import importlib.util
import itertools
import tempfile
import time
from collections.abc import Callable, Generator
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
BANK = "melgpu, bank on disk"
ORIGINAL = "original: librosa, matplotlib, JPEG"
LATER = "original, later epochs: JPEG read back"


def front_ends(recipe: Recipe, device: torch.device) -> dict[str, bench_features.FrontEnd]:
    """Those of others, by name; NVIDIA DALI where it is installed."""
    spec, rate = recipe.mel, recipe.audio.sample_rate
    found = dict(bench_features.peers(spec, rate, device))
    if "librosa" in found:
        found["librosa in one process"] = found.pop("librosa")
    with contextlib.suppress(ModuleNotFoundError):
        if importlib.util.find_spec("nvidia.dali"):
            from benchmarks.references import dali

            found["NVIDIA DALI"] = dali.front_end(recipe, device)
    return found


def epochs(bench: Bench, recipe: Recipe, loader: WindowLoader, draw: Callable) -> Generator[dict]:
    """An epoch from files to pictures, again and again."""
    for number in itertools.count():
        yield bench_loader.time_epoch(bench_loader.epoch(loader, recipe, number), draw, bench.device)


def originals(bench: Bench) -> Generator[dict]:
    """The original way's pictures of some tracks, drawn and read back."""
    while True:
        some = bench.some_paths(max(1, bench.workers))
        yield bench_loader.time_original(some, bench.recipe, str(bench.folder), bench.workers)


def later(bench: Bench) -> Generator[dict]:
    """The original way's pictures, read back."""
    while True:
        picture = str(next(bench.folder.glob("*.jpg")))
        count, size = 8 * bench.track_windows, bench.recipe.mel.image_size
        times = bench_decode.measure(
            baselines.read_back, (size, count), [picture] * max(1, bench.workers), bench.workers, 1
        )
        yield {"windows_per_s": count * max(1, bench.workers) / times[0]}


def ways(bench: Bench, stack: contextlib.ExitStack) -> dict[str, Generator[dict]]:
    """Every way, by name."""
    recipe, device = bench.recipe, bench.device
    disk = bench_loader.with_cache(recipe, "disk")
    cold = stack.enter_context(WindowLoader(bench.paths, recipe.audio, recipe.loader, device))
    banked = stack.enter_context(WindowLoader(bench.paths, disk.audio, disk.loader, device, bench.pcm_cache))
    draw = measurement.front_end(recipe, device)
    found = {BASE: epochs(bench, recipe, cold, draw), BANK: epochs(bench, disk, banked, draw)}
    for name, own in front_ends(recipe, device).items():
        found[f"melgpu's stream, {name}"] = epochs(bench, recipe, cold, own)
    return {**found, ORIGINAL: originals(bench), LATER: later(bench)}


def run(bench: Bench) -> dict:
    """Samples of every way in turn, then what each needs before the first step."""
    result = {"benchmark": "compare", **bench.about(), "corpus_tracks": TRACKS, "rows": []}
    look_s, bank_s, bank_bytes = looks(bench)
    with contextlib.ExitStack() as stack:
        loops = ways(bench, stack)
        taken: dict[str, list[dict]] = {name: [] for name in loops}
        for _ in range(bench.effort.repeats + 1):
            for name, loop in loops.items():
                taken[name].append(next(loop))
    first_s = {BANK: taken[BANK][0]["first_batch_s"], ORIGINAL: 0.0}
    for name, samples in taken.items():
        rates = [one["windows_per_s"] for one in samples[1:]]  # the first warms up
        others = [one["windows_per_s"] for one in taken[BASE][1:]]
        row = {"way": name, **measurement.rates_of(rates), "base_is_times_as_fast": ratio(others, rates)}
        wait = {BANK: bank_s * TRACKS, ORIGINAL: bench.track_windows * TRACKS / np.median(rates)}
        space = {BANK: bank_bytes, ORIGINAL: samples[0].get("bytes_a_track", 0)}
        row |= {"disk_bytes": space.get(name, 0) * TRACKS}
        row |= {
            "wait_s": None
            if name == LATER
            else wait.get(name, look_s * TRACKS) + first_s.get(name, taken[BASE][0]["first_batch_s"])
        }
        result["rows"].append(row)
    return result


def looks(bench: Bench) -> tuple[float, float, float]:
    """Seconds a track to look at all files, to fill a bank instead, a bank's bytes a track. Raises InputError."""
    recipe, count = bench.recipe, len(bench.paths)
    started = time.perf_counter()
    audio_errors = [
        str(audio_error) for audio_error in check_files(bench.paths, recipe.audio, recipe.loader, None) if audio_error
    ]
    look_s = (time.perf_counter() - started) / count
    if audio_errors:
        raise InputError(audio_errors)
    cache, bank_s = bench_loader.fill_cache(
        bench.paths, bench_loader.with_cache(recipe, "disk"), bench.folder / "timed"
    )
    return look_s, bank_s / count, cache.pcm.stat().st_size / count


def ratio(base: list[float], rates: list[float]) -> list[float]:
    """How many times as fast the base is, sample by sample: median, least and most."""
    found = [one / other for one, other in zip(base, rates, strict=True)]
    return [float(np.median(found)), min(found), max(found)]


def table(result: dict) -> Table:
    shown = Table(
        title=f"From files to pictures on {result['device']}, {result['cores']} cores",
        caption=f"disk and wait: for the {result['corpus_tracks']:,} tracks of the competition's training set",
        box=SIMPLE,
    )
    for column in ("way", "windows/s", "melgpu is times as fast", "disk", "until the first step"):
        shown.add_column(column, justify="left" if column == "way" else "right")
    for row in result["rows"]:
        middle, low, high = row["base_is_times_as_fast"]
        wait = "" if row["wait_s"] is None else duration(row["wait_s"])
        times = f"{middle:.2f} ({low:.2f}-{high:.2f})"
        shown.add_row(row["way"], f"{row['windows_per_s']:,.1f}", times, f"{row['disk_bytes'] / 1e9:.1f} GB", wait)
    return shown


def duration(seconds: float) -> str:
    """In the unit that suits."""
    for unit, size in (("days", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:.1f} s"


def main(args) -> int:
    """Compare what the flags name, and show and keep the result."""
    with tempfile.TemporaryDirectory() as folder:
        result = run(prepare(args, Path(folder)))
    timing.console().print(table(result))
    if args.plot:
        rates = {(row["way"], ""): row["windows_per_s"] for row in result["rows"]}
        plots.bars(rates, "windows a second", f"From files to pictures, {result['device']}", args.plot)
    return timing.finish(result, args.out, ())
