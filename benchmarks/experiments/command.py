"""Makes the cells of a comparison that are missing, and shows the table of those that are finished."""

import argparse
import json
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from benchmarks import timing
from benchmarks.experiments import cells, comparison, spec, tables
from benchmarks.experiments.cells import CellResult
from benchmarks.experiments.spec import Cell
from melgpu import cli, console, files
from melgpu.errors import InputError
from melgpu.runs.run_request import Sources

Finished = Sequence[tuple[Cell, CellResult]]


def main(args: argparse.Namespace) -> int:
    """Make cells, and write `results.json` and `table.md`; the exit code is 2 where a cell could not be made."""
    experiment = spec.read(args.variants)
    chosen = _chosen(args.only, experiment)
    device = cli.select_device(args.device)
    sources = Sources(args.labels, args.test, args.private, args.data)
    with tempfile.TemporaryDirectory() as settings_folder:
        all_cells = spec.make_cells(experiment, Path(settings_folder), args.overrides, device.type == "cpu")
        to_make = [cell for cell in all_cells if cell.variant in chosen and not _is_done(cell, args.folder)]
        if to_make and not args.labels:
            raise InputError("--labels is needed to make cells; --only without a name shows the table of finished ones")
        failed = 0
        for number, cell in enumerate(to_make, start=1):
            console.say(f"cell {number} of {len(to_make)}: {cell.title}")
            failed += not _make(cell, sources, args.folder, device)
        results = [(cell, cells.load_finished(args.folder, cell)) for cell in all_cells]
    finished = [(cell, result) for cell, result in results if result]
    console.say(f"{len(finished)} of {len(all_cells)} cells are finished")
    if finished:
        _show(finished, experiment, args, timing.metadata(device))
    return 2 if failed else 0


def _chosen(only: Sequence[str] | None, experiment: spec.ExperimentSpec) -> Sequence[str]:
    """The variants whose cells are made. Raises InputError."""
    names = [spec.BASE, *experiment.variants]
    unknown = set(only or []) - set(names)
    if unknown:
        raise InputError(f"--only: there is no variant {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    return names if only is None else only


def _is_done(cell: Cell, folder: Path) -> bool:
    """Whether a cell is finished and its run deleted. Raises InputError."""
    return cells.load_finished(folder, cell) is not None and not cells.run_folder(folder, cell).exists()


def _make(cell: Cell, sources: Sources, folder: Path, device: torch.device) -> bool:
    """Make a cell, unless another process does or did; False where it could not be made, which is said."""
    try:
        with _locked(folder / "cells" / f"{cell.name}.lock"):
            if cells.load_finished(folder, cell) is None:  # by now
                cells.make(cell, sources, folder, device)
            cells.delete_run(folder, cell)
    except BlockingIOError:
        console.say(f"{cell.title}: another process makes it")
    except InputError as error:
        for problem in error.problems:
            console.say(f"error: {cell.title}: {problem}")
        console.say(f"{cell.title} is left out; what it has so far is in {cells.run_folder(folder, cell)}")
        return False
    return True


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Raises BlockingIOError where another process has the lock."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:  # the kernel releases the lock however this process ends
        if not files.lock(file.fileno()):
            console.say_once(f"{path.parent}: {files.UNLOCKED_NOTE}")
        yield


def _show(finished: Finished, experiment: spec.ExperimentSpec, args: argparse.Namespace, machine: dict) -> None:
    by_variant: dict[str, dict[comparison.Key, CellResult]] = {}
    for cell, cell_result in finished:
        by_variant.setdefault(cell.variant, {})[cell.seed, cell.fold] = cell_result
    minutes = {name: _minutes(list(results.values())) for name, results in by_variant.items()}
    rows = comparison.rows(by_variant, experiment.pairs)
    shown = [comparison.TEST, comparison.VALIDATION]
    if any(len(cell.recipe.rounds) > 1 for cell, _ in finished):
        shown.append(comparison.PRIVATE)  # public ones get pseudo labels
    evaluated = [tracks for tracks in shown if any((tracks, "network") in row.estimates for row in rows)]
    for tracks in evaluated:
        console.show(tables.for_terminal(rows, minutes, tracks))
    for note in tables.NOTES:
        console.say(note)
    result = {
        "benchmark": "experiment",
        **machine,
        "experiment": args.variants.name,
        "base": experiment.base,
        "variants": experiment.variants,
        "tracks": _track_counts(finished),
        "rows": tables.as_json(rows),
        "minutes": {name: round(value, 2) for name, value in minutes.items() if value},
        "cells": [_describe(*item) for item in finished],
    }
    files.write_text(args.folder / "results.json", json.dumps(result, indent=1) + "\n")
    markdown = [f"{tables.TITLES[tracks]}:\n\n{tables.markdown(rows, minutes, tracks)}" for tracks in evaluated]
    files.write_text(args.folder / "table.md", "\n".join(markdown))
    console.say(f"wrote {args.folder / 'results.json'} and {args.folder / 'table.md'}")


def _minutes(results: Sequence[CellResult]) -> float:
    """The median time of a cell, of those that were made without an interruption; 0 where there is none."""
    seconds = [result.metadata.seconds for result in results if not result.metadata.resumed]
    return statistics.median(seconds) / 60 if seconds else 0.0


def _track_counts(finished: Finished) -> dict[str, int]:
    """Labelled tracks by split, each counted once."""
    tracks = {item for _, result in finished for item in zip(result.ids, result.splits, strict=True)}
    splits = [split for _, split in tracks]
    return {split: splits.count(split) for split in sorted(set(splits))}


def _describe(cell: Cell, result: CellResult) -> dict:
    metadata = result.metadata
    return {
        "variant": cell.variant,
        "fold": cell.fold,
        "seed": cell.seed,
        "best_epoch": metadata.best_epoch,
        "seconds": metadata.seconds,
        "resumed": metadata.resumed,
        "date": metadata.date,
        "commit": (metadata.environment.git_commit or "none")[:7],
        "device": metadata.environment.device_name,
    }
