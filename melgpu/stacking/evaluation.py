"""Predictions of a round's networks and stackers on the tracks that they are evaluated on, and their scores.

The interface between stacking and the report. Validation tracks are predicted by the networks of their own fold and by
stackers that were fitted on other tracks (out of fold); test tracks by the mean over all folds.
"""

from dataclasses import dataclass
from typing import Annotated

import numpy as np

from melgpu.data.manifest import EVALUATED_SPLITS, Split, in_split
from melgpu.models.metadata import Provenance
from melgpu.models.schema import Schema
from melgpu.recipe_schema import Fraction, Stacker, StackSettings
from melgpu.runs.formats import scores
from melgpu.runs.formats.npz import Array, Flags, Integers, NpzFormat
from melgpu.runs.formats.scores import RoundScores, Score, Scores, Selection
from melgpu.runs.run import Run
from melgpu.stacking.dataset import BasePredictions, StackingSet
from melgpu.stacking.selection import select_nested
from melgpu.stacking.stack import AUTO, MEAN, Stack, candidates, final_predictor


class EvaluationMetadata(Schema):
    """How a round was stacked: its settings, the predictor of the final predictions, and the weights fitted for it.

    selection : what `auto`, the final predictor, stands for; None where another is final
    fitted_weights : the mean over all sub-folds
    """

    provenance: Provenance
    settings: StackSettings
    final_predictor: str
    selection: Selection | None
    fitted_weights: dict[Stacker, Fraction]


@dataclass(frozen=True)
class RoundEvaluation:
    """Probabilities of P predictors for N tracks.

    predictors (P,): each network by its backbone, `mean` (of the networks), the stackers, `blend` (with the recipe's
    weights), with two stackers or more `fitted blend`, and `auto` where that is final; ids (N,); splits (N,): of
    EVALUATED_SPLITS; folds (N,): the fold of a validation track, -1 for test tracks; labels (N,): class indices, -1
    where unknown; pseudo_labelled (N,) bool: the networks were trained on the track with a pseudo label; probs
    (P, N, C); class_names (C,).
    """

    predictors: tuple[str, ...]
    ids: tuple[str, ...]
    splits: tuple[Split, ...]
    folds: Integers
    labels: Integers
    pseudo_labelled: Flags
    probs: Annotated[np.ndarray, Array("f", 3)]
    class_names: tuple[str, ...]
    metadata: EvaluationMetadata

    def __post_init__(self) -> None:
        columns = self.ids, self.splits, self.folds, self.labels, self.pseudo_labelled
        shape = len(self.predictors), len(self.ids), len(self.class_names)
        if len(set(map(len, columns))) != 1:
            raise ValueError("columns differ in length")
        if self.probs.shape != shape:
            raise ValueError("probabilities of another shape")
        if not set(self.splits) <= set(EVALUATED_SPLITS):
            raise ValueError("tracks of the training split")
        if not {MEAN, self.metadata.final_predictor} <= set(self.predictors):
            raise ValueError("a predictor is missing")
        if (self.metadata.final_predictor == AUTO) != (self.metadata.selection is not None):
            raise ValueError("a selection without auto, or auto without one")
        if not ((self.labels >= -1) & (self.labels < len(self.class_names))).all():
            raise ValueError("an unknown class")

    @property
    def final_probs(self) -> np.ndarray:
        """Probabilities (N, C) of the final predictor."""
        return self.probs_of(self.metadata.final_predictor)

    def probs_of(self, predictor: str) -> np.ndarray:
        """Probabilities (N, C) of a predictor."""
        return self.probs[self.predictors.index(predictor)]

    def correct(self, predictor: str, rows: np.ndarray) -> np.ndarray:
        """Whether a predictor classifies each of R rows correctly, shape (R,) bool."""
        return self.probs_of(predictor)[rows].argmax(1) == self.labels[rows]

    def rows(self, split: Split, fold: int | None = None) -> np.ndarray:
        """The rows with known labels of a split, or of one fold's validation tracks."""
        selected = in_split(self.splits, split) & (self.labels >= 0)
        return np.flatnonzero(selected if fold is None else selected & (self.folds == fold))

    @property
    def labelled_splits(self) -> list[Split]:
        """The splits that have tracks with known labels."""
        return [split for split in EVALUATED_SPLITS if len(self.rows(split))]

    def round_scores(self) -> RoundScores:
        """The scores, and what made them."""
        metadata = self.metadata
        return RoundScores(
            settings=metadata.settings,
            final_predictor=metadata.final_predictor,
            selection=metadata.selection,
            scores=self.scores(),
        )

    def scores(self) -> Scores:
        """The scores of each predictor on each split with known labels; their baseline is the mean of the networks."""
        return {predictor: self._scores_by_split(predictor) for predictor in self.predictors}

    def _scores_by_split(self, predictor: str) -> dict[Split, Score]:
        by_split = {}
        for split in self.labelled_splits:
            rows = self.rows(split)
            correct = self.correct(predictor, rows)
            by_split[split] = scores.compute_score(correct, self.correct(MEAN, rows), self.pseudo_labelled[rows])
        return by_split


