"""How exact are the engines on this device, on your own music?

    python -m benchmarks.parity AUDIO...

Every window of the files through every engine, against a float64 reference by NumPy and SciPy: largest, 99th
percentile and mean difference in dB above the floor, of all bands and by thirds of them; on an NVIDIA GPU also of
nnAudio's convolution in TF32.
"""

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from benchmarks import measurement, timing
from benchmarks.references import reference
from melgpu import cli
from melgpu.audio.decode import conform, decode
from melgpu.data import windows
from melgpu.features.log_mel import LogMel
from melgpu.features.parity import MAX_ERROR_DB, MAX_MEAN_ERROR_DB
from melgpu.recipe import Recipe, load_recipe

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


def engines(recipe: Recipe, device: torch.device) -> Iterator[tuple[str, Callable[[torch.Tensor], torch.Tensor]]]:
    """dB by each engine that runs on this device, waves (B, T) to (B, M, N)."""
    for engine in ("nnaudio", "fft", *(["fused"] if device.type == "cuda" else [])):
        front_end = LogMel(recipe.mel.model_copy(update={"engine": engine}), recipe.audio.sample_rate).to(device)
        yield engine, front_end.exact_decibels
    if device.type == "cuda":
        yield "nnaudio, TF32", lambda waves: _in_tf32(front_end, waves)


def _in_tf32(front_end: LogMel, waves: torch.Tensor) -> torch.Tensor:
    with measurement.convolution_precision("tf32"):
        return front_end.power_to_db(front_end.mels[0](waves))


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


@torch.no_grad()
def run(paths: list[Path], recipe: Recipe, device: torch.device) -> dict:
    """Compare every engine with the reference on all windows of the files."""
    waves = np.stack([wave for path in paths for wave in file_windows(path, recipe)])
    expected = np.stack([reference.decibels(wave, recipe.audio.sample_rate, recipe.mel) for wave in waves])
    above = expected > -recipe.mel.top_db
    result = {"benchmark": "parity", **timing.describe_machine(device), "windows": len(waves), "engines": {}}
    for name, decibels in engines(recipe, device):
        batches = torch.from_numpy(waves).split(8)
        actual = torch.cat([decibels(batch.to(device)).cpu() for batch in batches]).numpy()
        result["engines"][name] = statistics(np.abs(actual - expected), above)
    return result


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
        passed = row["max_db"] <= MAX_ERROR_DB and row["mean_db"] <= MAX_MEAN_ERROR_DB
        bands = [f"{row['max_db_by_band'][band]:.4f}" for band in BANDS]
        table.add_row(
            name,
            f"{row['max_db']:.4f}",
            f"{row['p99_db']:.5f}",
            f"{row['mean_db']:.6f}",
            *bands,
            "passed" if passed else "failed",
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
    timing.finish(result, args.out, ())


if __name__ == "__main__":
    cli.run(main)
