"""The whole suite: each stage alone, then overlapped, with its physical limit; the bottleneck, and what to change."""

import argparse
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from benchmarks import bench_features, bench_loader, bench_predict, bench_train, measurement, plots, roofline, timing
from benchmarks.commands import bottleneck
from benchmarks.commands.bench import Bench, Limit, networks, powers_of_two, prepare
from benchmarks.references import baselines
from melgpu.data.loader import WindowLoader
from melgpu.data.pcm_cache import PcmCache
from melgpu.recipe import Recipe


def row(stage: str, variant: str, samples: list[float], *bounds: tuple[Limit, float], **extra: object) -> dict:
    """A row of the result; `samples` are rates in windows/s, `bounds` limits with the work of one window for each."""
    rates = measurement.rate_summary(samples)
    limit_rate, name = min((limit.best_for(rates["windows_per_s"] * work) / work, limit.name) for limit, work in bounds)
    return {"stage": stage, "way": variant, **rates, "limit": name, "limit_windows_per_s": limit_rate, **extra}


def decode(bench: Bench) -> Iterator[dict]:
    """Files to samples at the recipe's rate, by number of processes."""
    for workers in sorted({*powers_of_two(bench.cores), bench.workers}):
        bound = bench.decode_limit(workers), 1
        yield row("decode", processes(workers), bench.decode_rates(workers), bound, workers=workers)


def processes(count: int) -> str:
    return f"{count} process" + ("es" if count != 1 else "")


def resample(bench: Bench) -> Iterator[dict]:
    """The resampler alone, which is a part of decoding."""
    samples = bench.rates_in_processes(baselines.resample, bench.track_args)
    yield row("resample", processes(bench.workers), samples, (bench.limits["soxr within the cache"], 1))


def copy(bench: Bench) -> Iterator[dict]:
    """Decoded samples to batches on the device."""
    length, on_gpu = measurement.window_samples(bench.recipe), bench.device.type == "cuda"
    bounds = {"disk": [(bench.limits["one core's copy"], 1)]}
    if on_gpu:
        link = bench.limits["host to device"], 4 * length
        bounds["disk"] += [link]
        bounds["gpu"] = [(bench.limits["memory bandwidth"], 8 * length)]  # read and written
    for cache, cache_bounds in bounds.items():
        recipe = bench_loader.with_cache(bench.recipe, cache)
        rates = _loader_rates(bench, recipe, bench_loader.no_op, bench.pcm_cache)
        yield row("copy", f"pcm_cache={cache}", rates, *cache_bounds)
    if on_gpu:
        rates = measurement.copy_rates(bench.recipe, bench.effort.batch_size, bench.device, bench.effort.seconds)
        yield row("copy", "host to device", rates, link)


def features(bench: Bench) -> Iterator[dict]:
    """Samples on the device to pictures, by engine and batch size."""
    spec, rate = bench.recipe.mel, bench.recipe.audio.sample_rate
    for batch_size in bench.effort.sizes:
        waves = measurement.noise(bench.recipe, batch_size, bench.device)
        for name, front_end in bench_features.engines(spec, rate, bench.device):
            rates = bench_features.time_front_end(front_end, waves, bench.effort.seconds)["samples_windows_per_s"]
            extra = {"engine": name, "batch_size": batch_size, "curve": batch_size != bench.effort.batch_size}
            yield row("features", f"{name}, batch of {batch_size}", rates, (bench.picture_limit, 1), **extra)


def loader(bench: Bench) -> Iterator[dict]:
    """Files to batches on the device, and files to pictures."""
    front_end, bounds = measurement.front_end(bench.recipe, bench.device), [(bench.decode_limit(), 1)]
    yield row("loader", "files to batches", _loader_rates(bench, bench.recipe, bench_loader.no_op, None), *bounds)
    bounds += [(bench.picture_limit, 1)]
    yield row("loader", "files to pictures", _loader_rates(bench, bench.recipe, front_end, None), *bounds)


