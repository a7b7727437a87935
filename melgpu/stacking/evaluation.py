"""Predictions of a round's networks and stackers on the tracks that they are evaluated on, and their scores.

The interface between stacking and the report. Validation tracks are predicted by the networks of their own fold and by
stackers that were fitted on other tracks (out of fold); test tracks by the mean over all folds.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from melgpu import files
from melgpu.errors import InputError, one_line
from melgpu.metrics import accuracy, accuracy_interval, bootstrap_interval, sign_test
from melgpu.runs.run import Run, class_indices
from melgpu.stacking.dataset import BasePredictions, StackingSet
from melgpu.stacking.stack import MEAN, Stack, final_predictor

SPLITS = ("validation", "public", "private")
TEXT_COLUMNS = ("predictors", "ids", "splits", "class_names")
SCHEMA = {  # of the file: kind of dtype and number of axes, see `files.load_arrays`
    "predictors": ("U", 1),
    "ids": ("U", 1),
    "splits": ("U", 1),
    "folds": ("i", 1),
    "labels": ("i", 1),
    "pseudo_labelled": ("b", 1),
    "probs": ("f", 3),
    "class_names": ("U", 1),
    "provenance": ("U", 0),
}


@dataclass(frozen=True)
class RoundEvaluation:
    """Probabilities of P predictors for N tracks.

    predictors (P,): each network by its backbone, `mean` (of the networks), the stackers, `blend` (with the recipe's
    weights) and, with two stackers or more, `fitted blend`; ids (N,); splits (N,): of SPLITS; folds (N,): the fold of
    a validation track, -1 for test tracks; labels (N,): class indices, -1 where unknown; pseudo_labelled (N,) bool:
    the networks were trained on the track with a pseudo label; probs (P, N, C); class_names (C,);
    provenance: round, recipe_digest, pseudo_digest (see `predictions`), protocol, final_predictor, and the blends'
    `weights` and `fitted_weights` (the mean over all sub-folds).
    """

    predictors: tuple[str, ...]
    ids: tuple[str, ...]
    splits: tuple[str, ...]
    folds: np.ndarray
    labels: np.ndarray
    pseudo_labelled: np.ndarray
    probs: np.ndarray
    class_names: tuple[str, ...]
    provenance: dict

    def __post_init__(self):
        columns = self.ids, self.splits, self.folds, self.labels, self.pseudo_labelled
        shape = len(self.predictors), len(self.ids), len(self.class_names)
        if len(set(map(len, columns))) != 1:
            raise ValueError("columns differ in length")
        if self.probs.shape != shape:
            raise ValueError("probabilities of another shape")
        if not set(self.splits) <= set(SPLITS):
            raise ValueError("an unknown split")
        if not isinstance(self.provenance, dict):
            raise ValueError("the provenance is no dictionary")
        if not ((self.labels >= -1) & (self.labels < len(self.class_names))).all():
            raise ValueError("an unknown class")

    @property
    def final_probs(self) -> np.ndarray:
        """Probabilities (N, C) of the final predictor."""
        return self.probs[self.predictors.index(self.provenance["final_predictor"])]

    def rows(self, split: str, fold: int | None = None) -> np.ndarray:
        """The rows with known labels of a split, or of one fold's validation tracks."""
        selected = (np.array(self.splits) == split) & (self.labels >= 0)
        return np.flatnonzero(selected if fold is None else selected & (self.folds == fold))

    def scores(self) -> dict[str, dict[str, dict]]:
        """{predictor: {split: scores}}, of splits with known labels; JSON data."""
        rows = {split: self.rows(split) for split in SPLITS}
        known_rows = {split: split_rows for split, split_rows in rows.items() if len(split_rows)}
        scores = {}
        for index, predictor in enumerate(self.predictors):
            scores[predictor] = {split: self._score(index, split_rows) for split, split_rows in known_rows.items()}
        return scores

    def _score(self, index: int, rows: np.ndarray) -> dict:
        """Accuracy and gain over the mean of the networks, with 95 % intervals; p-value of the gain (sign test)."""
        labels = self.labels[rows]
        correct = self.probs[index, rows].argmax(1) == labels
        mean_correct = self.probs[self.predictors.index(MEAN), rows].argmax(1) == labels
        gain = correct.astype(float) - mean_correct  # paired, track by track: -1, 0 or 1
        return {
            "accuracy": accuracy(self.probs[index, rows], labels),
            "interval": accuracy_interval(correct),
            "tracks": len(rows),
            "pseudo_labelled": int(self.pseudo_labelled[rows].sum()),
            "gain": float(gain.mean()),
            "gain_interval": bootstrap_interval(gain),
            "gain_p": sign_test(gain),
        }


