"""The stackers and the blend: K models x C classes -> C, in two protocols.

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

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import nn

from melgpu.errors import InputError
from melgpu.recipe_schema import MIN_SUBFOLDS, Stacker, StackingSpec
from melgpu.stacking import boosting, mixture, multinomial, stack_cnn
from melgpu.stacking.boosting import Booster
from melgpu.stacking.multinomial import Regression
from melgpu.stacking.stack_cnn import LabelledMatrix

BLEND = "blend"  # of the stackers, by the recipe's weights
FITTED_BLEND = "fitted blend"
MEAN = "mean"  # of the networks
AUTO = "auto"  # whichever of the others `selection` selects

FittedStacker = nn.Module | Booster | Regression


@dataclass(frozen=True)
class SubfoldStackers:
    """Stackers that were fitted without one sub-fold, and their fitted blend weights, of sum 1."""

    stackers: Mapping[Stacker, FittedStacker]
    weights: Mapping[Stacker, float]

    def predict(self, matrix: np.ndarray) -> dict[Stacker, np.ndarray]:
        """Probabilities (N, C) by stacker."""
        if len(matrix) == 0:  # a run without test sets
            return dict.fromkeys(self.stackers, np.zeros((0, matrix.shape[2])))
        return {name: _predict_stacker(stacker, matrix) for name, stacker in self.stackers.items()}


def _predict_stacker(stacker: FittedStacker, matrix: np.ndarray) -> np.ndarray:
    if isinstance(stacker, nn.Module):
        return stack_cnn.predict(stacker, matrix)
    if isinstance(stacker, Regression):
        return multinomial.predict(stacker, matrix)
    return boosting.predict(stacker, matrix)


@dataclass(frozen=True)
class Stack:
    """The stackers of one fold, or of several, for each sub-fold; `weights` are the recipe's blend weights.

    Both are empty in a round without stackers.
    """

    num_models: int
    num_classes: int
    weights: Mapping[Stacker, float]
    subfold_stackers: list[SubfoldStackers] = field(default_factory=list)

    def predict(self, matrix: np.ndarray) -> dict[str, np.ndarray]:
        """Probabilities (N, C) of new tracks by stacker and blend: the mean over all sub-folds."""
        by_subfold = [self._predict_subfold(subfold, matrix) for subfold in self.subfold_stackers]
        means = {}
        for name in by_subfold[0] if by_subfold else ():
            means[name] = np.mean([probs[name] for probs in by_subfold], axis=0)
        return means

    def out_of_fold(self, matrix: np.ndarray, subfolds: np.ndarray) -> dict[str, np.ndarray]:
        """The same of the validation tracks: each by the stackers fitted without its sub-fold; `subfolds` (N,)."""
        out: dict[str, np.ndarray] = {}
        # Stackers `index` were fitted without sub-fold `index`: of the validation tracks they predict just that one.
        for index, subfold in enumerate(self.subfold_stackers):
            in_subfold = subfolds == index
            for name, probs in self._predict_subfold(subfold, matrix[in_subfold]).items():
                if name not in out:
                    out[name] = np.empty((len(matrix), self.num_classes))  # filled sub-fold by sub-fold
                out[name][in_subfold] = probs
        return out

    @property
    def is_constant(self) -> bool:
        """Whether it has trees and none of them has a split, so that their predictions are the same for all tracks."""
        stackers = [stacker for subfold in self.subfold_stackers for stacker in subfold.stackers.values()]
        boosters = [stacker for stacker in stackers if isinstance(stacker, Booster)]
        return bool(boosters) and all(map(boosting.is_constant, boosters))

    def _predict_subfold(self, subfold: SubfoldStackers, matrix: np.ndarray) -> dict[str, np.ndarray]:
        probs = subfold.predict(matrix)
        by_predictor: dict[str, np.ndarray] = dict(probs.items())
        by_predictor[BLEND] = blend_probs(probs, self.weights)
        if len(probs) > 1:  # the weight of a single stacker is 1 anyway
            by_predictor[FITTED_BLEND] = blend_probs(probs, subfold.weights)
        return by_predictor


def final_predictor(configured: str, num_stackers: int) -> str:
    """The predictor of the final predictions: the recipe's, as far as there are stackers and weights to fit."""
    if num_stackers == 0:
        return MEAN
    return BLEND if configured == FITTED_BLEND and num_stackers == 1 else configured


