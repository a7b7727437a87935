"""What a checkpoint says about its network: where it comes from, how it was trained, and with which pictures."""

from typing import Annotated, Self

from pydantic import AfterValidator, FailFast, Field, model_validator

from melgpu.data.folds import MAX_CLASSES
from melgpu.features.parity import ParityFigures
from melgpu.models.checkpoint import Metadata
from melgpu.models.schema import Count, NonNegative, Schema
from melgpu.recipe import Recipe
from melgpu.recipe_schema import BackboneName, Positive


def _check_distinct(names: list[str]) -> list[str]:
    if len(set(names)) < len(names):
        raise ValueError("a name occurs twice")
    return names


# FailFast ends validation at a list's first invalid item: a long list would give as many errors, of which one is shown.
ClassNames = Annotated[
    list[str], FailFast(), Field(min_length=1, max_length=MAX_CLASSES), AfterValidator(_check_distinct)
]


class Provenance(Schema):
    """What a round's result was made from; `pseudo_digest` is `none` where it trained on no pseudo labels."""

    round: Count
    recipe_digest: str
    pseudo_digest: str

    def differences(self, expected: Self) -> list[str]:
        """One phrase for each difference, `made with recipe 1f3a, not 9b2c`; what is None there may be anything."""
        words = {"recipe_digest": "recipe", "pseudo_digest": "pseudo labels", "checkpoint_digest": "checkpoint"}
        return [
            f"made with {words.get(name, name)} {getattr(self, name)}, not {value}"
            for name, value in expected
            if value not in (None, getattr(self, name))
        ]


class NetworkProvenance(Provenance):
    """What a network, or its predictions, were made from; only predictions have the digest of its checkpoint."""

    backbone: BackboneName
    fold: NonNegative
    checkpoint_digest: str | None = None


class Environment(Schema):
    """The interpreter, the machine, the versions of packages, and the commit of melgpu, where it is known."""

    python: str
    platform: str
    device: str  # as torch names it
    device_name: str  # of the product
    packages: dict[str, str]
    git_commit: str | None = None


class EpochRecord(Schema):
    """The log record of an epoch, which counts from 1: metrics, and the seconds of each stage of the training loop.

    loss, accuracy : means over the training windows of all processes
    window_accuracy : on the validation windows
    steps_per_s : without the time of validation
    """

    epoch: Count
    lr: Positive
    loss: float
    accuracy: float
    window_accuracy: float
    steps_per_s: float
    audio_s: float
    pictures_s: float
    network_s: float
    other_s: float
    validation_s: float


class NetworkMetadata(Metadata):
    """The metadata of best.safetensors; `scores` are those of the epoch whose weights it holds."""

    kind = "of a network"
    provenance: NetworkProvenance
    class_names: ClassNames
    recipe: Recipe
    scores: EpochRecord
    parity: ParityFigures
    environment: Environment

    @model_validator(mode="after")
    def _check_recipe(self) -> Self:
        if self.recipe.digest() != self.provenance.recipe_digest:
            raise ValueError("its recipe is not that of its provenance")
        return self

    @property
    def name(self) -> str:
        """The network in a message."""
        return f"{self.provenance.backbone}, fold {self.provenance.fold}"
