"""The recipe of a run: a frozen, typed, validated configuration, read from and written to TOML.

Every recipe is a set of changes to `recipes/zalo2019.toml`, which lists each setting with its meaning; types
and bounds are in `recipe_schema`. Unknown keys and wrong types are errors with the path of the key.
"""

import difflib
import hashlib
import json
import re
import reprlib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

import tomli_w
from pydantic import FailFast, Field, ValidationError, model_validator

from melgpu import toml_tables
from melgpu.errors import InputError
from melgpu.recipe_schema import (
    AudioSpec,
    AugmentSpec,
    BackboneName,
    BackboneSpec,
    DistilSpec,
    FoldSpec,
    LoaderSpec,
    MachineSpec,
    MelSpec,
    OptimOverride,
    OptimSpec,
    PredictSpec,
    PseudoSpec,
    RoundSpec,
    Seed,
    Spec,
    StackingSpec,
    StackSettings,
    WindowSpec,
)

INHERITED = ("audio", "windows", "folds", "mel")  # tables that a student has from its teacher, where it sets nothing
UNION_TYPE = re.compile(r"literal\[.*\]|constrained-\w+|bool|int|float|str")  # as pydantic calls a type of several


class Recipe(Spec):
    """All settings of a run, in tables by stage."""

    seed: Seed
    audio: AudioSpec
    windows: WindowSpec
    folds: FoldSpec
    mel: MelSpec
    loader: LoaderSpec
    machine: MachineSpec
    backbone: BackboneSpec
    optim: OptimSpec
    optim_overrides: dict[BackboneName, OptimOverride]
    augment: AugmentSpec
    predict: PredictSpec
    pseudo: PseudoSpec
    stacking: StackingSpec
    rounds: Annotated[tuple[RoundSpec, ...], FailFast(), Field(min_length=1)]
    distil: DistilSpec | None = None

    @model_validator(mode="after")
    def _check(self) -> "Recipe":
        if self.windows.window_s > self.audio.track_s:
            raise ValueError(f"windows.window_s {self.windows.window_s} exceeds audio.track_s {self.audio.track_s}")
        if self.mel.fmax > self.audio.sample_rate / 2:
            raise ValueError(f"mel.fmax {self.mel.fmax} exceeds the Nyquist frequency {self.audio.sample_rate / 2}")
        if self.mel.fmax and self.mel.fmax <= self.mel.fmin:
            raise ValueError(f"mel.fmax {self.mel.fmax} is not above mel.fmin {self.mel.fmin}")
        for round_number, spec in enumerate(self.rounds, start=1):
            if max(spec.folds) >= self.folds.num_folds:
                raise ValueError(f"round {round_number} names fold {max(spec.folds)} of {self.folds.num_folds}")
            for names in (spec.backbones, spec.folds):
                if len(set(names)) < len(names):
                    raise ValueError(f"round {round_number} has duplicates: {names}")
        if self.distil:
            self._check_student()
        return self

    def _check_student(self) -> None:
        """Raise ValueError for settings with which the windows that a teacher predicted are not those of training."""
        if self.windows.random_starts or self.windows.dense_classes:
            raise ValueError(
                "distil needs the same windows of every track, which the teacher has predicted: "
                "windows.random_starts = false and windows.dense_classes = []"
            )
        if not self.is_one_step:
            raise ValueError("distil needs one round that stacks nothing: blend = {}")

    def optim_for(self, backbone: str) -> OptimSpec:
        """The optimizer settings, with the overrides for this backbone."""
        override = self.optim_overrides.get(backbone)
        if not override:
            return self.optim
        # model_copy does not validate, but the values have been, as an OptimOverride.
        return self.optim.model_copy(update=override.model_dump(exclude_none=True))

    def shuffle_tracks_for(self, backbone: str) -> int | None:
        """How many tracks are shuffled together; None for all of them."""
        shuffle_tracks = self.optim_for(backbone).shuffle_tracks
        return None if shuffle_tracks == "all" else shuffle_tracks

    @property
    def is_one_step(self) -> bool:
        """Whether training leads to the answer by itself: one round, in which nothing is stacked."""
        return len(self.rounds) == 1 and not self.rounds[0].blend

    def fold_groups(self, round_number: int) -> list[tuple[int, ...]]:
        """Which folds of a round are stacked together; rounds count from 1."""
        folds = self.rounds[round_number - 1].folds
        return [folds] if self.stacking.protocol == "oof" else [(fold,) for fold in folds]

    def stack_settings(self, round_number: int) -> StackSettings:
        """The settings by which the networks of a round are stacked."""
        return StackSettings(stacking=self.stacking, blend=self.rounds[round_number - 1].blend)

    def restacked(self, settings: StackSettings) -> "Recipe":
        """The recipe with other settings for the stack of its last round."""
        # model_copy does not validate, but the settings have been.
        last_round = self.rounds[-1].model_copy(update={"blend": settings.blend})
        return self.model_copy(update={"stacking": settings.stacking, "rounds": (*self.rounds[:-1], last_round)})

    def to_json(self) -> str:
        """One canonical line of JSON."""
        return json.dumps(self.model_dump(mode="json", exclude_none=True), sort_keys=True)

    def digest(self) -> str:
        """A short hash of all settings that can change results."""
        settings = self.model_dump(mode="json", exclude_none=True, exclude={"loader", "machine"})
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]

    def to_toml(self) -> str:
        return tomli_w.dumps(self.model_dump(mode="json", exclude_none=True))


