"""Which settings are the fastest here: one after another, each with the best of those before; then against the default.

Only settings that change speed alone are tried: engines that pass the parity gate on this device, the batch of
prediction (training's would change results), memory layout, compilation, decoding processes. Whether there is a bank
changes the order of windows, so that a gain there is told, not taken.
"""

import contextlib
import tempfile
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import numpy as np
from rich.console import Console

from benchmarks import bench_features, bench_loader, bench_predict, bench_train, measurement, plots, timing
from benchmarks.commands.bench import Bench, powers, prepare
from benchmarks.commands.search import Trial, attempt, changed, distinct, hints, table, toml
from melgpu import files
from melgpu.data.loader import WindowLoader
from melgpu.data.pcm_cache import PcmCache
from melgpu.features import parity
from melgpu.features.log_mel import CPU_BATCH
from melgpu.recipe import Recipe
from melgpu.runs import environment


def drawing(bench: Bench, recipe: Recipe) -> list[float]:
    """Samples to pictures; raises InputError where an engine misses the parity gate on this device."""
    draw = measurement.front_end(recipe, bench.device)
    parity.check_parity(parity.measure_parity(draw, recipe.audio.sample_rate, bench.device))
    waves = measurement.noise(recipe, largest_batch(recipe), bench.device)
    return bench_features.time_front_end(draw, waves, bench.effort.seconds)["samples_windows_per_s"]


def largest_batch(recipe: Recipe) -> int:
    return max(recipe.optim.batch_size, recipe.loader.predict_batch_size)


def stepping(bench: Bench, recipe: Recipe, names: list[str], answers: bool = False) -> list[float]:
    """Training steps of networks on pictures that lie on the device; with `answers`, and as many windows judged."""
    effort, device = bench.effort, bench.device
    size, repeats = effort.batch_size, effort.repeats
    times = np.array([bench_train.time_ready(name, recipe, size, effort.steps, repeats, device) for name in names])
    if answers:
        times += np.array([bench_predict.time_ready(name, recipe, size, repeats, device) for name in names])
    return (len(names) * size / times.sum(0)).tolist()


def judging(bench: Bench, recipe: Recipe, name: str) -> list[float]:
    """Answers of a network to pictures that lie on the device."""
    size = recipe.loader.predict_batch_size
    return [size / own for own in bench_predict.time_ready(name, recipe, size, bench.effort.repeats, bench.device)]


def streaming(bench: Bench, recipe: Recipe) -> list[float]:
    """Files, or the bank, to batches on the device."""
    job = cache_of(bench, recipe), bench_loader.nothing, bench.effort.repeats + 1
    return bench_loader.time_way(bench.paths, recipe, bench.device, *job)["samples_windows_per_s"][1:]


def cache_of(bench: Bench, recipe: Recipe) -> PcmCache | None:
    return None if recipe.loader.pcm_cache == "off" else bench.pcm_cache


def trials(bench: Bench, recipe: Recipe, quick: bool) -> Iterator[tuple[Trial, Recipe]]:
    """Each setting in turn, with what is kept of those before; the recipe as it is after it."""
    on_gpu = bench.device.type == "cuda"
    names = list(recipe.rounds[-1].backbones)[: 1 if quick else None]
    batches = [8, 32] if quick else [8, 16, 32, 64, 128, 256] if on_gpu else [1, 4, 8, 16, 32]
    most = largest_batch(recipe)
    unset = most if on_gpu else CPU_BATCH  # what machine.feature_batch = 0 takes
    chunk_size = distinct(recipe.machine.feature_batch, batches, lambda size: min(size or unset, most))
    workers = distinct(recipe.loader.workers, powers(bench.cores), lambda count: min(count, bench.cores))
    engines = [name for name, _ in bench_features.engines(recipe.mel, recipe.audio.sample_rate, bench.device)]
    if recipe.mel.engine == "auto":  # which is one of them
        engines.remove(measurement.front_end(recipe, bench.device).engine_on(bench.device))
    plan: list[tuple[str, list, Callable[[Recipe], list[float]]]] = [
        ("loader.workers", workers, lambda now: bench.decode_rates(min(now.loader.workers, bench.cores))),
        ("mel.engine", engines, lambda now: drawing(bench, now)),
        ("machine.feature_batch", chunk_size, lambda now: drawing(bench, now)),
        ("machine.channels_last", [True, False], lambda now: stepping(bench, now, names, final_probs=True)),
        ("machine.compile", [] if quick else [True, False], lambda now: stepping(bench, now, names[:1])),
        ("loader.predict_batch_size", batches[-3:], lambda now: judging(bench, now, names[0])),
        ("loader.pcm_cache", ["disk", *(["gpu"] if on_gpu else [])], lambda now: streaming(bench, now)),
    ]
    for key, values, measure in plan:
        if values:
            trial = attempt(recipe, key, values, measure)
            recipe = changed(recipe, key, trial.kept)
            yield trial, recipe


