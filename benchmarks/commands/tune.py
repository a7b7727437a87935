"""The fastest settings of a machine: one after another, each with the best of those before; then against the default.

Only settings that change speed alone are tried: engines that pass the parity gate on this device, the batch size of
prediction (training's would change results), memory layout, compilation, worker processes.
"""

import argparse
import contextlib
import tempfile
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from typing import Literal

import numpy as np
from rich.console import Console

from benchmarks import bench_features, bench_predict, bench_train, measurement, plots, timing
from benchmarks.commands.bench import Bench, powers_of_two, prepare
from benchmarks.commands.search import Trial, distinct, make_table, to_toml, try_values
from benchmarks.measurement import with_value
from melgpu import files
from melgpu.audio.pool import num_processes
from melgpu.data.loader import WindowLoader
from melgpu.features import parity
from melgpu.features.log_mel import CPU_CHUNK_SIZE
from melgpu.recipe import Recipe
from melgpu.runs import environment


def feature_rates(bench: Bench, recipe: Recipe) -> list[float]:
    """Waves to pictures. Raises InputError where an engine fails the parity gate on this device."""
    front_end = measurement.front_end(recipe, bench.device)
    parity.check_parity(parity.measure_parity(front_end, recipe.audio.sample_rate, bench.device))
    waves = measurement.noise(recipe, max_batch_size(recipe), bench.device)
    return bench_features.time_front_end(front_end, waves, bench.effort.seconds)["samples_windows_per_s"]


def max_batch_size(recipe: Recipe) -> int:
    return max(recipe.optim.batch_size, recipe.loader.predict_batch_size)


def training_rates(bench: Bench, recipe: Recipe, names: list[str], with_prediction: bool = False) -> list[float]:
    """Training steps of networks on pictures on the device; `with_prediction` also predicts them."""
    effort, device = bench.effort, bench.device
    size, repeats = effort.batch_size, effort.repeats
    times = np.array([bench_train.time_ready(name, recipe, size, effort.steps, repeats, device) for name in names])
    if with_prediction:
        times += np.array([bench_predict.time_ready(name, recipe, size, repeats, device) for name in names])
    return (len(names) * size / times.sum(0)).tolist()


def prediction_rates(bench: Bench, recipe: Recipe, name: str) -> list[float]:
    """Predictions of a network for pictures on the device."""
    size = recipe.loader.predict_batch_size
    batch_s = bench_predict.time_ready(name, recipe, size, bench.effort.repeats, bench.device)
    return [size / seconds for seconds in batch_s]


def trials(bench: Bench, recipe: Recipe, quick: bool) -> Iterator[tuple[Trial, Recipe]]:
    """A trial of each setting, with the selected values of those before, and the recipe with its selected value."""
    on_gpu = bench.device.type == "cuda"
    names = list(recipe.rounds[-1].backbones)[: 1 if quick else None]
    batch_sizes = [8, 32] if quick else [8, 16, 32, 64, 128, 256] if on_gpu else [1, 4, 8, 16, 32]
    max_size = max_batch_size(recipe)
    default = max_size if on_gpu else CPU_CHUNK_SIZE  # of machine.feature_batch = 0
    feature_batches = distinct(recipe.machine.feature_batch, batch_sizes, lambda size: min(size or default, max_size))
    workers: list[int | Literal["auto"]] = distinct(recipe.loader.workers, powers_of_two(bench.cores), num_processes)
    engines = list(bench_features.engines(recipe, bench.device))
    if recipe.mel.engine == "auto":  # which selects one of them
        engines.remove(measurement.front_end(recipe, bench.device).engine_on(bench.device))
    plan: list[tuple[str, list, Callable[[Recipe], list[float]]]] = [
        ("loader.workers", workers, lambda tried: bench.decode_rates(num_processes(tried.loader.workers))),
        ("mel.engine", engines, lambda tried: feature_rates(bench, tried)),
        ("machine.feature_batch", feature_batches, lambda tried: feature_rates(bench, tried)),
        (
            "machine.channels_last",
            [True, False],
            lambda tried: training_rates(bench, tried, names, with_prediction=True),
        ),
        ("machine.compile", [] if quick else [True, False], lambda tried: training_rates(bench, tried, names[:1])),
        ("loader.predict_batch_size", batch_sizes[-3:], lambda tried: prediction_rates(bench, tried, names[0])),
    ]
    for key, values, measure in plan:
        if values:
            trial = try_values(recipe, key, values, measure)
            recipe = with_value(recipe, key, trial.selected)
            yield trial, recipe