def compared_predictor(final: str, selected: str | None, num_stackers: int) -> str | None:
    """The predictor that is compared with the mean of the networks; None where nothing is stacked.

    selected : by `auto`, where that is final
    """
    if num_stackers == 0:
        return None
    return BLEND if MEAN in (final, selected) else final


def candidates(names: Sequence[Stacker]) -> list[str]:
    """The predictors that `auto` selects from; a single stacker is the blend itself."""
    return [MEAN, *names, BLEND, FITTED_BLEND] if len(names) > 1 else [MEAN, BLEND]


def assign_subfolds(labels: np.ndarray, spec: StackingSpec) -> np.ndarray:
    """Each validation track's sub-fold, shape (N,), stratified by class.

    Raises InputError where there are too few tracks.
    """
    if len(labels) < MIN_SUBFOLDS:
        raise InputError(f"a stack needs at least {MIN_SUBFOLDS} validation tracks, there are {len(labels)}")
    # Tracks are put in order of class, at random within each, and dealt to the sub-folds in turn: every sub-fold gets
    # its part of each class, and sizes differ by one at most. With fewer tracks than sub-folds the last ones get none.
    order_in_class = np.random.default_rng(spec.seed).random(len(labels))
    by_class = np.lexsort([order_in_class, labels])  # the last key sorts first
    subfolds = np.empty(len(labels), np.int64)
    subfolds[by_class] = np.arange(len(labels)) % spec.num_subfolds
    return subfolds


def fit_subfolds(
    train: LabelledMatrix | None,
    valid: LabelledMatrix,
    subfolds: np.ndarray,
    names: Sequence[Stacker],
    spec: StackingSpec,
) -> Iterator[SubfoldStackers]:
    """For each sub-fold, fit stackers on the (matrix, labels) of the other validation tracks; `subfolds` (N,).

    `train` are the training tracks to pretrain the CNNs on, in the original protocol.
    """
    indices = range(subfolds.max() + 1)
    others = np.stack([subfolds != index for index in indices])  # (number of sub-folds, N)
    # One run of pretraining serves all sub-folds, but each has its own stopping epoch, chosen on the other sub-folds.
    cnns = {name: stack_cnn.pretrain(name, train, valid, others, spec) for name in names if name in stack_cnn.CNNS}
    for index in indices:
        # Sub-fold `index` is left out, to be evaluated on; the next one stops the CNNs early; the others are fitted on.
        is_stop = is_stop_row(subfolds, index)
        stop = valid.select(is_stop)
        rows = valid.select(others[index] & ~is_stop)
        stackers: dict[Stacker, FittedStacker] = {}
        for name in names:
            if name in cnns:
                stackers[name] = stack_cnn.finetune(name, cnns[name][index], rows, stop, spec)
            elif name == "multinomial":
                stackers[name] = multinomial.fit(*rows)
            else:
                stackers[name] = boosting.fit(*rows, spec)  # without early stopping, which dart ignores
        yield with_fitted_weights(stackers, stop)


def is_stop_row(subfolds: np.ndarray, index: int) -> np.ndarray:
    """Which rows stop the CNNs early that are fitted without sub-fold `index`: those of the next one; shape (N,)."""
    return subfolds == (index + 1) % (subfolds.max() + 1)


def with_fitted_weights(stackers: Mapping[Stacker, FittedStacker], stop: LabelledMatrix) -> SubfoldStackers:
    """Stackers with blend weights fitted on the rows for early stopping, on which the stackers were not fitted."""
    stop_probs = SubfoldStackers(stackers, {}).predict(stop.matrix)
    return SubfoldStackers(stackers, fit_blend_weights(stop_probs, stop.labels))


def blend_probs(probs: Mapping[Stacker, np.ndarray], weights: Mapping[Stacker, float]) -> np.ndarray:
    """The weighted mean of stackers' probabilities (N, C); the weights need not sum to 1."""
    weighted = [weight * probs[name] for name, weight in weights.items()]
    return np.asarray(sum(weighted)) / sum(weights.values())


def fit_blend_weights(probs: Mapping[Stacker, np.ndarray], labels: np.ndarray) -> dict[Stacker, float]:
    """The maximum-likelihood weights, of sum 1, of a blend; probs (N, C) by stacker, labels (N,)."""
    rows = np.arange(len(labels))
    likelihoods = np.stack([stacker_probs[rows, labels] for stacker_probs in probs.values()])
    return dict(zip(probs, mixture.fit_weights(likelihoods).tolist(), strict=True))
