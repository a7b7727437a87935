"""The stages of the suite: what measures their rows, each with its physical limit."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch

from benchmarks import bench_features, bench_loader, bench_predict, bench_train, measurement
from benchmarks.bench_features import FrontEnd
from benchmarks.commands.bench import Bench, Limit, networks, powers_of_two
from benchmarks.references import baselines
from melgpu.data.loader import WindowLoader
from melgpu.data.pcm_cache import PcmCache
from melgpu.recipe import Recipe

Measurements = Iterator[tuple[str, Callable[[], list[dict]]]]  # of a stage: a name, and what measures its rows
Bound = tuple[Limit, float]  # with the work of one window for it
Process = Callable[[torch.Tensor], object]
EFFICIENCY = 0.1  # of networks, as a fraction of their limit, to choose how much to measure


def row(stage: str, variant: str, samples: list[float], *bounds: Bound, **extra: object) -> dict:
    """A row of the result; `samples` are rates in windows/s, `bounds` limits with the work of one window for each."""
    rates = measurement.rate_summary(samples)
    limit_rate, name = min((limit.best_for(rates["windows_per_s"] * work) / work, limit.name) for limit, work in bounds)
    return {"stage": stage, "way": variant, **rates, "limit": name, "limit_windows_per_s": limit_rate, **extra}


def decode(bench: Bench) -> Measurements:
    """Files to samples at the recipe's rate, by number of processes."""
    for workers in sorted({*powers_of_two(bench.cores), bench.workers}):
        yield processes(workers), partial(_decode_row, bench, workers)


def _decode_row(bench: Bench, workers: int) -> list[dict]:
    bound = bench.decode_limit(workers), 1
    return [row("decode", processes(workers), bench.decode_rates(workers), bound, workers=workers)]


def processes(count: int) -> str:
    return f"{count} process" + ("es" if count != 1 else "")


def resample(bench: Bench) -> Measurements:
    """The resampler alone, which is a part of decoding."""
    yield processes(bench.workers), partial(_resample_row, bench)


def _resample_row(bench: Bench) -> list[dict]:
    samples = bench.rates_in_processes(baselines.resample, bench.track_args)
    return [row("resample", processes(bench.workers), samples, (bench.limits["soxr within the cache"], 1))]


def copy(bench: Bench) -> Measurements:
    """Decoded samples to batches on the device."""
    length, on_gpu = measurement.window_samples(bench.recipe), bench.device.type == "cuda"
    disk_bounds: list[Bound] = [(bench.limits["one core's copy"], 1)]
    link = bench.limits["host to device"], 4 * length
    yield "pcm_cache=disk", partial(_copy_row, bench, "disk", [*disk_bounds, link] if on_gpu else disk_bounds)
    if on_gpu:
        memory = bench.limits["memory bandwidth"], 8 * length  # read and written
        yield "pcm_cache=gpu", partial(_copy_row, bench, "gpu", [memory])
        yield "host to device", partial(_link_row, bench, link)


def _copy_row(bench: Bench, cache: str, bounds: Sequence[Bound]) -> list[dict]:
    recipe = bench_loader.with_cache(bench.recipe, cache)
    rates = _loader_rates(bench, recipe, bench_loader.no_op, bench.pcm_cache)
    return [row("copy", f"pcm_cache={cache}", rates, *bounds)]


def _link_row(bench: Bench, link: Bound) -> list[dict]:
    rates = measurement.copy_rates(bench.recipe, bench.effort.batch_size, bench.device, bench.effort.seconds)
    return [row("copy", "host to device", rates, link)]


def features(bench: Bench) -> Measurements:
    """Samples on the device to pictures, by engine and batch size."""
    for name, build in bench_features.engines(bench.recipe, bench.device).items():
        for batch_size in bench.effort.sizes:
            yield f"{name}, batch of {batch_size}", partial(_features_row, bench, name, build, batch_size)


def _features_row(bench: Bench, name: str, build: Callable[[], FrontEnd], batch_size: int) -> list[dict]:
    waves = measurement.noise(bench.recipe, batch_size, bench.device)
    rates = bench_features.time_front_end(build(), waves, bench.effort.seconds)["samples_windows_per_s"]
    extra = {"engine": name, "batch_size": batch_size, "curve": batch_size != bench.effort.batch_size}
    return [row("features", f"{name}, batch of {batch_size}", rates, (bench.picture_limit, 1), **extra)]


