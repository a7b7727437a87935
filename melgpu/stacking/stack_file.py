"""Saves and loads a stack as one checkpoint: of every sub-fold the CNNs' weights, the trees' text, coefficients."""

from pathlib import Path
from typing import Annotated, Self

import torch
from pydantic import FailFast, Field, model_validator
from torch import Tensor

from melgpu.errors import one_line
from melgpu.models import checkpoint
from melgpu.models.checkpoint import Metadata
from melgpu.models.metadata import ClassNames, Provenance
from melgpu.models.schema import NonNegative
from melgpu.recipe_schema import BackboneName, Fraction, Positive, Stacker
from melgpu.stacking import boosting, multinomial, stack_cnn
from melgpu.stacking.boosting import Booster
from melgpu.stacking.multinomial import Regression
from melgpu.stacking.stack import BLEND, FITTED_BLEND, MEAN, FittedStacker, Stack, SubfoldStackers


class StackMetadata(Metadata):
    """The networks that a stack takes, in the order of its matrices, its blend weights, and those of each sub-fold.

    final_predictor : the one of its predictors, or the mean of the networks, whose classes are the result
    """

    kind = "of a stack"
    provenance: Provenance
    final_predictor: str
    folds: tuple[NonNegative, ...]
    backbones: Annotated[tuple[BackboneName, ...], Field(min_length=1, max_length=1000)]
    class_names: ClassNames
    weights: Annotated[dict[Stacker, Positive], Field(min_length=1)]
    fitted_weights: Annotated[list[dict[Stacker, Fraction]], FailFast(), Field(min_length=1, max_length=1000)]

    @model_validator(mode="after")
    def _check_fitted_weights(self) -> Self:
        for fitted in self.fitted_weights:
            if fitted.keys() != self.weights.keys() or not sum(fitted.values()) > 0:
                raise ValueError("fitted weights of other stackers, or all zero")
        if self.final_predictor not in (MEAN, *self.weights, BLEND, FITTED_BLEND):
            raise ValueError(f"a final predictor {self.final_predictor!r} that it does not have")
        return self


def save_stack(stack: Stack, metadata: StackMetadata, path: Path) -> None:
    """Write a stack as one checkpoint; LightGBM's model text is stored as bytes."""
    tensors = {}
    for index, subfold in enumerate(stack.subfold_stackers):
        for name, stacker in subfold.stackers.items():
            prefix = f"{name}.{index}"
            if isinstance(stacker, Booster):
                text = bytearray(stacker.model_to_string().encode())  # `frombuffer` wants writable memory
                tensors[prefix] = torch.frombuffer(text, dtype=torch.uint8)
                continue
            parts = multinomial.to_tensors(stacker) if isinstance(stacker, Regression) else stacker.state_dict()
            tensors.update({f"{prefix}.{key}": value for key, value in parts.items()})
    checkpoint.save(path, tensors, metadata)


def load_stack(path: Path) -> tuple[Stack, StackMetadata]:
    """A stack and its metadata. Raises CheckpointError."""
    tensors, metadata = checkpoint.load(path, StackMetadata)
    stack = Stack(len(metadata.backbones), len(metadata.class_names), metadata.weights)
    for index, weights in enumerate(metadata.fitted_weights):
        stackers = {name: _load_stacker(name, index, stack, tensors, path) for name in stack.weights}
        stack.subfold_stackers.append(SubfoldStackers(stackers, weights))
    return stack, metadata


def _load_stacker(name: Stacker, index: int, stack: Stack, tensors: dict[str, Tensor], path: Path) -> FittedStacker:
    prefix = f"{name}.{index}"
    if name == "lightgbm":
        return _load_trees(prefix, stack, tensors, path)
    start = f"{prefix}."
    parts = {key.removeprefix(start): value for key, value in tensors.items() if key.startswith(start)}
    if name == "multinomial":
        return _load_regression(prefix, stack, parts, path)
    with torch.device("meta"):  # the sizes come from the file: no memory before its tensors are checked
        cnn = stack_cnn.CNNS[name](stack.num_models, stack.num_classes, dropout=0.0)  # it is not trained any more
    checkpoint.load_into(cnn, parts, path, assign=True)
    return cnn.eval()


def _load_regression(name: str, stack: Stack, parts: dict[str, Tensor], path: Path) -> Regression:
    try:
        return multinomial.from_tensors(parts, stack.num_models, stack.num_classes)
    except ValueError as error:
        raise checkpoint.CheckpointError(f"{path}: {name} is not a regression ({one_line(error)})") from None


def _load_trees(name: str, stack: Stack, tensors: dict[str, Tensor], path: Path) -> Booster:
    try:
        text = tensors[name].numpy().tobytes().decode()
        return boosting.load(text, stack.num_models * stack.num_classes, stack.num_classes)
    except (KeyError, TypeError, ValueError) as error:
        raise checkpoint.CheckpointError(f"{path}: {name} is not a LightGBM model ({one_line(error)})") from None
