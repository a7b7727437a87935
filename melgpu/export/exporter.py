"""Export a network of a run: trace it, write the file, check it, and say how large, fast and exact it is."""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.box import SIMPLE
from rich.table import Table

from melgpu import console, files
from melgpu.errors import InputError, is_out_of_memory, one_line
from melgpu.export import check, graph, metadata, pt2_file, selection
from melgpu.export.check import Comparison, TimedPredictions
from melgpu.export.metadata import ExportOptions
from melgpu.models import checkpoint
from melgpu.prediction.ensemble import load_networks
from melgpu.runs.job import Job
from melgpu.runs.run import Run


def export_network(run: Run, job: Job, options: ExportOptions, out: Path, audio: list[str]) -> None:
    """Write a network of a run to a file and check it on music files, or else on validation tracks of the network.

    Raises InputError, and writes nothing, where the network cannot be exported, or the file does not give its
    probabilities.
    """
    (network,) = load_networks(run, [job])
    recipe = network.metadata.recipe
    description = metadata.describe(network, checkpoint.digest(run.paths.checkpoint(job)), options)
    paths = audio or check.validation_paths(run, job, check.NUM_TRACKS[options.form])
    inputs = check.load_inputs(paths, recipe, options.form)
    # Before the network is converted.
    expected = check.predict(check.network_probs(network, options.form), inputs, options.form)
    console.say(f"Exporting {job.name} of round {job.round}")
    with _refusing(job, options):
        program = graph.trace(graph.build(network, options), options, description.window_samples)
    if options.format == "onnx":
        from melgpu.export import onnx_file  # only here: a pt2 file needs no extra packages

        write = functools.partial(onnx_file.write, program, options, description)
        open_file = onnx_file.open_file
    else:
        write = functools.partial(pt2_file.write, program, description)
        open_file = pt2_file.open_file
    with files.atomic_write(out) as temporary:
        with _refusing(job, options):
            write(temporary)
            actual = check.predict(open_file(temporary), inputs, options.form)
        comparison = check.compare(actual, expected, options)
    console.show(_table(run.paths.checkpoint(job), out, expected, actual, comparison, options))
    console.say(f"Largest difference of a probability from the network's: {comparison.max_difference:.1e}")
    console.say(f"Licence of the weights that training began with: {description.weights_license}")
    if note := selection.describe_others(run, job):
        console.say(note)
    console.say(f"Written: {out}")


@contextmanager
def _refusing(job: Job, options: ExportOptions) -> Iterator[None]:
    """Raise InputError, which names the network, where a block cannot trace, convert, load or run it."""
    try:
        yield
    except OSError:  # of the disk
        raise
    except Exception as error:  # torch, onnxscript and onnxruntime raise different ones
        if is_out_of_memory(error):
            raise
        other = "pt2" if options.format == "onnx" else "onnx"
        problem = f"{job.name}: cannot be exported as {options.format} in {options.precision} ({one_line(error)})"
        raise InputError(f"{problem}; try --format {other}, or export another network") from error


def _table(
    checkpoint_path: Path,
    out: Path,
    expected: TimedPredictions,
    actual: TimedPredictions,
    comparison: Comparison,
    options: ExportOptions,
) -> Table:
    """Size, speed and agreement of the network in PyTorch and of the file."""
    unit = "window" if options.form == "windows" else "track"
    runtime = "onnxruntime" if options.format == "onnx" else "torch.export"
    table = Table("", "size", f"a {unit}", "largest difference", "same label", box=SIMPLE)
    table.add_row("PyTorch", _megabytes(checkpoint_path), _milliseconds(expected), "", "")
    table.add_row(
        f"{runtime}, {options.precision}",
        _megabytes(out),
        _milliseconds(actual),
        f"{comparison.max_difference:.1e}",
        f"{comparison.same_labels} of {comparison.num_inputs}",
    )
    return table


def _megabytes(path: Path) -> str:
    return f"{path.stat().st_size / 1e6:.1f} MB"


def _milliseconds(predictions: TimedPredictions) -> str:
    return f"{predictions.seconds * 1e3:.0f} ms"
