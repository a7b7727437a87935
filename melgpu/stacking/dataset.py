"""The base predictions of a round's networks, and the stacking sets that its stackers are fitted on."""

from dataclasses import dataclass

import numpy as np

from melgpu.errors import InputError
from melgpu.runs.formats import predictions
from melgpu.runs.run import Run
from melgpu.stacking.stack import assign_subfolds
from melgpu.stacking.stack_cnn import LabelledMatrix


@dataclass(frozen=True)
class BasePredictions:
    """Track probabilities of the K networks of each fold, for all N tracks of the manifest.

    matrices: (N, K, C) by fold; unusable (N,) bool: tracks without usable audio.
    """

    matrices: dict[int, np.ndarray]
    unusable: np.ndarray

    def votes(self, rows: np.ndarray) -> np.ndarray:
        """The predicted class of each of the V networks of all folds, shape (V, R)."""
        return np.concatenate([matrix[rows].argmax(axis=2).T for matrix in self.matrices.values()])


@dataclass(frozen=True)
class StackingSet:
    """What one stack is fitted on: n validation tracks of its folds, and training tracks to pretrain the CNNs on.

    rows (n,): of the manifest; row_folds (n,): each row's fold; validation, train: matrix and labels; subfolds (n,):
    each row's sub-fold, all 0 in a round without stackers.
    """

    folds: tuple[int, ...]
    rows: np.ndarray
    row_folds: np.ndarray
    validation: LabelledMatrix
    subfolds: np.ndarray
    train: LabelledMatrix | None

    @property
    def num_subfolds(self) -> int:
        return int(self.subfolds.max()) + 1  # fewer than the recipe's where there are fewer tracks


def load_base_predictions(run: Run, round_number: int) -> BasePredictions:
    """Load the predictions of a round's networks. Raises InputError where some are missing or do not match."""
    check_complete(run, round_number)
    matrices = {}
    unusable = np.zeros(len(run.manifest), bool)
    for fold in run.round_spec(round_number).folds:
        jobs = [job for job in run.jobs(round_number) if job.fold == fold]
        # A row of the matrices is a row of the manifest, whatever the order in a file.
        tracks = list(zip(run.manifest.ids, run.manifest.fold_splits(fold), strict=True))
        members = [predictions.load(run.paths.predictions(job)).reordered_to(tracks) for job in jobs]
        provenances = [run.job_provenance(job) for job in jobs]
        matrices[fold] = predictions.align(members, provenances, tracks, run.class_names)
        unusable |= np.any([member.unusable for member in members], axis=0)  # for one network, so for all
    return BasePredictions(matrices, unusable)


def check_complete(run: Run, round_number: int) -> None:
    """Raise InputError with every network that has no predictions by its current checkpoint."""
    jobs = run.jobs(round_number)
    missing = [job.name for job in jobs if not (run.is_trained(job) and run.is_predicted(job))]
    if missing:
        problems = (f"round {round_number}: no predictions of {name} by its current checkpoint" for name in missing)
        raise InputError([*problems, f"first {run.command_line('train')} and {run.command_line('predict')}"])


def stacking_sets(run: Run, round_number: int, base: BasePredictions) -> list[StackingSet]:
    """A stacking set for each stack of a round."""
    groups = run.stacking_recipe(round_number).fold_groups(round_number)
    return [_stacking_set(run, round_number, base, group) for group in groups]


def _stacking_set(run: Run, round_number: int, base: BasePredictions, folds: tuple[int, ...]) -> StackingSet:
    labels = run.round_tracks(round_number).manifest.class_indices(run.class_names)
    valid_rows = []  # of each fold
    for fold in folds:
        _, fold_rows = run.manifest.fold_rows(fold)
        valid_rows.append(_usable(fold_rows, base))
    rows = np.concatenate(valid_rows)
    row_folds = np.repeat(folds, [len(fold_rows) for fold_rows in valid_rows])
    matrices = [base.matrices[fold][fold_rows] for fold, fold_rows in zip(folds, valid_rows, strict=True)]
    validation = LabelledMatrix(np.concatenate(matrices), labels[rows])
    train = None
    settings = run.stack_settings(round_number)
    if settings.stacking.protocol == "original":  # in which a stack has one fold
        # Stackers learn classes: soft pseudo labels, which may be of any confidence, are none.
        is_soft = run.recipe.pseudo.kind == "soft"
        tracks = run.manifest if is_soft else run.round_tracks(round_number)
        train_rows, _ = tracks.fold_rows(folds[0])
        train_rows = _usable(train_rows, base)
        train = LabelledMatrix(base.matrices[folds[0]][train_rows], labels[train_rows])
    # Sub-folds split the validation tracks alone: training tracks are only pretrained on, and never evaluated.
    subfolds = np.zeros(len(rows), np.int64)
    if settings.blend:
        subfolds = assign_subfolds(labels[rows], settings.stacking)
    return StackingSet(folds, rows, row_folds, validation, subfolds, train)


def _usable(rows: np.ndarray, base: BasePredictions) -> np.ndarray:
    return rows[~base.unusable[rows]]