def _loader_rates(
    bench: Bench, recipe: Recipe, process: Callable[[torch.Tensor], object], cache: PcmCache | None
) -> list[float]:
    result = bench_loader.time_variant(bench.paths, recipe, bench.device, cache, process, bench.effort.repeats + 1)
    return result["samples_windows_per_s"][1:]  # the first epoch starts the processes


def train(bench: Bench) -> Iterator[dict]:
    """Optimizer steps of each network of all rounds: on pictures on the device, and from files."""
    names, effort = networks(bench.recipe), bench.effort
    bound = bench.network_limit, bench.flops(names[0], True)
    for batch_size in effort.sizes:
        times = bench_train.time_ready(names[0], bench.recipe, batch_size, effort.steps, effort.repeats, bench.device)
        extra = {"backbone": names[0], "batch_size": batch_size, "curve": True}
        rates = [batch_size / step_s for step_s in times]
        yield row("train", f"{names[0]}, batch of {batch_size}", rates, bound, **extra)
    recipe = bench.with_short_prefetch(bench.recipe)
    with WindowLoader(bench.paths, recipe.audio, recipe.loader, bench.device) as loader:
        for name in names:
            yield from _train_network(bench, loader, recipe, name)


def _train_network(bench: Bench, loader: WindowLoader, recipe: Recipe, name: str) -> Iterator[dict]:
    effort, flops = bench.effort, bench.flops(name, True)
    timed = bench_train.time_backbone(name, loader, recipe, effort.batch_size, effort.steps, effort.repeats)
    network_bound, *other_bounds = (bench.network_limit, flops), (bench.picture_limit, 1), (bench.decode_limit(), 1)
    rates = {
        variant: [effort.batch_size / step_s for step_s in samples] for variant, samples in timed["samples_s"].items()
    }
    extra = {"backbone": name, "flops": flops, "bytes": bench.bytes_moved(name)}
    yield row("train", f"{name}, pictures ready", rates["pictures ready"], network_bound, **extra)
    yield row("train", f"{name}, from files", rates["from files"], network_bound, *other_bounds)


def predict(bench: Bench) -> Iterator[dict]:
    """All networks of the last round over one pass of files, each window and its mirror image."""
    result = bench_predict.run(
        bench.recipe, bench.paths[: bench.effort.predict_tracks], bench.effort.repeats, bench.device
    )
    spec = bench.recipe.rounds[-1]
    views = len(spec.folds) * (2 if bench.recipe.predict.flip else 1)
    flops = views * sum(bench.flops(name, False) for name in spec.backbones)
    network_bound, *other_bounds = (bench.network_limit, flops), (bench.picture_limit, 1), (bench.decode_limit(), 1)
    variants = {"networks alone": [network_bound], "files to probabilities": [network_bound, *other_bounds]}
    for variant, bounds in variants.items():
        rates = [result["windows"] / pass_s for pass_s in result["samples_s"][variant]]
        yield row("predict", f"{result['models']} networks, {variant}", rates, *bounds, models=result["models"])


STAGES = {stage.__name__: stage for stage in (decode, resample, copy, features, loader, train, predict)}


def run(bench: Bench, names: list[str]) -> dict:
    """Measure stages; with all of them, also find the bottlenecks."""
    recipe = bench.recipe
    result = {"benchmark": "suite", **bench.metadata()}
    result |= {"track_windows": bench.track_windows, "track_s": recipe.audio.track_s}
    result |= {"engine": measurement.front_end(recipe, bench.device).engine_on(bench.device)}
    result |= {"rows": []}
    for i, name in enumerate(names, start=1):
        for measured in STAGES[name](bench):
            result["rows"].append(measured)
            message = f"{i}/{len(names)} {name}: {measured['way']}, {measured['windows_per_s']:,.1f} windows/s"
            Console(stderr=True, highlight=False).print(message)
    if {"features", "train"} <= set(names):
        result["roofline"] = roofline_points(bench, result["rows"])
    result["findings"] = bottleneck.findings(result) if set(names) == set(STAGES) else []
    return result