def save(evaluation: RoundEvaluation, path: Path) -> None:
    """Write an evaluation; probabilities at full precision, so that the file gives the same scores."""
    # Texts as arrays of strings, and the provenance as JSON: `load_arrays` rejects pickled objects.
    texts = {name: np.array(getattr(evaluation, name), np.str_) for name in TEXT_COLUMNS}
    numbers = {name: getattr(evaluation, name) for name in ("folds", "labels", "pseudo_labelled", "probs")}
    provenance = np.array(json.dumps(evaluation.provenance))
    files.save_arrays(path, {**texts, **numbers, "provenance": provenance})


def load(path: Path) -> RoundEvaluation:
    """Raises InputError for a file that is malformed or not an evaluation."""
    try:
        data = files.load_arrays(path, SCHEMA)
        files.check_probabilities(data["probs"])
        texts = {name: tuple(data[name].tolist()) for name in TEXT_COLUMNS}
        provenance = json.loads(str(data["provenance"]))
        evaluation = RoundEvaluation(**{**data, **texts, "provenance": provenance})
        if not {MEAN, evaluation.provenance.get("final_predictor")} <= set(evaluation.predictors):
            raise ValueError("a predictor is missing")
    except Exception as error:  # zipfile, zlib, numpy and json each have their own
        raise InputError(f"{path}: damaged, or not an evaluation of a round ({one_line(error)})") from None
    return evaluation


def evaluate_round(
    run: Run, round_number: int, base: BasePredictions, stacks: list[tuple[StackingSet, Stack]]
) -> RoundEvaluation:
    """Predict each validation track (out of fold) and each test track by networks, stackers and blends."""
    spec = run.round_spec(round_number)
    valid_parts = []  # probabilities by predictor, of each stack
    test_parts = []  # of each fold
    for stacking_set, stack in stacks:
        matrix = stacking_set.validation[0]
        # Each track is predicted by the stackers that were neither fitted nor stopped on its sub-fold.
        valid_parts.append(_networks(spec.backbones, matrix) | stack.out_of_fold(matrix, stacking_set.subfolds))
        for fold in stacking_set.folds:
            # The networks of every fold predict the test tracks; no stacker was fitted on them, so all sub-folds do.
            test_matrix = base.matrices[fold][run.test_rows]
            test_parts.append(_networks(spec.backbones, test_matrix) | stack.predict(test_matrix))
    probs = np.stack([_join_parts(name, valid_parts, test_parts) for name in test_parts[0]])  # (P, N, C)
    rows = np.concatenate([*(stacking_set.rows for stacking_set, _ in stacks), run.test_rows])
    valid_folds = [stacking_set.row_folds for stacking_set, _ in stacks]
    splits = ["validation" if split == "train" else split for split in run.manifest.splits]
    probs[:, base.unusable[rows]] = run.prior  # test tracks: unusable validation tracks are not among the rows
    return RoundEvaluation(
        predictors=tuple(test_parts[0]),
        ids=tuple(run.manifest.ids[row] for row in rows),
        splits=tuple(splits[row] for row in rows),
        folds=np.concatenate([*valid_folds, np.full(len(run.test_rows), -1)]),
        labels=class_indices(run.manifest, run.class_names)[rows],
        pseudo_labelled=np.isin(rows, run.round_manifest(round_number)[1]),
        probs=probs,
        class_names=tuple(run.class_names),
        provenance=_provenance(run, round_number, [stack for _, stack in stacks]),
    )


def _join_parts(name: str, valid_parts: list[dict], test_parts: list[dict]) -> np.ndarray:
    """One predictor's probabilities (N, C): of each stack's validation tracks, then of test tracks, the folds' mean."""
    valid_probs = [part[name] for part in valid_parts]
    test_probs = np.mean([part[name] for part in test_parts], axis=0)
    return np.concatenate([*valid_probs, test_probs])


def _networks(names: tuple[str, ...], matrix: np.ndarray) -> dict[str, np.ndarray]:
    """Probabilities (N, C) of each network and of their mean, from a matrix (N, K, C)."""
    return {name: matrix[:, k] for k, name in enumerate(names)} | {MEAN: matrix.mean(axis=1)}


def _provenance(run: Run, round_number: int, stacks: list[Stack]) -> dict:
    spec = run.recipe.stacking
    blend_weights = run.round_spec(round_number).blend
    fitted = [subfold.weights for stack in stacks for subfold in stack.subfold_stackers]
    mean_weights = {}
    for name in fitted[0]:
        mean_weights[name] = float(np.mean([weights[name] for weights in fitted]))
    return {
        "round": round_number,
        "recipe_digest": run.recipe.digest(),
        "pseudo_digest": run.pseudo_digest(round_number),
        "protocol": spec.protocol,
        "final_predictor": final_predictor(spec.final_predictor, len(blend_weights)),
        "weights": blend_weights,
        "fitted_weights": mean_weights,
    }
