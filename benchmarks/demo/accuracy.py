"""Accuracy of the demo's predictors: a finished run to the JSON of a result, and that to the rows of tables."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks import timing
from melgpu import files
from melgpu.data.manifest import Split
from melgpu.errors import InputError
from melgpu.machine import num_usable_cores
from melgpu.recipe import load_recipe
from melgpu.report.analysis import RoundResult, round_results
from melgpu.report.training_times import training_logs, training_time
from melgpu.runs import environment
from melgpu.runs.folder import open_run
from melgpu.runs.formats import timings
from melgpu.runs.run import Run


def save(run_folder: Path, results: Path) -> Path:
    """Write the result of a demo that is finished on this machine; its path. Raises InputError for another run."""
    run = open_run(run_folder)
    _check(run)
    result = _result(run, round_results(run)[0])
    path = results / f"demo-{_slug(result['device'])}-{result['cores']}-cores.json"
    files.write_text(path, json.dumps(result, indent=1) + "\n")
    return path


def _check(run: Run) -> None:
    if run.current_round is not None:
        raise InputError(f"{run.folder}: round {run.current_round} is not stacked yet: make demo goes on with it")
    made_by = run.environment
    if run.recipe.digest() != load_recipe(["demo"], [], made_by.device == "cpu").digest():
        raise InputError(f"{run.folder}: not of the recipe demo as it is here: delete the folder, then make demo")
    here = environment.device_name(torch.device(made_by.device))
    if here != made_by.device_name:
        raise InputError(f"{run.folder}: made on {made_by.device_name}, this is {here}: save its result there")


def _result(run: Run, last: RoundResult) -> dict:
    made_by = run.environment
    scores = last.evaluation.scores()
    rows = []
    for predictor in last.shown_predictors:
        by_split = {}
        for split, score in scores[predictor].items():
            by_split[split] = {"accuracy": score.accuracy, "interval": score.interval}
        is_final = predictor == last.final_predictor
        name = last.display_name(predictor)
        rows.append({"name": name, "kind": last.kind(predictor), "is_final": is_final, "splits": by_split})
    splits = []
    for split, score in scores[last.final_predictor].items():
        splits.append({"split": split, "tracks": score.num_tracks, "trained_on": score.num_pseudo_labelled})
    return {
        "benchmark": "demo",
        "schema": timing.SCHEMA,
        "device": made_by.device_name,
        "driver": environment.driver_version(torch.device(made_by.device)),
        "cores": num_usable_cores(),
        "python": made_by.python,
        "packages": made_by.packages,
        "git_commit": made_by.git_commit,
        "date": timings.load(run.paths.timings)[-1].ended,
        "minutes": round(_minutes(run), 1),
        "image_size": run.recipe.mel.image_size,
        "round": last.round_number,
        "splits": splits,
        "rows": rows,
    }


def _minutes(run: Run) -> float:
    """The time of all stages, without the start of processes and what passed while the demo was interrupted.

    Decoding, prediction and stacking are in the run's timings, training in the logs of its networks.
    """
    seconds = sum(stage.seconds for stage in timings.load(run.paths.timings))
    for round_number in range(1, len(run.recipe.rounds) + 1):
        for backbone, folds in training_logs(run, round_number).items():
            seconds += training_time(run, backbone, folds).total_s
    return seconds / 60


def _slug(device: str) -> str:
    """A name of a device for files: `Intel(R) Xeon(R) CPU` as `intel-xeon-cpu`."""
    words = re.findall(r"[a-z0-9]+", re.sub(r"\((r|tm)\)", " ", device.lower()))
    return "-".join(words)


def rows(result: dict) -> Iterator[tuple[str, ...]]:
    """The table of all predictors, its header first."""
    yield _header(result)
    for row in result["rows"]:
        yield _cells(result, row, row["name"])


def headline_rows(result: dict) -> Iterator[tuple[str, ...]]:
    """The table of the best network on validation tracks, the mean, the blends, and whichever is final."""
    yield _header(result)
    networks = [row for row in result["rows"] if row["kind"] == "network"]
    best = max(networks, key=lambda row: row["splits"][Split.VALID]["accuracy"])  # of equal ones the first
    yield _cells(result, best, f"best of {len(networks)} networks on validation: {best['name']}")
    for row in result["rows"]:
        if row["kind"] in ("mean", "blend") or row["is_final"]:
            yield _cells(result, row, row["name"])


def headline(result: dict) -> str:
    """What the table of `headline_rows` is of, before commit and machine."""
    size = result["image_size"]
    return (
        "**Accuracy** of `make demo` on tracks of its synthetic music, with 95 % confidence intervals, after round "
        f"{result['round']}; {result['minutes']:.0f} minutes of decoding, training, prediction and stacking on "
        f"{result['cores']} cores, networks from scratch on pictures of {size} x {size} pixels"
    )


def _header(result: dict) -> tuple[str, ...]:
    cells = []
    for split in result["splits"]:
        trained_on = f", {split['trained_on']} trained on" if split["trained_on"] else ""
        cells.append(f"{Split(split['split']).description}, {split['tracks']} tracks{trained_on}")
    return "", *cells


def _cells(result: dict, row: dict, name: str) -> tuple[str, ...]:
    cells = []
    for split in result["splits"]:
        score = row["splits"][split["split"]]
        low, high = score["interval"]
        cells.append(f"{score['accuracy']:.3f} ({low:.2f}-{high:.2f})")
    return f"{name} (final)" if row["is_final"] else name, *cells
