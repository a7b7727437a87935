"""Creates run folders, and opens them after validation.

The number of a folder's format, `FORMAT`, is in environment.json; a folder of another format is rejected.
"""

import json
from pathlib import Path

import torch

from melgpu import cli, files, toml_tables
from melgpu.data import manifest
from melgpu.data.manifest import Manifest
from melgpu.errors import InputError
from melgpu.models import schema
from melgpu.models.schema import Schema
from melgpu.recipe import Recipe, apply_overrides, recipe_differences, validate_recipe
from melgpu.recipe_schema import StackSettings
from melgpu.runs import environment
from melgpu.runs.paths import RunPaths
from melgpu.runs.run import Run

FORMAT = 6  # changes with the names of files, columns and recipe settings; 1 was not recorded


class RunFormat(Schema):
    """The format of a run folder, in environment.json beside the environment."""

    format: int = 1


def create_run(folder: Path, recipe: Recipe, tracks: Manifest, device: torch.device) -> Run:
    """Write the files of a new run; recipe.toml comes last, its presence marks a complete run folder."""
    paths = RunPaths(folder)
    manifest.save(tracks, paths.manifest)
    environment_data = {"format": FORMAT, **environment.describe(device).model_dump()}
    files.write_text(paths.environment, json.dumps(environment_data, indent=1) + "\n")
    files.write_text(paths.recipe, recipe.to_toml())
    return Run(folder, recipe, tracks)


def is_run(folder: Path) -> bool:
    """Whether a folder is a run folder."""
    return RunPaths(folder).recipe.exists()


def open_run(folder: Path, overrides: list[str] | None = None, without_pseudo: bool = False) -> Run:
    """The run in a folder; overrides may change its `loader` and `machine` tables for this call. Raises InputError."""
    stored = read_recipe(folder)
    recipe = apply_overrides(stored, overrides or [])
    check_same_recipe(folder, recipe)
    return _open(folder, recipe, without_pseudo)


def open_to_stack(folder: Path, overrides: list[str], without_pseudo: bool) -> tuple[Run, StackSettings]:
    """The run in a folder, and the settings that overrides ask for in the stack of its last round.

    They change the settings that the last round has now, and the tables that `open_run` lets them. Raises InputError.
    """
    stored = read_recipe(folder)
    last_round = len(stored.rounds)
    changed = _changed_stack(folder)
    requested = apply_overrides(stored.restacked(changed) if changed else stored, overrides)
    recipe = requested.restacked(stored.stack_settings(last_round))
    check_same_recipe(folder, recipe)
    return _open(folder, recipe, without_pseudo), requested.stack_settings(last_round)


def _open(folder: Path, recipe: Recipe, without_pseudo: bool) -> Run:
    tracks = manifest.load(RunPaths(folder).manifest, recipe.folds.num_folds)
    opened = Run(folder, recipe, tracks, without_pseudo, _changed_stack(folder))
    _ = opened.environment  # validated now rather than after the first epoch
    has_one_round = len(recipe.rounds) == 1
    if without_pseudo and (has_one_round or not opened.is_stacked(1)):
        yet = "" if has_one_round else " yet"
        raise InputError(f"{folder}: the run has no pseudo labels{yet}: leave --without-pseudo out")
    return opened


def switch_stack(run: Run) -> None:
    """Make the stack of a run's settings that of its folder, by the change of one file."""
    path = run.paths.stack_settings
    if run.changed_stack:
        files.write_text(path, run.changed_stack.model_dump_json(indent=1) + "\n")
    else:
        path.unlink(missing_ok=True)


def _changed_stack(folder: Path) -> StackSettings | None:
    path = RunPaths(folder).stack_settings
    return schema.read_json(StackSettings, path) if path.exists() else None


def read_recipe(folder: Path) -> Recipe:
    """The stored recipe of a run. Raises InputError where there is no run, or one of another format."""
    if not is_run(folder):
        command = cli.command_line("train", "--run", str(folder), "--labels", "CSV_OR_FOLDER")
        raise InputError(f"{folder}: no run there; start one with {command}")
    _check_format(folder)  # before the recipe, whose settings may have other names in another format
    return _stored_recipe(folder)


def _check_format(folder: Path) -> None:
    """Raise InputError for a folder of another format, older or newer."""
    path = RunPaths(folder).environment
    run_format = schema.read_json(RunFormat, path).format
    if run_format != FORMAT:
        raise InputError(
            f"{path}: the run is of format {run_format}, this version of melgpu reads format {FORMAT}: "
            "choose another --run, or use the version that wrote it"
        )


def _stored_recipe(folder: Path) -> Recipe:
    path = RunPaths(folder).recipe
    try:
        return validate_recipe(toml_tables.read(path), str(path))
    except InputError as error:
        hint = f"{path} is damaged: choose another --run"
        raise InputError([*error.problems, hint]) from None


def check_same_recipe(folder: Path, recipe: Recipe) -> None:
    """Raise InputError if a recipe would give other results than the stored recipe of the run."""
    stored = _stored_recipe(folder)
    if recipe.digest() == stored.digest():
        return
    changes = recipe_differences(stored, recipe)
    remedy = "choose another --run, or undo the change"
    last_round = len(stored.rounds)
    settings = recipe.stack_settings(len(recipe.rounds))
    if stored.restacked(settings).digest() == recipe.digest():  # nothing else differs
        command = cli.command_line("stack", "--run", str(folder), "--set", "...")
        remedy = f"{remedy}; settings of the last round's stack change after training by {command}"
    elif any(change.startswith(("stacking.", "rounds.")) for change in changes):
        remedy = f"{remedy}; after training only stacking.* and rounds.{last_round}.blend may change"
    raise InputError(f"{folder} has another recipe ({'; '.join(changes)}): {remedy}")