def compare_with_default(bench: Bench, tuned: Recipe, name: str) -> dict[str, dict[str, list[float]]]:
    """Windows a second of training and prediction from files, alternating tuned and default settings."""
    recipes, result = {"default": bench.recipe, "tuned": tuned}, {}
    for task, task_rates in (("training", training_from_files), ("prediction", prediction_from_files)):
        rates: dict[str, list[float]] = {variant: [] for variant in recipes}
        with contextlib.ExitStack() as stack:
            loops = {
                variant: stack.enter_context(contextlib.closing(task_rates(bench, recipe, name)))
                for variant, recipe in recipes.items()
            }
            for _ in range(bench.effort.repeats + 1):
                for variant, loop in loops.items():
                    rates[variant].append(next(loop))
        result[task] = {variant: samples[1:] for variant, samples in rates.items()}  # the first is a warm-up
    return result


def training_from_files(bench: Bench, recipe: Recipe, name: str) -> Generator[float]:
    """Windows a second of training steps, sample after sample, each once the prefetched tracks are used up."""
    effort, device, recipe = bench.effort, bench.device, bench.with_short_prefetch(recipe)
    with WindowLoader(bench.paths, recipe.audio, recipe.loader, device, None) as loader:
        state, front_end = bench_train.new_training(name, recipe, device), measurement.front_end(recipe, device)
        batches = measurement.training_batches(loader, recipe, effort.batch_size)
        loop = bench_train.training_loop(state, name, recipe, front_end, batches)
        while True:
            bench_train.time_steps(loop, bench_train.prefetched_steps(recipe, effort.batch_size), device)
            yield effort.batch_size / bench_train.time_steps(loop, effort.steps, device)


def prediction_from_files(bench: Bench, recipe: Recipe, name: str) -> Generator[float]:
    """Windows a second from files to probabilities, sample after sample."""
    paths, device = bench.paths[: bench.effort.predict_tracks], bench.device
    front_end = measurement.front_end(recipe, device)
    models, index = [bench_predict.build(name, recipe, device)], bench_predict.prediction_index(recipe, len(paths))
    with WindowLoader(paths, recipe.audio, recipe.loader, device, None) as loader:
        while True:
            batches = loader.batches(index, measurement.window_samples(recipe), recipe.loader.predict_batch_size)
            yield len(index) / bench_predict.time_pass(models, front_end, batches, recipe, device)


def ratios(rates: dict[str, list[float]]) -> tuple[float, float, float]:
    """How many times as fast as the default, sample by sample: median, minimum and maximum."""
    speedups = [tuned / default for tuned, default in zip(rates["tuned"], rates["default"], strict=True)]
    return float(np.median(speedups)), min(speedups), max(speedups)


def plot(trials: list[Trial], title: str, path: Path) -> None:
    """How many times as fast each value is as the initial one."""
    measured = [trial for trial in trials if trial.initial in trial.rates]
    gains = {(f"{trial.setting} = {value}", ""): trial.gain(value) for trial in measured for value in trial.rates}
    plots.bars(gains, "times as fast as the initial value", title, path, baseline=1.0)


def run(bench: Bench, quick: bool) -> tuple[dict, list[Trial], str]:
    """Search all settings, and compare the best with the default: the result, the trials, the text of a TOML file."""
    result = {"benchmark": "tune", **bench.metadata()}
    finished: list[Trial] = []
    tuned = bench.recipe
    for trial, recipe in trials(bench, bench.recipe, quick):
        finished, tuned = [*finished, trial], recipe
        message = f"{trial.setting}: {trial.selected} of {', '.join(map(str, trial.rates))}"
        Console(stderr=True, highlight=False).print(message)
    name = tuned.rounds[-1].backbones[0]
    result["versus"] = {"backbone": name, **compare_with_default(bench, tuned, name)}
    result["trials"] = [
        {"setting": trial.setting, "before": trial.initial, "kept": trial.selected}
        | {"refused": _text_keys(trial.rejected), "samples_windows_per_s": _text_keys(trial.rates)}
        for trial in finished
    ]
    return result, finished, to_toml(finished, tuned, environment.tuning_signature(bench.device), result["date"])


def main(args: argparse.Namespace) -> int:
    """Search the settings, write the fastest to a TOML file, and print the comparison with the default."""
    with tempfile.TemporaryDirectory() as folder:
        result, finished, text = run(prepare(args, Path(folder), "loader.workers"), args.quick)
    files.write_text(args.write, text)
    console = timing.console()
    console.print(make_table(finished))
    for task in ("training", "prediction"):
        median, low, high = ratios(result["versus"][task])
        name = result["versus"]["backbone"]
        console.print(f"{task} {name} from files: {median:.2f} times the default's speed ({low:.2f} to {high:.2f})")
    console.print(f"wrote {args.write}: python train.py --recipe zalo2019 --recipe {args.write} ...")
    if args.plot:
        plot(finished, f"One setting after another, {result['device']}", args.plot)
    return timing.finish(result, args.out, ())


def _text_keys(by_value: Mapping[object, object]) -> dict[str, object]:
    return {str(value): entry for value, entry in by_value.items()}