def shipped_recipes() -> dict[str, Path]:
    """The recipes that come with the package, by name."""
    folder = Path(str(resources.files("melgpu") / "recipes"))
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def load_recipe(
    names: list[str], overrides: list[str] | None = None, on_cpu: bool = False, teacher: Recipe | None = None
) -> Recipe:
    """Merge recipes (names or paths of TOML files), then `table.key=value` overrides, into zalo2019.

    On a CPU, a shipped recipe is followed by its variant for a CPU, if it has one: `quick` by `quick-cpu`. With a
    teacher's recipe, its INHERITED tables take the place of those of zalo2019. Raises InputError with every problem and
    the path of its key.
    """
    data = _read("zalo2019")
    if teacher:
        data |= json.loads(teacher.model_dump_json(include=set(INHERITED), exclude_none=True))
    shipped = shipped_recipes()
    for name in names:
        toml_tables.merge(data, _read(name))
        if on_cpu and f"{name}-cpu" in shipped:
            toml_tables.merge(data, _read(f"{name}-cpu"))
    for override in overrides or []:
        toml_tables.merge(data, toml_tables.parse_override(override))
    flags = [f"--set {override}" for override in overrides or []]
    return validate_recipe(data, " + ".join([*names, *flags]))


def apply_overrides(recipe: Recipe, overrides: list[str]) -> Recipe:
    """A recipe with `table.key=value` overrides merged into it. Raises InputError."""
    data = json.loads(recipe.to_json())
    for override in overrides:
        toml_tables.merge(data, toml_tables.parse_override(override))
    return validate_recipe(data, " ".join(f"--set {override}" for override in overrides))


def recipe_differences(old: Recipe, new: Recipe) -> list[str]:
    """The settings in which two recipes differ, each as `table.key: old, now new`."""
    before = dict(toml_tables.flatten(toml_tables.numbered(json.loads(old.to_json()))))
    after = dict(toml_tables.flatten(toml_tables.numbered(json.loads(new.to_json()))))
    keys = sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))
    return [f"{key}: {before.get(key, 'not set')}, now {after.get(key, 'not set')}" for key in keys]


def validate_recipe(data: dict, source: str) -> Recipe:
    """A Recipe from plain data; `source` names it in error messages."""
    try:
        # Through JSON, since strict validation of Python data refuses a list for a tuple; TOML's dates become strings.
        return Recipe.model_validate_json(json.dumps(data, default=str))
    except ValidationError as validation_error:
        errors = _innermost(validation_error.errors()[:50])  # bounded, since all pairs are compared
        by_key: dict[str, list] = {}
        for error in errors:
            by_key.setdefault(_key(error), []).append(error)
        raise InputError(f"recipe {source}: {_describe(key, found)}" for key, found in by_key.items()) from None
    except RecursionError:
        raise InputError(f"recipe {source}: nested too deeply") from None


def _innermost(errors: list) -> list:
    """The errors without those of a container that is invalid only because of an error in one of its items."""
    locations = [error["loc"] for error in errors]
    return [error for error in errors if not _contains_any(error["loc"], locations)]


def _contains_any(container: tuple, locations: list[tuple]) -> bool:
    """Whether one of the locations lies inside a container, and is not the container itself."""
    return any(container == location[: len(container)] != location for location in locations)


def _key(error: Mapping[str, Any]) -> str:
    """The path of an error's key, without pydantic's marks: of an invalid key, of one type of several."""
    parts = [str(part) for part in error["loc"] if part != "[key]"]
    is_type = bool(parts) and UNION_TYPE.fullmatch(parts[-1]) is not None
    return ".".join(parts[:-1] if is_type else parts)


def _describe(key: str, errors: Sequence[Mapping[str, Any]]) -> str:
    """The errors of one key: one, or one for each type that it may have."""
    error = errors[0]
    if error["type"] == "extra_forbidden":
        known_keys = [known for known, _ in toml_tables.flatten(_read("zalo2019"))]
        close = difflib.get_close_matches(key, known_keys, 1)
        suggestion = f"; did you mean {close[0]}?" if close else ""
        return f"{key}: there is no such setting{suggestion}"
    if error["type"] == "value_error":
        return str(error["ctx"]["error"])
    got = "" if isinstance(error["input"], dict) else f" (got {reprlib.repr(error['input'])})"  # shortened
    message = error["msg"].replace("Tuple", "List").replace(" after validation", "")  # TOML has no tuples
    others = [other["msg"].removeprefix("Input should be ") for other in errors[1:]]
    return f"{key}: {' or '.join([message, *others])}{got}"


def _read(name: str) -> dict:
    path = shipped_recipes().get(name, Path(name))
    if not path.exists():
        raise InputError(f"recipe {name}: no such file; shipped recipes: {', '.join(shipped_recipes())}")
    return toml_tables.read(path)
