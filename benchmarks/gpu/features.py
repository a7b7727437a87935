"""Steps `parity` and `features`: how exact the engines are on mp3, how fast beside those of other libraries."""

from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path

import torch

from benchmarks import bench_features, measurement, parity, roofline, timing
from benchmarks.bench_features import Builders, FrontEnd
from benchmarks.gpu.setting import Measurement, Setting

AUTO = "auto"


def parity_measurements(setting: Setting) -> Iterator[Measurement]:
    """Each engine on all windows of one file."""

    @cache
    def expected() -> parity.Reference:
        return parity.make_reference([Path(setting.music()[0])], setting.recipe)

    for engine, build in parity.engines(setting.recipe, setting.device).items():
        yield Measurement(engine, partial(_errors, setting, expected, build))


def _errors(setting: Setting, expected: Callable[[], parity.Reference], build: Callable[[], parity.Decibels]) -> dict:
    row = expected().compare(build(), setting.device)
    passed = parity.passes_gate(row)
    verdict = "passes the gate" if passed else "misses the gate"
    text = f"largest {row['max_db']:.4f} dB, mean {row['mean_db']:.6f} dB: {verdict}"
    return {**row, "passed": passed, "text": text}


def builders(setting: Setting) -> Builders:
    """`auto`, melgpu's engines and the front ends of other libraries."""
    recipe, device = setting.recipe, setting.device
    automatic = measurement.with_value(recipe, "mel.engine", AUTO)
    result: Builders = {AUTO: partial(measurement.front_end, automatic, device)}
    result |= bench_features.engines(recipe, device)
    return result | bench_features.baselines(recipe, device)


def measurements(setting: Setting) -> Iterator[Measurement]:
    """Every front end at every batch size, that of a training step first."""

    @cache
    def waves(size: int) -> torch.Tensor:
        return measurement.noise(setting.recipe, size, setting.device)

    @cache
    def limit() -> float:
        """Windows a second: bytes that must move, at the bandwidth of a large copy; on a CPU the FFT alone."""
        return bench_features.limit(setting.recipe.mel, waves(setting.batch_size))[1]

    first = setting.batch_sizes.index(setting.batch_size)
    sizes = [setting.batch_size, *setting.batch_sizes[:first], *setting.batch_sizes[first + 1 :]]
    built = {name: cache(build) for name, build in builders(setting).items()}
    for size in sizes:
        for name, build in built.items():
            yield Measurement(f"{name}, batch of {size}", partial(_rate, setting, build, waves(size), limit))


def _rate(setting: Setting, build: Callable[[], FrontEnd], waves: torch.Tensor, limit: Callable[[], float]) -> dict:
    row = bench_features.time_front_end(build(), waves, setting.seconds)
    row["share_of_limit"] = row["windows_per_s"] / limit()
    row["bytes_per_window"] = roofline.front_end_bytes(setting.recipe)
    spread = timing.median_and_quartiles(row["samples_s"])
    median_ms, low_ms, high_ms = (1000 * call_s for call_s in spread)
    text = f"{row['windows_per_s']:,.0f} windows/s, {median_ms:.3f} ms a call ({low_ms:.3f} to {high_ms:.3f})"
    text += f", {row['share_of_limit']:.1%} of the limit, {row['peak_mib']:,.0f} MiB"
    kept = {key: row[key] for key in ("windows_per_s", "share_of_limit", "peak_mib", "bytes_per_window")}
    return {**kept, "call_s": spread, "num_calls": len(row["samples_s"]), "batch_size": len(waves), "text": text}