def roofline_points(bench: Bench, rows: list[dict]) -> dict:
    """FLOPs a byte and FLOP/s of networks and engines, and the machine's limits."""
    points = []
    for measured in rows:
        rate = measured["windows_per_s"]
        if "flops" in measured:
            points.append((measured["backbone"], measured["flops"] / measured["bytes"], measured["flops"] * rate))
        elif measured.get("batch_size") == bench.effort.batch_size and "engine" in measured:
            flops = roofline.front_end_flops(measured["engine"], bench.recipe)
            intensity = flops / roofline.front_end_bytes(bench.recipe)
            points.append((f"front end, {measured['engine']}", intensity, flops * rate))
    return {"points": points, "peaks_flops": bench.peaks, "bandwidth": bench.limits["memory bandwidth"].best_for(0.0)}


def make_table(result: dict) -> Table:
    """Rates and limits by stage, for the terminal."""
    per_window_s = result["track_s"] / result["track_windows"]
    table = Table(
        title=f"melgpu on {result['device']}, {result['cores']} cores, {result['workers']} worker processes",
        caption=f"medians; times real time: seconds of music a second, {result['track_windows']} windows of a track of "
        f"{result['track_s']:g} s overlap",
        box=SIMPLE,
    )
    for column in ("stage", "", "windows/s", "times real time", "physical limit", "windows/s", "of its limit"):
        table.add_column(
            column, justify="right" if column in ("windows/s", "times real time", "of its limit") else "left"
        )
    previous = ""
    for measured in [measured for measured in result["rows"] if not measured.get("curve")]:
        rate, limit, stage = measured["windows_per_s"], measured["limit_windows_per_s"], measured["stage"]
        texts = [
            f"{rate:,.1f}",
            f"{rate * per_window_s:,.0f}",
            measured["limit"],
            f"{limit:,.1f}",
            f"{rate / limit:.0%}",
        ]
        table.add_row("" if stage == previous else stage, measured["way"], *texts)
        previous = stage
    return table


def plot(result: dict, folder: Path) -> None:
    """bars.png, curves.png and, where there are networks and engines, roofline.png."""
    rows, title = result["rows"], result["device"]
    bars = [
        (f"{measured['stage']}: {measured['way']}", measured["windows_per_s"], measured["limit_windows_per_s"])
        for measured in rows
        if not measured.get("curve")
    ]
    plots.limit_bars(bars, "windows a second", f"Measured rates and physical limits: {title}", folder / "bars.png")
    panels: dict[str, dict] = {}
    for measured in rows:
        rate = measured["windows_per_s"]
        if "workers" in measured:
            panels.setdefault("worker processes", {}).setdefault("decode", {})[measured["workers"]] = rate
        if "batch_size" in measured:
            name = measured.get("engine") or f"training {measured['backbone']}"
            panels.setdefault("batch of windows", {}).setdefault(name, {})[measured["batch_size"]] = rate
    if panels:
        plots.curves(panels, "windows a second", title, folder / "curves.png")
    if "roofline" in result:
        limits = result["roofline"]
        peaks = {f"matmul {name}": peak for name, peak in limits["peaks_flops"].items()}
        plots.roofline(limits["points"], peaks, limits["bandwidth"], f"Roofline: {title}", folder / "roofline.png")


def main(args: argparse.Namespace) -> int:
    """Measure the stages that the flags select, print and save the result; returns 1 where a rate exceeds its limit."""
    with tempfile.TemporaryDirectory() as folder:
        result = run(prepare(args, Path(folder), "loader.workers"), args.only or list(STAGES))
    console = timing.console()
    console.print(make_table(result))
    for finding in result["findings"]:
        console.print(finding)
    if args.plots:
        plot(result, args.plots)
    exceeding = [measured for measured in result["rows"] if timing.exceeds_limit(measured)]
    return timing.finish(result, args.out, [f"{measured['stage']}, {measured['way']}," for measured in exceeding])
