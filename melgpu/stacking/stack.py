"""The three stackers and the blend: K models x C classes -> C, in two protocols.

Both work on validation tracks, of which the networks say something that they were not fitted to, dealt into sub-folds.
For each sub-fold the stackers learn from the others but the next one; on that the CNNs stop and the blend's weights are
fitted. So no stacker that judges a validation track was fitted on it, and their accuracy is what is reported.

`original`: a fold of the round at a time; before, the CNNs learn from the training side, whose tracks the networks have
seen (optimistic inputs), for as long as they get better on all sub-folds but the one that is judged. Each sub-fold has
an end of its own, but the way there is the same, and gone once.
`oof`: only what was said out of fold, of the validation tracks of all folds together.

Matrices are (N, K, C) float64 track probabilities, labels (N,) class numbers.
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

MIN_SUBFOLDS = 3  # to learn, to stop, to judge
BLEND, FITTED_BLEND, MEAN = "blend", "fitted blend", "mean"  # MEAN: of the networks


@dataclass(frozen=True)
class Subfold:
    """Stackers that have seen nothing of one sub-fold, and the weights that fit them best, of sum 1."""

    stackers: dict[str, nn.Module | Booster]
    weights: dict[str, float]

    def predict(self, matrix: np.ndarray) -> dict[str, np.ndarray]:
        """Probabilities (N, C) by stacker."""
        if len(matrix) == 0:  # a run without test sets
            return dict.fromkeys(self.stackers, np.zeros((0, matrix.shape[2])))
        return {
            name: (stack_cnn if isinstance(one, nn.Module) else boosting).predict(one, matrix)
            for name, one in self.stackers.items()
        }


@dataclass(frozen=True)
class Stack:
    """What was fitted on a fold, or on several: a part for each sub-fold; `weights` are the recipe's for the blend."""

    num_models: int
    num_classes: int
    weights: dict[str, float]
    subfolds: list[Subfold] = field(default_factory=list)

    def predict(self, matrix: np.ndarray) -> dict[str, np.ndarray]:
        """Probabilities (N, C) of tracks that nothing was fitted on, by stacker and blend: the mean of all parts'."""
        parts = [self._answers(subfold, matrix) for subfold in self.subfolds]
        return {name: np.mean([part[name] for part in parts], axis=0) for name in parts[0]}

    def out_of_fold(self, matrix: np.ndarray, subfolds: np.ndarray) -> dict[str, np.ndarray]:
        """The same of the validation tracks: each by the part that was fitted without its sub-fold, given as (N,)."""
        made: dict[str, np.ndarray] = {}
        for number, subfold in enumerate(self.subfolds):
            for name, probs in self._answers(subfold, matrix[subfolds == number]).items():
                made.setdefault(name, np.empty((len(matrix), self.num_classes)))[subfolds == number] = probs
        return made

    @property
    def is_constant(self) -> bool:
        """Whether its trees, if there are any, ask nothing and so say the same of every track."""
        grown = [one for part in self.subfolds for one in part.stackers.values() if isinstance(one, Booster)]
        return bool(grown) and all(map(boosting.is_constant, grown))

    def _answers(self, subfold: Subfold, matrix: np.ndarray) -> dict[str, np.ndarray]:
        probs = subfold.predict(matrix)
        blends = {BLEND: blend_probs(probs, self.weights)}
        if len(probs) > 1:
            blends[FITTED_BLEND] = blend_probs(probs, subfold.weights)
        return probs | blends


def final_predictor(chosen: str, num_stackers: int) -> str:
    """The judge that counts: the recipe's choice, but that one stacker alone has no weights to fit."""
    return BLEND if chosen == FITTED_BLEND and num_stackers == 1 else chosen


def compared_predictor(answer: str) -> str:
    """The judge that is held against the mean of the networks."""
    return BLEND if answer == MEAN else answer


