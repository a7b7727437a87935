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
from melgpu.runs import environment
from melgpu.runs.run import Run

FORMAT = 5  # changes with the names of files, columns and recipe settings; 1 was not recorded


class RunFormat(Schema):
    """The format of a run folder, in environment.json beside the environment."""

    format: int = 1


def create_run(folder: Path, recipe: Recipe, tracks: Manifest, device: torch.device) -> Run:
    """Write the files of a new run; recipe.toml comes last, its presence marks a complete run folder."""
    manifest.save(tracks, folder / "manifest.csv")
    environment_data = {"format": FORMAT, **environment.describe(device).model_dump()}
    files.write_text(folder / "environment.json", json.dumps(environment_data, indent=1) + "\n")
    files.write_text(folder / "recipe.toml", recipe.to_toml())
    return Run(folder, recipe, tracks)


def is_run(folder: Path) -> bool:
    """Whether a folder is a run folder."""
    return (folder / "recipe.toml").exists()


def open_run(folder: Path, overrides: list[str] | None = None, without_pseudo: bool = False) -> Run:
    """The run in a folder; overrides may change its `loader` and `machine` tables for this call. Raises InputError."""
    if not is_run(folder):
        command = cli.command_line("train", "--run", str(folder), "--labels", "CSV_OR_FOLDER")
        raise InputError(f"{folder}: no run there; start one with {command}")
    _check_format(folder)  # before the recipe, whose settings may have other names in another format
    recipe = apply_overrides(_stored_recipe(folder), overrides or [])
    check_same_recipe(folder, recipe)
    tracks = manifest.load(folder / "manifest.csv", recipe.folds.num_folds)
    opened = Run(folder, recipe, tracks, without_pseudo)
    _ = opened.environment  # validated now rather than after the first epoch
    has_one_round = len(recipe.rounds) == 1
    if without_pseudo and (has_one_round or not opened.is_stacked(1)):
        yet = "" if has_one_round else " yet"
        raise InputError(f"{folder}: the run has no pseudo labels{yet}: leave --without-pseudo out")
    return opened


def _check_format(folder: Path) -> None:
    """Raise InputError for a folder of another format, older or newer."""
    path = folder / "environment.json"
    run_format = schema.read_json(RunFormat, path).format
    if run_format != FORMAT:
        raise InputError(
            f"{path}: the run is of format {run_format}, this version of melgpu reads format {FORMAT}: "
            "choose another --run, or use the version that wrote it"
        )


def _stored_recipe(folder: Path) -> Recipe:
    path = folder / "recipe.toml"
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
    raise InputError(f"{folder} has another recipe ({'; '.join(changes)}): choose another --run, or undo the change")
