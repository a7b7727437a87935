"""How exact are the engines on this device, on your own music?

    python -m benchmarks.parity AUDIO...

Every window of the files through every engine, against a float64 reference by NumPy and SciPy: largest, 99th
percentile and mean difference in dB above the floor, of all bands and by thirds of them; on an NVIDIA GPU also of
nnAudio's convolution in TF32.
"""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from benchmarks import bench_features, measurement, timing
from benchmarks.references import reference
from melgpu import cli
from melgpu.audio.decode import conform, decode
from melgpu.data import windows
from melgpu.features.log_mel import LogMel
from melgpu.features.parity import MAX_ERROR_DB, MAX_MEAN_ERROR_DB
from melgpu.features.precision import float32_precision
from melgpu.recipe import Recipe, load_recipe

Decibels = Callable[[torch.Tensor], torch.Tensor]
BANDS = ("low", "middle", "high")  # thirds of the mel bands


def file_windows(path: Path, recipe: Recipe) -> Iterator[np.ndarray]:
    """The prediction windows of a file, waves of shape (T,)."""
    audio = recipe.audio
    track = conform(
        decode(path, audio.sample_rate, audio.track_s), windows.to_samples(audio.track_s, audio.sample_rate)
    )
    index = windows.prediction_windows(np.array([0]), np.array([False]), audio, recipe.windows)
    for start in index.starts:
        yield track[start : start + windows.to_samples(recipe.windows.window_s, audio.sample_rate)]


def engines(recipe: Recipe, device: torch.device) -> dict[str, Callable[[], Decibels]]:
    """By name, what makes dB, waves (B, T) to (B, M, N), by each engine for this device; it fails where one does."""
    builders: dict[str, Callable[[], Decibels]] = {
        name: partial(_exact_decibels, build) for name, build in bench_features.engines(recipe, device).items()
    }
    if device.type == "cuda":
        builders["nnaudio, TF32"] = partial(_decibels_in_tf32, recipe, device)
    return builders


def _exact_decibels(build: Callable[[], LogMel]) -> Decibels:
    return build().exact_decibels


def _decibels_in_tf32(recipe: Recipe, device: torch.device) -> Decibels:
    front_end = measurement.front_end(measurement.with_value(recipe, "mel.engine", "nnaudio"), device)

    def decibels(waves: torch.Tensor) -> torch.Tensor:
        with float32_precision("tf32"):
            return front_end.power_to_db(front_end.mels[0](waves))

    return decibels


def statistics(error: np.ndarray, above: np.ndarray) -> dict:
    """Largest, 99th percentile and mean of errors above the floor; both (windows, M, N)."""
    thirds = zip(BANDS, np.array_split(error, 3, axis=1), np.array_split(above, 3, axis=1), strict=True)
    selected = error[above]
    return {
        "max_db": float(selected.max()),
        "p99_db": float(np.quantile(selected, 0.99)),
        "mean_db": float(selected.mean()),
        "max_db_by_band": {name: float(band[mask].max(initial=0)) for name, band, mask in thirds},
    }


@dataclass(frozen=True)
class Reference:
    """The windows of audio files, waves (W, T), and their dB in float64, (W, M, N)."""

    waves: np.ndarray
    decibels: np.ndarray
    top_db: float

    @torch.no_grad()
    def compare(self, decibels: Decibels, device: torch.device) -> dict:
        """The errors of an engine."""
        batches = torch.from_numpy(self.waves).split(8)
        actual = torch.cat([decibels(batch.to(device)).cpu() for batch in batches]).numpy()
        return statistics(np.abs(actual - self.decibels), self.decibels > -self.top_db)


def make_reference(paths: list[Path], recipe: Recipe) -> Reference:
    """The reference of all windows of files. Raises InputError."""
    waves = np.stack([wave for path in paths for wave in file_windows(path, recipe)])
    expected = np.stack([reference.decibels(wave, recipe.audio.sample_rate, recipe.mel) for wave in waves])
    return Reference(waves, expected, recipe.mel.top_db)


def run(paths: list[Path], recipe: Recipe, device: torch.device) -> dict:
    """Compare every engine with the reference on all windows of the files; one that fails here costs its row."""
    expected = make_reference(paths, recipe)
    result = {"benchmark": "parity", **timing.describe_machine(device), "windows": len(expected.waves)}
    rows: dict[str, dict] = {}
    failed: dict[str, str] = {}
    for name, build in engines(recipe, device).items():
        try:
            rows[name] = expected.compare(build(), device)
        except Exception as error:  # no compiler, out of memory: each engine fails in its own way
            failed[name] = measurement.failure(error)
    return {**result, "engines": rows, "failed": failed}


def passes_gate(row: dict) -> bool:
    """Whether errors of an engine are within the parity gate."""
    return row["max_db"] <= MAX_ERROR_DB and row["mean_db"] <= MAX_MEAN_ERROR_DB


def make_table(result: dict) -> Table:
    """Differences by engine, for the terminal."""
    table = Table(
        title=f"dB from a float64 reference (in IEEE float32 or TF32), {result['windows']} windows, {result['device']}",
        caption="largest also by thirds of the bands; "
        f"the parity gate allows {MAX_ERROR_DB} dB, {MAX_MEAN_ERROR_DB} dB on average",
        box=SIMPLE,
    )
    for column in ("engine", "largest", "99 %", "mean", *BANDS, "gate"):
        table.add_column(column, justify="left" if column == "engine" else "right")
    for name, row in result["engines"].items():
        bands = [f"{row['max_db_by_band'][band]:.4f}" for band in BANDS]
        table.add_row(
            name,
            f"{row['max_db']:.4f}",
            f"{row['p99_db']:.5f}",
            f"{row['mean_db']:.6f}",
            *bands,
            "passed" if passes_gate(row) else "failed",
        )
    return table


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("audio", type=Path, nargs="+", metavar="AUDIO")
    parser.add_argument("--recipe", action="append", default=[], help="name or TOML file (default: zalo2019)")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, help="save the result as JSON")
    args = parser.parse_args(argv)
    result = run(args.audio, load_recipe(args.recipe), cli.select_device(args.device))
    Console().print(make_table(result))
    for name, reason in result["failed"].items():
        Console().print(f"{name} failed: {reason}")
    timing.finish(result, args.out, ())


if __name__ == "__main__":
    cli.run(main)
