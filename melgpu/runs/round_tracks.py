"""The tracks of a round: the manifest, in which test tracks have the pseudo labels that the round trains on."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from melgpu.data import manifest
from melgpu.data.manifest import Manifest, Split
from melgpu.errors import InputError
from melgpu.recipe import Recipe
from melgpu.runs.distillation.distributions import TeacherPredictions
from melgpu.runs.formats import pseudo_labels
from melgpu.runs.formats.pseudo_labels import PseudoLabel


@dataclass(frozen=True)
class RoundTracks:
    """The manifest with pseudo labels, their rows, shape (P,), and a short hash of them, or `none`.

    pseudo_targets : of soft pseudo labels, shape (P, C), else None; a row sums to its track's weight in the loss
    """

    manifest: Manifest
    pseudo_rows: np.ndarray
    pseudo_digest: str
    pseudo_targets: np.ndarray | None = None

    @property
    def labelled_rows(self) -> np.ndarray:
        """All rows that the round trains or validates on, shape (R,)."""
        return np.concatenate([np.flatnonzero(self.manifest.folds >= 0), self.pseudo_rows])

    def fold_rows(self, fold: int) -> tuple[np.ndarray, np.ndarray]:
        """Training (with pseudo labels) and validation rows of a fold."""
        train, valid = self.manifest.fold_rows(fold)
        return np.concatenate([train, self.pseudo_rows]), valid


def load(tracks: Manifest, path: Path | None, round_number: int, recipe: Recipe) -> RoundTracks:
    """The tracks of a round with the pseudo labels in the file at `path`, that of the round before; None for none.

    Raises InputError with every pseudo label that is not of a public test track, or of an unknown class.
    """
    if path is None:
        return RoundTracks(tracks, np.empty(0, np.int64), "none")
    class_names = tracks.class_names
    soft_classes = pseudo_labels.soft_classes(recipe.pseudo, class_names)
    selected = pseudo_labels.load(path, round_number - 1, recipe.digest(), soft_classes)
    digest = hashlib.sha256(repr(selected).encode()).hexdigest()[:16]
    public = {tracks.ids[row]: row for row in tracks.rows(Split.PUBLIC).tolist()}
    problems = [f"{path}: {pseudo.id} is not a public test track" for pseudo in selected if pseudo.id not in public]
    problems += [f"{path}: {pseudo.label!r} is not a class" for pseudo in selected if pseudo.label not in class_names]
    if problems:
        raise InputError(problems)
    rows = [public[pseudo.id] for pseudo in selected]
    labelled = manifest.with_labels(tracks, rows, [pseudo.label for pseudo in selected])
    return RoundTracks(labelled, np.array(rows, np.int64), digest, _soft_targets(selected) if soft_classes else None)


def _soft_targets(selected: list[PseudoLabel]) -> np.ndarray | None:
    """Each distribution times its confidence, shape (P, C); None without any."""
    if not selected:
        return None
    distributions = np.array([pseudo.distribution for pseudo in selected])
    confidence = np.array([pseudo.confidence for pseudo in selected])
    return (
        distributions / distributions.sum(axis=1, keepdims=True) * confidence[:, None]
    )  # without rounding in the file


def load_student(tracks: Manifest, predictions: TeacherPredictions) -> RoundTracks:
    """The tracks of a student, in which public test tracks with usable audio have their teacher's answer as a label."""
    public = tracks.rows(Split.PUBLIC)
    rows = public[~predictions.unusable[public]]
    classes = predictions.track_probs[rows].argmax(axis=1)
    labels = [tracks.class_names[index] for index in classes.tolist()]
    return RoundTracks(manifest.with_labels(tracks, rows.tolist(), labels), rows, predictions.digest)
