"""Schemas of the metadata of checkpoints and of a run's JSON files: typed and bounded, validated before use.

Additional keys are allowed.
"""

from pathlib import Path
from typing import Annotated, ClassVar, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    FailFast,
    Field,
    FiniteFloat,
    RootModel,
    ValidationError,
    model_validator,
)

from melgpu import files
from melgpu.errors import InputError, one_line
from melgpu.models.checkpoint import CheckpointError
from melgpu.recipe_schema import BackboneName, Count, Fraction, Positive, Stacker

NonNegative = Annotated[int, Field(ge=0)]


class Schema(BaseModel):
    """A JSON object; types are never converted."""

    model_config = ConfigDict(strict=True, extra="allow")


def _check_distinct(names: list[str]) -> list[str]:
    if len(set(names)) < len(names):
        raise ValueError("a name occurs twice")
    return names


# FailFast ends validation at a list's first invalid item: a long list would give as many errors, of which one is shown.
ClassNames = Annotated[list[str], FailFast(), Field(min_length=1, max_length=10_000), AfterValidator(_check_distinct)]


class ParityFigures(Schema):
    """See `parity.measure_parity`."""

    engine: str
    device: str
    max_db: FiniteFloat
    mean_db: FiniteFloat
    picture: Annotated[list[FiniteFloat], FailFast()]


class RunFormat(Schema):
    """The format of a run's folder in environment.json."""

    format: int = 1  # which did not write the key


class Environment(Schema):
    """environment.json; see `environment.describe`."""

    python: str
    packages: dict[str, str]
    git_commit: str | None


class Score(Schema):
    """See `RoundEvaluation.scores`."""

    accuracy: FiniteFloat
    interval: tuple[FiniteFloat, FiniteFloat]
    tracks: NonNegative
    pseudo_labelled: NonNegative
    gain: FiniteFloat
    gain_interval: tuple[FiniteFloat, FiniteFloat]
    gain_p: FiniteFloat


class Scores(RootModel[dict[str, dict[str, Score]]]):
    """See `Run.scores`."""


class NetworkMetadata(Schema):
    """best.safetensors; its `recipe` is validated by `recipe.validate_recipe`."""

    description: ClassVar = "of a network"
    round: Count
    backbone: BackboneName
    fold: NonNegative
    class_names: ClassNames
    recipe: dict
    recipe_digest: str
    pseudo_digest: str
    scores: dict[str, FiniteFloat]
    parity: ParityFigures
    environment: Environment


class StackDescription(Schema):
    """See `stack.Stack`."""

    num_models: Annotated[int, Field(ge=1, le=1000)]
    num_classes: Annotated[int, Field(ge=1, le=10_000)]
    weights: Annotated[dict[Stacker, Positive], Field(min_length=1)]
    fitted_weights: Annotated[list[dict[Stacker, Fraction]], FailFast(), Field(min_length=1, max_length=1000)]

    @model_validator(mode="after")
    def _check_fitted_weights(self) -> Self:
        for fitted in self.fitted_weights:
            if fitted.keys() != self.weights.keys() or not sum(fitted.values()) > 0:
                raise ValueError("fitted weights of other stackers, or all zero")
        return self


class StackMetadata(Schema):
    """The stackers of one fold, or of several."""

    description: ClassVar = "of a stack"
    stack: StackDescription


class Progress(Schema):
    """See `optimizer.Progress`."""

    epoch: NonNegative
    step: NonNegative
    updates: NonNegative
    best_accuracy: FiniteFloat
    epochs_since_best: NonNegative
    epochs_since_drop: NonNegative


class EpochRecord(Schema):
    window_accuracy: FiniteFloat


class ParameterGroup(Schema):
    lr: Positive
    params: Annotated[list[int], FailFast()]


class TrainingMetadata(Schema):
    """See `state.Training.state`."""

    progress: Progress
    log: Annotated[list[EpochRecord], FailFast()]
    groups: Annotated[list[ParameterGroup], FailFast()]
    micro_batch: Count
    ranks: Count

    @model_validator(mode="after")
    def _check_progress(self) -> Self:
        # The log has one record for each finished epoch.
        if not self.progress.epochs_since_best <= self.progress.epoch == len(self.log):
            raise ValueError(f"{self.progress.epoch} epochs with a log of {len(self.log)}")
        return self


class StateMetadata(Schema):
    """last.safetensors."""

    description: ClassVar = "of a training state"
    recipe_digest: str
    training: TrainingMetadata


def validate_metadata(schema: type[Schema], metadata: dict, path: Path) -> None:
    """Raise CheckpointError where the metadata of the checkpoint at `path` do not match a schema."""
    try:
        schema.model_validate(metadata)
    except ValidationError as error:
        raise CheckpointError(f"{path}: a checkpoint, but not {schema.description} ({_first_problem(error)})") from None


def read_json(schema: type[BaseModel], path: Path) -> dict:
    """A JSON file, validated by a schema, as plain data. Raises InputError."""
    try:
        text = files.read_text(path, max_bytes=2**24)  # 16 MiB, far more than any of a run's JSON files has
        return schema.model_validate_json(text).model_dump(mode="json")
    except ValidationError as error:
        raise InputError(f"{path}: {_first_problem(error)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: {one_line(error)}") from None


def _first_problem(error: ValidationError) -> str:
    first = error.errors(include_input=False, include_url=False)[0]  # the input may be as large as the file
    location = ".".join(map(str, first["loc"]))
    reason = first["msg"].removeprefix("Value error, ")  # pydantic's prefix for errors of our validators
    return one_line(ValueError(f"{location}: {reason}" if location else reason))
