"""A round's networks and stackers together: what the stackers are fitted on, and what all of them say of each track."""

from dataclasses import dataclass

import numpy as np

from melgpu.errors import InputError
from melgpu.runs import predictions
from melgpu.runs.run import Run, class_indices
from melgpu.stacking.stack import assign_subfolds, fold_groups
from melgpu.stacking.stack_cnn import LabelledMatrix


@dataclass(frozen=True)
class BasePredictions:
    """What the K networks of each fold say of all tracks.

    matrices: (N, K, C) by fold, a row for each of the manifest; lost (N,): tracks of which nobody heard anything.
    """

    matrices: dict[int, np.ndarray]
    unusable: np.ndarray

    def votes(self, rows: np.ndarray) -> np.ndarray:
        """The class that each of the V networks of all folds finds likeliest, shape (V, R)."""
        return np.concatenate([matrix[rows].argmax(axis=2).T for matrix in self.matrices.values()])


@dataclass(frozen=True)
class StackingSet:
    """What one stack is fitted on: n validation tracks of its folds, and the training side that the CNNs see before.

    rows (n,) of the manifest; of_fold (n,); valid, train: matrix and labels; subfolds (n,).
    """

    folds: tuple[int, ...]
    rows: np.ndarray
    row_folds: np.ndarray
    validation: LabelledMatrix
    subfolds: np.ndarray
    train: LabelledMatrix | None

    @property
    def num_subfolds(self) -> int:
        return int(self.subfolds.max()) + 1


def load_base_predictions(run: Run, number: int) -> BasePredictions:
    """Load what the networks of a round say. Raises InputError where some is missing or does not belong together."""
    loaded = {fold: _load(run, number, fold) for fold in run.spec(number).folds}
    wanted = {"round": number, "recipe_digest": run.recipe.digest(), "pseudo_digest": run.pseudo_digest(number)}
    matrices = {
        fold: predictions.align(members, run.manifest.ids, run.class_names, wanted | {"fold": fold})
        for fold, members in loaded.items()
    }
    return BasePredictions(
        matrices, np.any([member.unusable for members in loaded.values() for member in members], axis=0)
    )


def _load(run: Run, number: int, fold: int) -> list[predictions.Predictions]:
    jobs = [job for job in run.jobs(number) if job.fold == fold]
    missing = [job.name for job in jobs if not (run.is_trained(job) and run.is_predicted(job))]
    if missing:
        names = (f"round {number}: no predictions of {name} as it is now" for name in missing)
        raise InputError([*names, f"run python train.py and python predict.py with {run.flags} first"])
    tracks = list(zip(run.manifest.ids, run.manifest.splits, strict=True))
    return [predictions.load(run.predictions_path(job)).in_order(tracks) for job in jobs]


def stacking_sets(run: Run, number: int, votes: BasePredictions) -> list[StackingSet]:
    """One for each stack of a round."""
    protocol, folds = run.recipe.stacking.protocol, run.spec(number).folds
    return [_stacking_set(run, number, votes, group) for group in fold_groups(protocol, folds)]


def _stacking_set(run: Run, number: int, votes: BasePredictions, folds: tuple[int, ...]) -> StackingSet:
    labels = class_indices(run.round_manifest(number)[0], run.class_names)
    sides = {fold: [rows[~votes.unusable[rows]] for rows in run.round_rows(number, fold)] for fold in folds}
    rows = np.concatenate([valid for _, valid in sides.values()])
    of_fold = np.repeat(folds, [len(valid) for _, valid in sides.values()])
    matrix = np.concatenate([votes.matrices[fold][valid] for fold, (_, valid) in sides.items()])
    train = None
    if run.recipe.stacking.protocol == "original":
        seen = sides[folds[0]][0]
        train = (votes.matrices[folds[0]][seen], labels[seen])
    subfolds = assign_subfolds(labels[rows], run.recipe.stacking)
    return StackingSet(folds, rows, of_fold, (matrix, labels[rows]), subfolds, train)
