"""The three stackers and the blend: K models x C classes -> C, in two protocols.

Both stack the networks' predictions on validation tracks, which the networks were not trained on. The tracks are split
into sub-folds. For each sub-fold the stackers are fitted on the others except the next one, which is used for early
stopping of the CNNs and to fit the weights of the blend. So no stacker is evaluated on a track that it was fitted on,
and the reported accuracy is out of fold.

`original`: a stack for each fold of the round. The CNNs are pretrained on the training tracks of the fold, which the
networks were trained on (optimistic inputs), with early stopping on all sub-folds except the evaluated one. For all
sub-folds this is one run of pretraining with different stopping epochs.
`oof`: one stack, fitted on the out-of-fold predictions for the validation tracks of all folds together.

Matrices are (N, K, C) float64 track probabilities, labels (N,) class indices.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from melgpu.errors import InputError, one_line
from melgpu.models import checkpoint, schema
from melgpu.recipe import StackingSpec
from melgpu.stacking import boosting, stack_cnn
from melgpu.stacking.boosting import Booster
from melgpu.stacking.stack_cnn import LabelledMatrix

MIN_SUBFOLDS = 3  # to fit, to stop early, to evaluate
BLEND, FITTED_BLEND, MEAN = "blend", "fitted blend", "mean"  # MEAN: of the networks


@dataclass(frozen=True)
class SubfoldStackers:
    """Stackers that were fitted without one sub-fold, and their fitted blend weights, of sum 1."""

    stackers: dict[str, nn.Module | Booster]
    weights: dict[str, float]

    def predict(self, matrix: np.ndarray) -> dict[str, np.ndarray]:
        """Probabilities (N, C) by stacker."""
        if len(matrix) == 0:  # a run without test sets
            return dict.fromkeys(self.stackers, np.zeros((0, matrix.shape[2])))
        return {
            name: (stack_cnn if isinstance(stacker, nn.Module) else boosting).predict(stacker, matrix)
            for name, stacker in self.stackers.items()
        }


@dataclass(frozen=True)
class Stack:
    """The stackers of one fold, or of several, for each sub-fold; `weights` are the recipe's blend weights."""

    num_models: int
    num_classes: int
    weights: dict[str, float]
    subfold_stackers: list[SubfoldStackers] = field(default_factory=list)

    def predict(self, matrix: np.ndarray) -> dict[str, np.ndarray]:
        """Probabilities (N, C) of new tracks by stacker and blend: the mean over all sub-folds."""
        probs = [self._predict_subfold(subfold, matrix) for subfold in self.subfold_stackers]
        return {name: np.mean([subfold_probs[name] for subfold_probs in probs], axis=0) for name in probs[0]}

    def out_of_fold(self, matrix: np.ndarray, subfolds: np.ndarray) -> dict[str, np.ndarray]:
        """The same of the validation tracks: each by the stackers fitted without its sub-fold; `subfolds` (N,)."""
        out: dict[str, np.ndarray] = {}
        for index, subfold in enumerate(self.subfold_stackers):
            for name, probs in self._predict_subfold(subfold, matrix[subfolds == index]).items():
                out.setdefault(name, np.empty((len(matrix), self.num_classes)))[subfolds == index] = probs
        return out

    @property
    def is_constant(self) -> bool:
        """Whether it has trees and none of them has a split, so that their predictions are the same for all tracks."""
        stackers = [stacker for subfold in self.subfold_stackers for stacker in subfold.stackers.values()]
        boosters = [stacker for stacker in stackers if isinstance(stacker, Booster)]
        return bool(boosters) and all(map(boosting.is_constant, boosters))

    def _predict_subfold(self, subfold: SubfoldStackers, matrix: np.ndarray) -> dict[str, np.ndarray]:
        probs = subfold.predict(matrix)
        blends = {BLEND: blend_probs(probs, self.weights)}
        if len(probs) > 1:
            blends[FITTED_BLEND] = blend_probs(probs, subfold.weights)
        return probs | blends


def final_predictor(configured: str, num_stackers: int) -> str:
    """The predictor of the final predictions: the recipe's, or the blend where there are no weights to fit."""
    return BLEND if configured == FITTED_BLEND and num_stackers == 1 else configured


def compared_predictor(final: str) -> str:
    """The predictor that is compared with the mean of the networks."""
    return BLEND if final == MEAN else final


