"""What is compared, from a TOML file: a base recipe, variants that each change it, folds and seeds.

A variant's recipe is zalo2019 with the recipes and the settings of the base, then those of the variant. Of the rounds
all folds but the cell's are left out, and nothing is stacked.
"""

import functools
import hashlib
import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tomli_w
from pydantic import Field, ValidationError, model_validator

from melgpu import files, toml_tables
from melgpu.errors import InputError
from melgpu.models.schema import describe_error
from melgpu.recipe import Recipe, load_recipe
from melgpu.recipe_schema import Seed, Spec

BASE = "base"
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.+-]+$", max_length=60)]
Fold = Annotated[int, Field(ge=0)]
WEIGHTS_FOLDER = "backbone.weights_dir"
# What changes no accuracy, or nothing where no round is stacked; seed and folds are in a cell's name.
IGNORED_TABLES = ("loader.", "machine.", "stacking.", WEIGHTS_FOLDER, "seed")


class ExperimentSpec(Spec):
    """The TOML file: `base` and each variant have the tables of a recipe, and `recipes` to merge before them.

    pairs : variants to compare with each other, besides each with the base
    """

    folds: Annotated[tuple[Fold, ...], Field(min_length=1)]
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)]
    base: dict[str, Any]
    variants: dict[Name, dict[str, Any]]
    pairs: tuple[tuple[Name, Name], ...] = ()

    @model_validator(mode="after")
    def _check(self) -> "ExperimentSpec":
        if BASE in self.variants:
            raise ValueError(f"a variant cannot be named {BASE}")
        for values in (self.folds, self.seeds):
            if len(set(values)) < len(values):
                raise ValueError(f"duplicates: {values}")
        unknown = {name for pair in self.pairs for name in pair} - {BASE, *self.variants}
        if unknown:
            raise ValueError(f"pairs: there is no variant {', '.join(sorted(unknown))}")
        return self


@dataclass(frozen=True)
class Cell:
    """One training: a variant on a fold with a seed; `recipes`, names and files, and `overrides` give its `recipe`."""

    variant: str
    fold: int
    seed: int
    recipes: tuple[str, ...]
    overrides: tuple[str, ...]
    recipe: Recipe

    @property
    def title(self) -> str:
        return f"{self.variant}, fold {self.fold}, seed {self.seed}"

    @property
    def name(self) -> str:
        """The name of its files: of its settings, so that a variant with another name or in another list is the same.

        Only settings other than zalo2019's count: cells stay what they are when recipes gain settings.
        """
        own = sorted(settings(self.recipe).items() - _default_settings().items())
        digest = hashlib.sha256(json.dumps(own).encode()).hexdigest()[:12]
        return f"{digest}-fold{self.fold}-seed{self.seed}"


def settings(recipe: Recipe) -> dict[str, str]:
    """The settings that can change a cell's accuracy, by `table.key`, as JSON."""
    tables = json.loads(recipe.to_json())
    overrides = tables.pop("optim_overrides")
    flat = dict(toml_tables.flatten(tables))
    if len(recipe.rounds) == 1:
        flat = {key: value for key, value in flat.items() if not key.startswith("pseudo.")}
    flat["rounds"] = [{**each, "folds": []} for each in _rounds(recipe)]
    backbones = {name for each in recipe.rounds for name in each.backbones}
    # One value: of an empty table flatten has no key, and it would be the same as the default's overrides.
    flat["optim_overrides"] = {name: overrides[name] for name in backbones & overrides.keys()}
    return {key: json.dumps(value, sort_keys=True) for key, value in flat.items() if not key.startswith(IGNORED_TABLES)}


@functools.cache
def _default_settings() -> dict[str, str]:
    return settings(load_recipe([]))


def read(path: Path) -> ExperimentSpec:
    """Raises InputError."""
    data = toml_tables.read(path)
    try:
        return ExperimentSpec.model_validate_json(json.dumps(data, default=str))
    except ValidationError as error:
        raise InputError(f"{path}: {describe_error(error)}") from None


def make_cells(spec: ExperimentSpec, folder: Path, overrides: list[str], on_cpu: bool) -> list[Cell]:
    """All cells: every variant on the first fold before the second one. Writes their settings as TOML into a folder.

    Raises InputError with the problems of all variants.
    """
    base = _write_settings(spec.base, folder / f"{BASE}.toml")
    names = {BASE: base}
    for name, changes in spec.variants.items():
        names[name] = [*base, *_write_settings(changes, folder / f"{name}.toml")]
    problems: list[str] = []
    recipes = {}
    for name, merged in names.items():
        try:
            recipes[name] = load_recipe(merged, overrides, on_cpu)
            problems += _weights_problems(name, merged, overrides, on_cpu)
        except InputError as error:
            problems += error.problems
    num_folds = min((recipe.folds.num_folds for recipe in recipes.values()), default=0)
    if recipes and max(spec.folds) >= num_folds:
        problems.append(f"folds: there is no fold {max(spec.folds)} of {num_folds}")
    if problems:
        raise InputError(problems)
    cells = []
    for seed, fold, name in itertools.product(spec.seeds, spec.folds, names):
        path = folder / f"{name}-fold{fold}-seed{seed}.toml"
        rounds = [{**each, "folds": [fold], "blend": {}} for each in _rounds(recipes[name])]
        files.write_text(path, tomli_w.dumps({"seed": seed, "rounds": rounds}))
        merged = [*names[name], str(path)]
        recipe = load_recipe(merged, overrides, on_cpu)
        cells.append(Cell(name, fold, seed, tuple(merged), tuple(overrides), recipe))
    return cells


def _weights_problems(name: str, recipes: list[str], overrides: list[str], on_cpu: bool) -> list[str]:
    """What would let two cells of the same name have other weights. Raises InputError."""
    problems = []
    if load_recipe(recipes, overrides, on_cpu).backbone.pretrained == "auto":  # without weights it merges `scratch`
        problems.append(f'{name}: backbone.pretrained = "auto" may differ between cells: set true or false')
    others = [override for override in overrides if not override.startswith(WEIGHTS_FOLDER)]
    if load_recipe(recipes, others, on_cpu).backbone.weights_dir:
        problems.append(f"{name}: {WEIGHTS_FOLDER} must be the same in all cells: use --set {WEIGHTS_FOLDER}=DIR")
    return problems


def _rounds(recipe: Recipe) -> list[dict[str, Any]]:
    return json.loads(recipe.to_json())["rounds"]


def _write_settings(tables: dict[str, Any], path: Path) -> list[str]:
    """The recipes that tables of settings name, and a file of the other settings."""
    others = {key: value for key, value in tables.items() if key != "recipes"}
    files.write_text(path, tomli_w.dumps(others))
    recipes = tables.get("recipes", [])
    if not isinstance(recipes, list) or not all(isinstance(name, str) for name in recipes):
        raise InputError(f"{path.stem}: recipes: a list of names is expected, not {recipes}")
    return [*recipes, str(path)]
