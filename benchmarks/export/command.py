"""One trained network of a run -> size, speed and agreement of every file that melgpu-export can write of it.

On the CPU. The network in PyTorch and the files get the same windows in turn, one at a time, so that they share any
drift of the machine. The windows are of tracks that the network was not trained on.
"""

import argparse
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from rich.box import SIMPLE
from rich.table import Table

from benchmarks import measurement, timing
from melgpu.export import check, exporter, pt2_file, selection
from melgpu.export.check import Probs, TimedPredictions
from melgpu.export.metadata import ExportOptions
from melgpu.prediction.ensemble import load_networks
from melgpu.runs.folder import open_run
from melgpu.runs.job import Job
from melgpu.runs.run import Run

EXPORTS = (
    ExportOptions("onnx", "windows", "float32"),
    ExportOptions("onnx", "windows", "float16"),
    ExportOptions("onnx", "windows", "int8"),
    ExportOptions("pt2", "windows", "float32"),
    ExportOptions("pt2", "windows", "float16"),
)
NETWORK = "PyTorch, float32"
WARM_UP_CALLS = 2


def main(args: argparse.Namespace) -> int:
    """Measure the files of a network, and print their table. Raises InputError."""
    run = open_run(args.run)
    job = selection.select_job(run, args.backbone, args.fold)
    result = measure(run, job, args.tracks)
    timing.console().print(make_table(result))
    return timing.finish(result, args.out, ())


def measure(run: Run, job: Job, num_tracks: int) -> dict:
    """The result: a row for the network in PyTorch, and one for each file."""
    machine = timing.describe_machine(torch.device("cpu"))
    (network,) = load_networks(run, [job])
    recipe = network.metadata.recipe
    paths = check.validation_paths(run, job, num_tracks)
    windows = check.load_inputs(paths, recipe, "windows")[:-1]  # the last one is silence
    probs = {NETWORK: check.network_probs(network, "windows")}
    num_bytes = {NETWORK: run.paths.checkpoint(job).stat().st_size}
    with tempfile.TemporaryDirectory() as folder:
        for options in EXPORTS:
            out = Path(folder) / f"{options.precision}.{options.format}"
            exporter.export_network(run, job, options, out, [])
            name = f"{options.format}, {options.precision}"
            probs[name] = _open(out)
            num_bytes[name] = out.stat().st_size
        predictions = predict_in_turn(probs, windows)
    return {
        "benchmark": "export",
        **machine,
        "network": job.backbone,
        "image_size": recipe.mel.image_size,
        "num_windows": len(windows),
        "rows": [
            {"file": name, "bytes": num_bytes[name], **_summary(predictions[name], predictions[NETWORK])}
            for name in probs
        ],
    }


def _open(path: Path) -> Probs:
    if path.suffix == ".pt2":
        return pt2_file.open_file(path)
    from melgpu.export import onnx_file  # only here: tables of saved results need no extra packages

    return onnx_file.open_file(path)


def predict_in_turn(probs: Mapping[str, Probs], windows: Sequence[np.ndarray]) -> dict[str, list[TimedPredictions]]:
    """The predictions of each window, shape (T,), by each function."""
    for function in probs.values():
        check.predict(function, [windows[0]] * WARM_UP_CALLS, "windows")
    predictions: dict[str, list[TimedPredictions]] = {name: [] for name in probs}
    for window in windows:
        for name, function in probs.items():
            predictions[name].append(check.predict(function, [window], "windows"))
    return predictions


def _summary(actual: Sequence[TimedPredictions], expected: Sequence[TimedPredictions]) -> dict:
    """Speed, and agreement with what the network predicts."""
    probs = np.concatenate([prediction.probs for prediction in actual])
    expected_probs = np.concatenate([prediction.probs for prediction in expected])
    differences = np.abs(probs - expected_probs).max(axis=1)
    return {
        **measurement.rate_summary([1 / prediction.seconds for prediction in actual]),
        "max_difference": float(differences.max()),
        "median_difference": float(np.median(differences)),
        "same_labels": int((probs.argmax(axis=1) == expected_probs.argmax(axis=1)).sum()),
    }


def rows(result: dict) -> Iterator[tuple[str, ...]]:
    """The table, its header first."""
    network = f"{result['network']}, {result['image_size']} pixels, {result['threads']} threads"
    yield network, "MB", "windows/s (quartiles)", "largest difference", "median difference", "same label"
    for row in result["rows"]:
        low, high = row["quartiles"]
        rate = f"{row['windows_per_s']:.3g} ({low:.3g}-{high:.3g})"
        agreement = ("", "", "")
        if row["file"] != NETWORK:
            same = f"{row['same_labels']} of {result['num_windows']}"
            agreement = (f"{row['max_difference']:.1e}", f"{row['median_difference']:.1e}", same)
        yield row["file"], f"{row['bytes'] / 1e6:.1f}", rate, *agreement


def make_table(result: dict) -> Table:
    """The table for the terminal."""
    header, *others = rows(result)
    table = Table(*header, title=f"One window at a time, {result['device']}", box=SIMPLE)
    for row in others:
        table.add_row(*row)
    return table