def loader(bench: Bench) -> Measurements:
    """Files to batches on the device, and files to pictures."""
    bounds: list[Bound] = [(bench.decode_limit(), 1)]
    yield "files to batches", partial(_loader_row, bench, "files to batches", bench_loader.no_op, bounds)
    front_end = measurement.front_end(bench.recipe, bench.device)
    bounds = [*bounds, (bench.picture_limit, 1)]
    yield "files to pictures", partial(_loader_row, bench, "files to pictures", front_end, bounds)


def _loader_row(bench: Bench, way: str, process: Process, bounds: Sequence[Bound]) -> list[dict]:
    return [row("loader", way, _loader_rates(bench, bench.recipe, process, None), *bounds)]


def _loader_rates(bench: Bench, recipe: Recipe, process: Process, cache: PcmCache | None) -> list[float]:
    result = bench_loader.time_variant(bench.paths, recipe, bench.device, cache, process, bench.effort.repeats + 1)
    return result["samples_windows_per_s"][1:]  # the first epoch starts the processes


def train(bench: Bench) -> Measurements:
    """Optimizer steps of each network of all rounds: on pictures on the device, and from files."""
    names = networks(bench.recipe)
    for batch_size in bench.effort.sizes:
        yield f"{names[0]}, batch of {batch_size}", partial(_train_curve_row, bench, names[0], batch_size)
    recipe = bench.with_short_prefetch(bench.recipe)
    with WindowLoader(bench.paths, recipe.audio, recipe.loader, bench.device) as loader:
        for name in names:
            yield name, partial(_train_network, bench, loader, recipe, name)


def _train_curve_row(bench: Bench, name: str, batch_size: int) -> list[dict]:
    effort, bound = bench.effort, (bench.network_limit, bench.flops(name, True))
    times = bench_train.time_ready(name, bench.recipe, batch_size, effort.steps, effort.repeats, bench.device)
    extra = {"backbone": name, "batch_size": batch_size, "curve": True}
    rates = [batch_size / step_s for step_s in times]
    return [row("train", f"{name}, batch of {batch_size}", rates, bound, **extra)]


def _train_network(bench: Bench, loader: WindowLoader, recipe: Recipe, name: str) -> list[dict]:
    effort, flops = bench.effort, bench.flops(name, True)
    timed = bench_train.time_backbone(name, loader, recipe, effort.batch_size, effort.steps, effort.repeats)
    network_bound, *other_bounds = (bench.network_limit, flops), (bench.picture_limit, 1), (bench.decode_limit(), 1)
    rates = {
        variant: [effort.batch_size / step_s for step_s in samples] for variant, samples in timed["samples_s"].items()
    }
    extra = {"backbone": name, "flops": flops, "bytes": bench.bytes_moved(name)}
    return [
        row("train", f"{name}, pictures ready", rates["pictures ready"], network_bound, **extra),
        row("train", f"{name}, from files", rates["from files"], network_bound, *other_bounds),
    ]


def predict(bench: Bench) -> Measurements:
    """All networks of the last round over one pass of files, each window and its mirror image."""
    yield "ensemble", partial(_predict_rows, bench)


def _predict_rows(bench: Bench) -> list[dict]:
    spec = bench.recipe.rounds[-1]
    views = len(spec.folds) * (2 if bench.recipe.predict.flip else 1)
    flops = views * sum(bench.flops(name, False) for name in spec.backbones)
    paths = bench.paths[: _predicted_tracks(bench, flops)]
    result = bench_predict.run(bench.recipe, paths, bench.effort.repeats, bench.device)
    network_bound, *other_bounds = (bench.network_limit, flops), (bench.picture_limit, 1), (bench.decode_limit(), 1)
    variants = {"networks alone": [network_bound], "files to probabilities": [network_bound, *other_bounds]}
    rows = []
    for variant, bounds in variants.items():
        rates = [result["windows"] / pass_s for pass_s in result["samples_s"][variant]]
        rows.append(row("predict", f"{result['models']} networks, {variant}", rates, *bounds, models=result["models"]))
    return rows


def _predicted_tracks(bench: Bench, flops: float) -> int:
    """Tracks of a pass: as many as small networks predict in a short measurement, else those of the effort."""
    windows_per_s = EFFICIENCY * bench.network_limit.best_for(0.0) / flops
    tracks = int(windows_per_s * bench.effort.seconds / bench.track_windows)
    return max(bench.effort.predict_tracks, tracks)


STAGES = {stage.__name__: stage for stage in (decode, resample, copy, features, loader, train, predict)}