def fold_groups(protocol: str, folds: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Which folds of a round are stacked together."""
    return [folds] if protocol == "oof" else [(fold,) for fold in folds]


def assign_subfolds(labels: np.ndarray, spec: StackingSpec) -> np.ndarray:
    """Each validation track's sub-fold, shape (N,): tracks of a class are dealt out in turn, however few.

    Raises InputError where there are too few tracks.
    """
    if len(labels) < MIN_SUBFOLDS:
        raise InputError(f"a stack needs at least {MIN_SUBFOLDS} validation tracks, there are {len(labels)}")
    by_class = np.lexsort([np.random.default_rng(spec.seed).random(len(labels)), labels])
    dealt = np.empty(len(labels), np.int64)
    dealt[by_class] = np.arange(len(labels)) % spec.num_subfolds
    return dealt


def fit_subfolds(
    train: LabelledMatrix | None, valid: LabelledMatrix, subfolds: np.ndarray, names: list[str], spec: StackingSpec
) -> Iterator[Subfold]:
    """For each sub-fold stackers that are fitted on (matrix, labels) of the other validation tracks; `subfolds` (N,).

    `train` is the training side of the original protocol.
    """
    numbers = range(subfolds.max() + 1)
    others = np.stack([subfolds != number for number in numbers])
    begun = {name: stack_cnn.pretrain(name, train, valid, others, spec) for name in names if name in stack_cnn.CNNS}
    for number in numbers:
        is_stop = subfolds == (number + 1) % len(numbers)
        stop, rows = _take(valid, is_stop), _take(valid, others[number] & ~is_stop)
        stackers = {
            name: stack_cnn.finetune(begun[name][number], rows, stop, spec)
            if name in begun
            else boosting.fit(*rows, spec)
            for name in names
        }
        yield Subfold(stackers, fit_blend_weights(Subfold(stackers, {}).predict(stop[0]), stop[1]))


def _take(rows: LabelledMatrix, chosen: np.ndarray) -> LabelledMatrix:
    return rows[0][chosen], rows[1][chosen]


def blend_probs(probs: dict[str, np.ndarray], weights: dict[str, float]) -> np.ndarray:
    """The weighted mean of stackers' probabilities (N, C); the weights need not sum to 1."""
    return sum(weight * probs[name] for name, weight in weights.items()) / sum(weights.values())


def fit_blend_weights(probs: dict[str, np.ndarray], labels: np.ndarray, steps: int = 200) -> dict[str, float]:
    """The weights, of sum 1, of the blend that finds these labels likeliest; probs (N, C), labels (N,).

    Shares of a mixture by expectation maximisation: Dempster et al., "Maximum likelihood from incomplete data via the
    EM algorithm", JRSS B 39 (1977). The likelihood is concave in the shares, so that it ends at the best ones.
    """
    likelihoods = np.stack([own[np.arange(len(labels)), labels] for own in probs.values()]).clip(1e-12)
    weights = np.full(len(probs), 1 / len(probs))
    for _ in range(steps):
        joint = weights[:, None] * likelihoods
        weights = (joint / joint.sum(axis=0)).mean(axis=1)
    return dict(zip(probs, weights.tolist(), strict=True))


def save_stack(stack: Stack, path: Path, metadata: dict) -> None:
    """One checkpoint; LightGBM's text travels as bytes."""
    tensors = {}
    for number, subfold in enumerate(stack.subfolds):
        for name, one in subfold.stackers.items():
            if isinstance(one, nn.Module):
                tensors.update({f"{name}.{number}.{key}": value for key, value in one.state_dict().items()})
            else:
                text = bytearray(one.model_to_string().encode())
                tensors[f"{name}.{number}"] = torch.frombuffer(text, dtype=torch.uint8)
    fitted = [subfold.weights for subfold in stack.subfolds]
    shape = {"num_models": stack.num_models, "num_classes": stack.num_classes}
    checkpoint.save(path, tensors, {**metadata, "stack": {**shape, "weights": stack.weights, "fitted_weights": fitted}})


def load_stack(path: Path) -> tuple[Stack, dict]:
    """A stack and what was said about it. Raises CheckpointError."""
    tensors, metadata = checkpoint.load(path)
    schema.validate_metadata(schema.StackMetadata, metadata, path)
    shape = metadata["stack"]
    stack = Stack(shape["num_models"], shape["num_classes"], shape["weights"])
    for number, weights in enumerate(shape["fitted_weights"]):
        stackers = {name: _load_stacker(name, number, stack, tensors, path) for name in stack.weights}
        stack.subfolds.append(Subfold(stackers, weights))
    return stack, metadata


def _load_stacker(name: str, number: int, stack: Stack, tensors: dict[str, Tensor], path: Path):
    prefix = f"{name}.{number}"
    if name not in stack_cnn.CNNS:
        return _load_trees(prefix, stack, tensors, path)
    with torch.device("meta"):
        cnn = stack_cnn.CNNS[name](stack.num_models, stack.num_classes, dropout=0.0)
    own = {key.removeprefix(prefix + "."): value for key, value in tensors.items() if key.startswith(prefix + ".")}
    checkpoint.load_into(cnn, own, path, assign=True)
    return cnn.eval()


def _load_trees(name: str, stack: Stack, tensors: dict[str, Tensor], path: Path) -> Booster:
    try:
        text = tensors[name].numpy().tobytes().decode()
        return boosting.load(text, stack.num_models * stack.num_classes, stack.num_classes)
    except (KeyError, TypeError, ValueError) as error:
        raise checkpoint.CheckpointError(f"{path}: {name} is no model of LightGBM's ({one_line(error)})") from None