def versus(bench: Bench, tuned: Recipe, name: str) -> dict[str, dict[str, list[float]]]:
    """Windows a second of training and of prediction from files, by tuned and by default settings in turn."""
    ways, found = {"default": bench.recipe, "tuned": tuned}, {}
    for what, work in (("training", training), ("prediction", prediction)):
        rates: dict[str, list[float]] = {way: [] for way in ways}
        with contextlib.ExitStack() as stack:
            loops = {way: stack.enter_context(contextlib.closing(work(bench, own, name))) for way, own in ways.items()}
            for _ in range(bench.effort.repeats + 1):
                for way, loop in loops.items():
                    rates[way].append(next(loop))
        found[what] = {way: own[1:] for way, own in rates.items()}  # the first warms up
    return found


def training(bench: Bench, recipe: Recipe, name: str) -> Generator[float]:
    """Windows a second of steps from files, sample after sample, each after what was decoded ahead is used up."""
    effort, device, recipe = bench.effort, bench.device, bench.from_files(recipe)
    with WindowLoader(bench.paths, recipe.audio, recipe.loader, device, cache_of(bench, recipe)) as loader:
        if recipe.loader.pcm_cache == "gpu":
            list(loader.load_to_device(np.arange(len(bench.paths))))
        state, draw = bench_train.begin(name, recipe, device), measurement.front_end(recipe, device)
        batches = measurement.epochs(loader, recipe, effort.batch_size)
        loop = bench_train.training_loop(state, name, recipe, draw, batches)
        while True:
            bench_train.time_steps(loop, bench_train.head_start(recipe, effort.batch_size), device)
            yield effort.batch_size / bench_train.time_steps(loop, effort.steps, device)


def prediction(bench: Bench, recipe: Recipe, name: str) -> Generator[float]:
    """Windows a second from files to probabilities, sample after sample."""
    paths, device, draw = (
        bench.paths[: bench.effort.judged],
        bench.device,
        measurement.front_end(recipe, bench.device),
    )
    models, index = [bench_predict.build(name, recipe, device)], bench_predict.index_of(recipe, len(paths))
    with WindowLoader(paths, recipe.audio, recipe.loader, device, cache_of(bench, recipe)) as loader:
        while True:
            batches = loader.batches(index, measurement.window_samples(recipe), recipe.loader.predict_batch_size)
            yield len(index) / bench_predict.time_pass(models, draw, batches, recipe, device)


def ratios(rates: dict[str, list[float]]) -> tuple[float, float, float]:
    """How many times as fast as the default, sample by sample: median, least and most."""
    found = [tuned / default for tuned, default in zip(rates["tuned"], rates["default"], strict=True)]
    return float(np.median(found)), min(found), max(found)


def plot(tried: list[Trial], title: str, path: Path) -> None:
    """How many times as fast each value is as the one that was set before."""
    gains = [(one, value) for one in tried if one.before in one.rates for value in one.rates]
    bars = {
        (f"{one.setting} = {value}", ""): one.gain(value) for one, value in gains if one.setting != "loader.pcm_cache"
    }
    plots.bars(bars, "times as fast as before", title, path, baseline=1.0)


def run(bench: Bench, quick: bool) -> tuple[dict, list[Trial], str]:
    """Try all settings, and the best against the default: the result, the trials, and the text of a TOML file."""
    result, tried, tuned = {"benchmark": "tune", **bench.about()}, [], bench.recipe
    for trial, so_far in trials(bench, bench.recipe, quick):
        tried, tuned = [*tried, trial], so_far
        told = f"{trial.setting}: {trial.kept} of {', '.join(map(str, trial.rates))}"
        Console(stderr=True, highlight=False).print(told)
    name = tuned.rounds[-1].backbones[0]
    result["versus"] = {"backbone": name, **versus(bench, tuned, name)}
    result["trials"] = [
        {"setting": one.setting, "before": one.before, "kept": one.kept, "refused": _keyed(one.refused)}
        | {"samples_windows_per_s": _keyed(one.rates)}
        for one in tried
    ]
    return result, tried, toml(tried, tuned, environment.tuning_signature(bench.device), result["date"])


def main(args) -> int:
    """Try the settings, write the fastest to a TOML file, and hold them against the default."""
    with tempfile.TemporaryDirectory() as folder:
        result, tried, text = run(prepare(args, Path(folder), "loader.workers", "loader.pcm_cache"), args.quick)
    files.write_text(args.write, text)
    console = timing.console()
    console.print(table(tried))
    for hint in hints(tried):
        console.print(f"not taken: {hint}")
    for what in ("training", "prediction"):
        middle, low, high = ratios(result["versus"][what])
        name = result["versus"]["backbone"]
        console.print(f"{what} {name} from files: {middle:.2f} times the default's speed ({low:.2f} to {high:.2f})")
    console.print(f"{args.write} is written: python train.py --recipe zalo2019 --recipe {args.write} ...")
    if args.plot:
        plot(tried, f"One setting after another, {result['device']}", args.plot)
    return timing.finish(result, args.out, ())


def _keyed(found: dict[object, object]) -> dict[str, object]:
    return {str(value): own for value, own in found.items()}
