"""Steps `prediction` and `loader`: the ensemble from files against its networks alone, and files to batches."""

import copy
import time
from collections.abc import Callable, Iterable, Iterator
from functools import cache, partial
from pathlib import Path

import numpy as np
from torch import nn

from benchmarks import bench_loader, bench_predict, measurement
from benchmarks.gpu.setting import Measurement, Setting
from melgpu.data import windows
from melgpu.data.batch import Batch
from melgpu.data.loader import WindowLoader
from melgpu.data.pcm_cache import PcmCache
from melgpu.models import classifier, inference

EPOCHS = 3  # of a loader; the first, which starts the processes, does not count
PASSES = 2  # of an ensemble


def prediction(setting: Setting) -> Iterator[Measurement]:
    """All networks of the last round, with random weights."""
    spec = setting.recipe.rounds[-1]
    count = len(spec.backbones) * len(spec.folds)
    yield Measurement(f"{count} networks", partial(_ensemble, setting))


def _ensemble(setting: Setting) -> dict:
    recipe, device, size = setting.recipe, setting.device, setting.recipe.loader.predict_batch_size
    models = _networks(setting)
    features = measurement.front_end(recipe, device)
    pictures = features(measurement.noise(recipe, size, device))
    index = windows.drop_last(bench_predict.prediction_index(recipe, setting.predict_tracks), size)
    num_batches = len(index) // size
    samples: dict[str, list[float]] = {"networks alone": [], "from files": []}
    paths = setting.music()[: setting.predict_tracks]
    with WindowLoader(paths, recipe.audio, recipe.loader, device) as loader:
        for number in range(PASSES + 1):
            ready = measurement.repeat_batch(pictures)
            repeated = [next(ready) for _ in range(num_batches)]
            alone = _steady_rate(setting, models, measurement.PrecomputedPictures(), repeated)
            batches = loader.batches(index, measurement.window_samples(recipe), size)
            from_files = _steady_rate(setting, models, features, batches)
            if number:  # the first pass starts the processes, and cuDNN tries its algorithms
                samples["networks alone"].append(alone)
                samples["from files"].append(from_files)
    rates = {variant: float(np.median(passes)) for variant, passes in samples.items()}
    ratio = rates["from files"] / rates["networks alone"]
    views = len(models) * (2 if recipe.predict.flip else 1)
    text = f"{rates['from files']:,.1f} windows/s from files, {rates['networks alone']:,.1f} by the networks alone: "
    text += f"{ratio:.3f}; {rates['from files'] * views:,.0f} views/s"
    return {"windows_per_s": rates, "samples": samples, "files_over_alone": ratio, "views": views, "text": text}


def _networks(setting: Setting) -> list[nn.Module]:
    """The networks of the last round; those of other folds are copies, since weights at random take seconds to draw."""
    spec = setting.recipe.rounds[-1]
    built = [bench_predict.build(name, setting.recipe, setting.device) for name in spec.backbones]
    return [copy.deepcopy(model) for model in built for _ in spec.folds]


def _steady_rate(setting: Setting, models: list[nn.Module], features: nn.Module, batches: Iterable[Batch]) -> float:
    """Windows a second after the first batch: until then the first tracks are decoded."""
    bfloat16 = classifier.use_bfloat16(setting.recipe.optim.precision, setting.device)
    results = inference.window_probs(models, features, batches, setting.recipe.predict.flip, bfloat16)
    next(results)
    started = time.perf_counter()
    count = sum(len(batch.tracks) for batch, _ in results)
    return count / (time.perf_counter() - started)


def loader(setting: Setting) -> Iterator[Measurement]:
    """Files to batches on the device: decoded, from the PCM cache on disk, and from the device's memory."""

    @cache
    def filled() -> tuple[PcmCache, float]:
        recipe = bench_loader.with_cache(setting.recipe, "disk")
        return bench_loader.fill_cache(setting.music(), recipe, Path(setting.folder))

    yield Measurement("decoded", partial(_epochs, setting, "off", None))
    for cache_kind in ("disk", "gpu"):
        yield Measurement(f"pcm_cache={cache_kind}", partial(_epochs, setting, cache_kind, filled))


def _epochs(setting: Setting, kind: str, filled: Callable[[], tuple[PcmCache, float]] | None) -> dict:
    pcm_cache, fill_s = filled() if filled else (None, 0.0)
    recipe = bench_loader.with_cache(setting.recipe, kind)
    row = bench_loader.time_variant(setting.music(), recipe, setting.device, pcm_cache, bench_loader.no_op, EPOCHS)
    rates = row["samples_windows_per_s"][1:]
    rate = float(np.median(rates))
    text = f"{rate:,.0f} windows/s ({min(rates):,.0f} to {max(rates):,.0f})"
    text += f", first batch after {row['first_batch_s']:.2f} s, longest wait {row['longest_wait_s']:.2f} s"
    text += f", filled in {fill_s:.1f} s" if filled else ""
    kept = {key: row[key] for key in ("first_batch_s", "longest_wait_s")}
    return {"windows_per_s": rate, "samples_windows_per_s": rates, **kept, "fill_s": fill_s, "text": text}