def fold_groups(protocol: str, folds: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Which folds of a round are stacked together."""
    return [folds] if protocol == "oof" else [(fold,) for fold in folds]


def assign_subfolds(labels: np.ndarray, spec: StackingSpec) -> np.ndarray:
    """Each validation track's sub-fold, shape (N,), stratified by class.

    Raises InputError where there are too few tracks.
    """
    if len(labels) < MIN_SUBFOLDS:
        raise InputError(f"a stack needs at least {MIN_SUBFOLDS} validation tracks, there are {len(labels)}")
    by_class = np.lexsort([np.random.default_rng(spec.seed).random(len(labels)), labels])
    subfolds = np.empty(len(labels), np.int64)
    subfolds[by_class] = np.arange(len(labels)) % spec.num_subfolds
    return subfolds


def fit_subfolds(
    train: LabelledMatrix | None, valid: LabelledMatrix, subfolds: np.ndarray, names: list[str], spec: StackingSpec
) -> Iterator[SubfoldStackers]:
    """For each sub-fold, fit stackers on the (matrix, labels) of the other validation tracks; `subfolds` (N,).

    `train` are the training tracks to pretrain the CNNs on, in the original protocol.
    """
    indices = range(subfolds.max() + 1)
    others = np.stack([subfolds != index for index in indices])
    cnns = {name: stack_cnn.pretrain(name, train, valid, others, spec) for name in names if name in stack_cnn.CNNS}
    for index in indices:
        is_stop = subfolds == (index + 1) % len(indices)
        stop, rows = _select(valid, is_stop), _select(valid, others[index] & ~is_stop)
        stackers = {
            name: stack_cnn.finetune(cnns[name][index], rows, stop, spec) if name in cnns else boosting.fit(*rows, spec)
            for name in names
        }
        yield SubfoldStackers(stackers, fit_blend_weights(SubfoldStackers(stackers, {}).predict(stop[0]), stop[1]))


def _select(rows: LabelledMatrix, mask: np.ndarray) -> LabelledMatrix:
    return rows[0][mask], rows[1][mask]


def blend_probs(probs: dict[str, np.ndarray], weights: dict[str, float]) -> np.ndarray:
    """The weighted mean of stackers' probabilities (N, C); the weights need not sum to 1."""
    return sum(weight * probs[name] for name, weight in weights.items()) / sum(weights.values())


def fit_blend_weights(probs: dict[str, np.ndarray], labels: np.ndarray, steps: int = 200) -> dict[str, float]:
    """The maximum-likelihood weights, of sum 1, of a blend; probs (N, C) by stacker, labels (N,).

    Mixture weights by expectation maximisation: Dempster et al., "Maximum likelihood from incomplete data via the EM
    algorithm", JRSS B 39 (1977). The log-likelihood is concave in the weights, so it converges to the maximum.
    """
    rows = np.arange(len(labels))
    likelihoods = np.stack([stacker_probs[rows, labels] for stacker_probs in probs.values()]).clip(1e-12)
    weights = np.full(len(probs), 1 / len(probs))
    for _ in range(steps):
        joint = weights[:, None] * likelihoods
        weights = (joint / joint.sum(axis=0)).mean(axis=1)
    return dict(zip(probs, weights.tolist(), strict=True))


def save_stack(stack: Stack, path: Path, metadata: dict) -> None:
    """Write a stack as one checkpoint; LightGBM's model text is stored as bytes."""
    tensors = {}
    for index, subfold in enumerate(stack.subfold_stackers):
        for name, stacker in subfold.stackers.items():
            if isinstance(stacker, nn.Module):
                tensors.update({f"{name}.{index}.{key}": value for key, value in stacker.state_dict().items()})
            else:
                text = bytearray(stacker.model_to_string().encode())
                tensors[f"{name}.{index}"] = torch.frombuffer(text, dtype=torch.uint8)
    fitted = [subfold.weights for subfold in stack.subfold_stackers]
    shape = {"num_models": stack.num_models, "num_classes": stack.num_classes}
    checkpoint.save(path, tensors, {**metadata, "stack": {**shape, "weights": stack.weights, "fitted_weights": fitted}})


def load_stack(path: Path) -> tuple[Stack, dict]:
    """A stack and its metadata. Raises CheckpointError."""
    tensors, metadata = checkpoint.load(path)
    schema.validate_metadata(schema.StackMetadata, metadata, path)
    shape = metadata["stack"]
    stack = Stack(shape["num_models"], shape["num_classes"], shape["weights"])
    for index, weights in enumerate(shape["fitted_weights"]):
        stackers = {name: _load_stacker(name, index, stack, tensors, path) for name in stack.weights}
        stack.subfold_stackers.append(SubfoldStackers(stackers, weights))
    return stack, metadata


def _load_stacker(name: str, index: int, stack: Stack, tensors: dict[str, Tensor], path: Path) -> nn.Module | Booster:
    prefix = f"{name}.{index}"
    if name not in stack_cnn.CNNS:
        return _load_trees(prefix, stack, tensors, path)
    with torch.device("meta"):
        cnn = stack_cnn.CNNS[name](stack.num_models, stack.num_classes, dropout=0.0)
    weights = {key.removeprefix(prefix + "."): value for key, value in tensors.items() if key.startswith(prefix + ".")}
    checkpoint.load_into(cnn, weights, path, assign=True)
    return cnn.eval()


def _load_trees(name: str, stack: Stack, tensors: dict[str, Tensor], path: Path) -> Booster:
    try:
        text = tensors[name].numpy().tobytes().decode()
        return boosting.load(text, stack.num_models * stack.num_classes, stack.num_classes)
    except (KeyError, TypeError, ValueError) as error:
        raise checkpoint.CheckpointError(f"{path}: {name} is not a LightGBM model ({one_line(error)})") from None
