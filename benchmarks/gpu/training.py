"""Steps `training`, `channels_last` and `compile`: training steps of each network, variants in turn."""

import contextlib
import statistics
import time
from collections.abc import Generator, Iterator, Mapping
from functools import partial

import torch

from benchmarks import bench_train, measurement, timing
from benchmarks.gpu.setting import Measurement, Setting
from melgpu.data.loader import WindowLoader
from melgpu.recipe import Recipe
from melgpu.training.loop import StepDone

COMPILED = "resnet50"  # of the six; a network of its own where a small run has others
WARM_UP_STEPS = 2  # cuDNN tries its algorithms in the first
CALLS = 10  # of the front end for one sample: a step queues it without waiting for it

Loop = Generator[StepDone]


def measurements(setting: Setting) -> Iterator[Measurement]:
    """Each network on pictures that are ready, from waves on the device, and from files."""
    recipe = setting.recipe
    with WindowLoader(setting.music(), recipe.audio, recipe.loader, setting.device) as loader:
        for name in setting.networks:
            yield Measurement(name, partial(_from_files, setting, loader, name))


def _from_files(setting: Setting, loader: WindowLoader, name: str) -> dict:
    recipe, size, device = setting.recipe, setting.batch_size, setting.device
    features = measurement.front_end(recipe, device)
    waves = measurement.noise(recipe, size, device)
    pictures = features(waves)
    state = bench_train.new_training(name, recipe, device)
    ready, waiting, files = bench_train.VARIANTS
    with contextlib.ExitStack() as stack:
        batches = stack.enter_context(contextlib.closing(measurement.training_batches(loader, recipe, size)))
        inputs = {
            ready: (measurement.PrecomputedPictures(), measurement.repeat_batch(pictures)),
            waiting: (features, measurement.repeat_batch(waves)),
            files: (features, batches),
        }
        loops = {
            variant: stack.enter_context(contextlib.closing(bench_train.training_loop(state, name, recipe, *source)))
            for variant, source in inputs.items()
        }
        # While the other variants run, the loader prefetches: its sample begins once that is used up.
        skipped = {files: bench_train.prefetched_steps(recipe, size)}
        samples = alternate(loops, skipped, setting)
    medians = {variant: statistics.median(step_s) for variant, step_s in samples.items()}
    feature_s = _feature_seconds(features, waves, setting)
    share = feature_s / (medians[ready] + feature_s)
    ratio = medians[ready] / medians[files]
    text = f"{size / medians[ready]:,.0f} windows/s on ready pictures; a step of {1000 * medians[ready]:.2f} ms, "
    text += f"from waves {1000 * medians[waiting]:.2f}, from files {1000 * medians[files]:.2f}: {ratio:.3f} of ready; "
    text += f"features {1000 * feature_s:.3f} ms, {share:.2%} of a step"
    row = {"step_s": medians, "samples_s": samples, "feature_s": feature_s, "feature_share": share}
    return {**row, "files_over_ready": ratio, "windows_per_s": size / medians[ready], "text": text}


def _feature_seconds(features: torch.nn.Module, waves: torch.Tensor, setting: Setting) -> float:
    """Seconds of the front end for a batch, when calls are queued one after another."""

    def calls() -> None:
        for _ in range(CALLS):
            features(waves)

    return statistics.median(timing.measure(calls, setting.device, setting.seconds)) / CALLS


def alternate(loops: Mapping[str, Loop], skipped: Mapping[str, int], setting: Setting) -> dict[str, list[float]]:
    """Seconds a step of each variant, in turn, so that a drift of the clock affects all alike.

    Before each sample a variant takes `skipped` steps (default: one) that do not count.
    """
    samples: dict[str, list[float]] = {variant: [] for variant in loops}
    for loop in loops.values():
        bench_train.time_steps(loop, WARM_UP_STEPS, setting.device)
    for _ in range(setting.rounds):
        for variant, loop in loops.items():
            bench_train.time_steps(loop, skipped.get(variant, 1), setting.device)
            samples[variant].append(bench_train.time_steps(loop, setting.steps, setting.device))
    return samples


def channels_last(setting: Setting) -> Iterator[Measurement]:
    """Each network in both memory formats."""
    for name in setting.networks:
        yield Measurement(name, partial(_memory_formats, setting, name))


def _memory_formats(setting: Setting, name: str) -> dict:
    recipes = {
        layout: measurement.with_value(setting.recipe, "machine.channels_last", layout == "NHWC")
        for layout in ("NHWC", "NCHW")
    }
    samples = _compare_recipes(setting, name, recipes)
    medians = {layout: statistics.median(step_s) for layout, step_s in samples.items()}
    ratio = medians["NCHW"] / medians["NHWC"]
    text = f"NHWC {1000 * medians['NHWC']:.2f} ms a step, NCHW {1000 * medians['NCHW']:.2f}: "
    text += f"channels_last is {ratio:.2f} times as fast"
    return {"step_s": medians, "samples_s": samples, "channels_last_gain": ratio, "text": text}


def _compare_recipes(setting: Setting, name: str, recipes: Mapping[str, Recipe]) -> dict[str, list[float]]:
    """Seconds a step of a network under several recipes, on ready pictures."""
    pictures = _pictures(setting)
    with contextlib.ExitStack() as stack:
        loops = {
            variant: stack.enter_context(contextlib.closing(_ready_loop(setting, name, recipe, pictures)))
            for variant, recipe in recipes.items()
        }
        return alternate(loops, {}, setting)


def _pictures(setting: Setting) -> torch.Tensor:
    waves = measurement.noise(setting.recipe, setting.batch_size, setting.device)
    return measurement.front_end(setting.recipe, setting.device)(waves)


def _ready_loop(setting: Setting, name: str, recipe: Recipe, pictures: torch.Tensor) -> Loop:
    state = bench_train.new_training(name, recipe, setting.device)
    batches = measurement.repeat_batch(pictures)
    return bench_train.training_loop(state, name, recipe, measurement.PrecomputedPictures(), batches)


def compiled(setting: Setting) -> Iterator[Measurement]:
    """One network with and without torch.compile."""
    name = COMPILED if COMPILED in setting.networks else setting.networks[0]
    yield Measurement(name, partial(_compiled, setting, name))


def _compiled(setting: Setting, name: str) -> dict:
    pictures = _pictures(setting)
    recipe = measurement.with_value(setting.recipe, "machine.compile", True)
    with contextlib.ExitStack() as stack:
        eager = stack.enter_context(contextlib.closing(_ready_loop(setting, name, setting.recipe, pictures)))
        compiled_loop = stack.enter_context(contextlib.closing(_ready_loop(setting, name, recipe, pictures)))
        started = time.perf_counter()
        bench_train.time_steps(compiled_loop, 1, setting.device)
        compile_s = time.perf_counter() - started
        samples = alternate({"eager": eager, "compiled": compiled_loop}, {}, setting)
    medians = {variant: statistics.median(step_s) for variant, step_s in samples.items()}
    ratio = medians["eager"] / medians["compiled"]
    text = f"eager {1000 * medians['eager']:.2f} ms a step, compiled {1000 * medians['compiled']:.2f}: "
    text += f"{ratio:.2f} times as fast after {compile_s:.0f} s"
    return {"step_s": medians, "samples_s": samples, "gain": ratio, "compile_s": compile_s, "text": text}
