"""The folder of a run: written when it is created, read and checked when it is opened.

Its format has a number, `FORMAT`, in environment.json; a folder of another format is refused.
"""

import json
from pathlib import Path

from melgpu import files, toml_tables
from melgpu.data import manifest
from melgpu.data.manifest import Manifest
from melgpu.errors import InputError
from melgpu.models import schema
from melgpu.recipe import Recipe, apply_overrides, recipe_differences, validate_recipe
from melgpu.runs import environment
from melgpu.runs.run import Run

FORMAT = 2  # changes with names of files, of their columns and of the recipe's settings; 1 was not written down


def create_run(folder: Path, recipe: Recipe, tracks: Manifest, device_name: str) -> Run:
    """Write what a new run is made of; the recipe comes last and makes it a run."""
    manifest.save(tracks, folder / "manifest.csv")
    made_on = {"format": FORMAT, **environment.describe(device_name)}
    files.write_text(folder / "environment.json", json.dumps(made_on, indent=1) + "\n")
    files.write_text(folder / "recipe.toml", recipe.to_toml())
    return Run(folder, recipe, tracks)


def is_run(folder: Path) -> bool:
    return (folder / "recipe.toml").exists()


def open_run(folder: Path, overrides: list[str] | None = None, without_pseudo: bool = False) -> Run:
    """The run in a folder; overrides may change its `loader` and `machine` tables for this call. Raises InputError."""
    if not is_run(folder):
        raise InputError(
            f"{folder}: no run there; start one with python train.py --run {folder} --labels CSV_OR_FOLDER"
        )
    _check_format(folder)
    made_with = _stored_recipe(folder)
    recipe = apply_overrides(made_with, overrides or [])
    check_same_recipe(folder, recipe)
    tracks = manifest.load(folder / "manifest.csv", recipe.folds.num_folds)
    opened = Run(folder, recipe, tracks, without_pseudo)
    assert opened.environment  # refused now rather than after the first epoch
    if without_pseudo and (len(recipe.rounds) == 1 or not opened.is_stacked(1)):
        yet = "" if len(recipe.rounds) == 1 else " yet"
        raise InputError(f"{folder}: no pseudo labels{yet} that could be left out; leave --without-pseudo out")
    return opened


def _check_format(folder: Path) -> None:
    """Raise InputError for a folder of another format, older or newer."""
    path = folder / "environment.json"
    found = schema.read_json(schema.RunFormat, path)["format"]
    if found != FORMAT:
        raise InputError(
            f"{path}: the run is of format {found}, this version of melgpu reads format {FORMAT}: "
            "choose another --run, or go on with the version that made it"
        )


def _stored_recipe(folder: Path) -> Recipe:
    path = folder / "recipe.toml"
    try:
        return validate_recipe(toml_tables.read(path), str(path))
    except InputError as error:
        hint = f"{path} is damaged: choose another --run"
        raise InputError([*error.problems, hint]) from None


def check_same_recipe(folder: Path, wanted: Recipe) -> None:
    """Raise InputError where a recipe would give other results than the one that the run was made with."""
    stored = _stored_recipe(folder)
    if wanted.digest() == stored.digest():
        return
    changes = recipe_differences(stored, wanted)
    raise InputError(
        f"{folder} was made with another recipe ({'; '.join(changes)}): choose another --run, or leave the change out"
    )