# Probabilities are written at full precision, so that the file gives the same scores.
NPZ = NpzFormat(RoundEvaluation, "an evaluation of a round", "delete its folder to stack the round again")
save = NPZ.save
load = NPZ.load


def evaluate_round(
    run: Run, round_number: int, base: BasePredictions, stacks: list[tuple[StackingSet, Stack]]
) -> RoundEvaluation:
    """Predict each validation track (out of fold) and each test track by networks, and by stackers if there are any."""
    spec = run.round_spec(round_number)
    settings = run.stack_settings(round_number)
    final = final_predictor(settings.stacking.final_predictor, len(settings.blend))
    test_rows = run.manifest.test_rows
    valid_parts = []  # probabilities by predictor, of each stack
    test_parts = []  # of each fold
    for stacking_set, stack in stacks:
        matrix = stacking_set.validation.matrix
        # Each track is predicted by the stackers that were neither fitted nor stopped on its sub-fold.
        valid_parts.append(_networks(spec.backbones, matrix) | stack.out_of_fold(matrix, stacking_set.subfolds))
        for fold in stacking_set.folds:
            # The networks of every fold predict the test tracks; no stacker was fitted on them, so all sub-folds do.
            test_matrix = base.matrices[fold][test_rows]
            test_parts.append(_networks(spec.backbones, test_matrix) | stack.predict(test_matrix))
    by_predictor = {name: _join_parts(name, valid_parts, test_parts) for name in test_parts[0]}
    selection = None
    if final == AUTO:
        selection, by_predictor[AUTO] = _select(by_predictor, list(spec.blend), [each for each, _ in stacks])
    probs = np.stack(list(by_predictor.values()))  # (P, N, C)
    rows = np.concatenate([*(stacking_set.rows for stacking_set, _ in stacks), test_rows])
    valid_folds = [stacking_set.row_folds for stacking_set, _ in stacks]
    # The stackers were not fitted on silence: without usable audio the prediction is the class prior. These are test
    # tracks, as unusable validation tracks are not among the rows.
    probs[:, base.unusable[rows]] = run.manifest.prior
    splits = run.manifest.evaluated_splits
    return RoundEvaluation(
        predictors=tuple(by_predictor),
        ids=tuple(run.manifest.ids[row] for row in rows),
        splits=tuple(splits[row] for row in rows),
        folds=np.concatenate([*valid_folds, np.full(len(test_rows), -1)]),
        labels=run.manifest.class_indices(run.class_names)[rows],
        pseudo_labelled=np.isin(rows, run.round_tracks(round_number).pseudo_rows),
        probs=probs,
        class_names=tuple(run.class_names),
        metadata=EvaluationMetadata(
            provenance=run.stack_provenance(round_number),
            settings=settings,
            final_predictor=final,
            selection=selection,
            fitted_weights=_mean_fitted_weights([stack for _, stack in stacks]),
        ),
    )


def _select(
    by_predictor: dict[str, np.ndarray], names: list[Stacker], stacking_sets: list[StackingSet]
) -> tuple[Selection, np.ndarray]:
    """What `auto` selects, and its probabilities (N, C): nested of validation tracks, then of test tracks."""
    labels = np.concatenate([stacking_set.validation.labels for stacking_set in stacking_sets])
    # Sub-folds of another stack have other numbers.
    starts = np.cumsum([0, *(stacking_set.num_subfolds for stacking_set in stacking_sets[:-1])])
    subfolds = [each.subfolds + start for each, start in zip(stacking_sets, starts, strict=True)]
    valid_probs = {name: by_predictor[name][: len(labels)] for name in candidates(names)}
    selection, nested_probs = select_nested(valid_probs, labels, np.concatenate(subfolds))
    return selection, np.concatenate([nested_probs, by_predictor[selection.predictor][len(labels) :]])


def _join_parts(name: str, valid_parts: list[dict], test_parts: list[dict]) -> np.ndarray:
    """One predictor's probabilities (N, C): of each stack's validation tracks, then of test tracks, the folds' mean."""
    valid_probs = [part[name] for part in valid_parts]
    test_probs = np.mean([part[name] for part in test_parts], axis=0)
    return np.concatenate([*valid_probs, test_probs])


def _networks(names: tuple[str, ...], matrix: np.ndarray) -> dict[str, np.ndarray]:
    """Probabilities (N, C) of each network and of their mean, from a matrix (N, K, C)."""
    return {name: matrix[:, k] for k, name in enumerate(names)} | {MEAN: matrix.mean(axis=1)}


def _mean_fitted_weights(stacks: list[Stack]) -> dict[Stacker, float]:
    """The fitted weight of each stacker, the mean over all sub-folds of all stacks."""
    fitted = [subfold.weights for stack in stacks for subfold in stack.subfold_stackers]
    mean_weights: dict[Stacker, float] = {}
    for name in fitted[0] if fitted else ():
        mean_weights[name] = float(np.mean([weights[name] for weights in fitted]))
    return mean_weights
