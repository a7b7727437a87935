"""A teacher's distributions over the windows of a student's tracks: their files, and the tracks of all files together.

Each part, RUN/teacher/NAME.npz, has the tracks that the same networks predict. All tracks have the same windows.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Annotated

import numpy as np

from melgpu.data.manifest import Manifest, Split
from melgpu.errors import InputError
from melgpu.models.metadata import NetworkProvenance
from melgpu.models.schema import Schema
from melgpu.runs.formats.npz import Array, Flags, Integers, NpzFormat

REPEAT = "repeat the train.py that made this run, with its --teacher"


class Origin(StrEnum):
    """Whether networks that predicted a track trained on it; its value is written in files."""

    OUT_OF_FOLD = "out of fold"  # a training track of the teacher, by the networks that did not train on it
    UNSEEN = "unseen"
    TRAINED = "trained on"


class TeacherProvenance(Schema):
    """The teacher's digest, and those of its networks whose mean the distributions are."""

    teacher: str
    networks: list[NetworkProvenance]


@dataclass(frozen=True)
class Distributions:
    """The mean distributions of a teacher's networks over the V windows of N tracks.

    ids, splits, origins (N,); unusable (N,) bool: no usable audio, the distributions are those of silence; starts (V,)
    in samples; probs (N, V, C) float32; class_names (C,)
    """

    ids: tuple[str, ...]
    splits: tuple[Split, ...]
    origins: tuple[Origin, ...]
    unusable: Flags
    starts: Integers
    probs: Annotated[np.ndarray, Array("f", 3)]
    class_names: tuple[str, ...]
    provenance: TeacherProvenance

    def __post_init__(self) -> None:
        lengths = {len(self.ids), len(self.splits), len(self.origins), len(self.unusable)}
        if len(lengths) != 1 or self.probs.shape != (len(self.ids), len(self.starts), len(self.class_names)):
            raise ValueError("columns differ in length")


NPZ = NpzFormat(Distributions, "a file of a teacher's distributions", f"delete it, and {REPEAT}")
save = NPZ.save
load = NPZ.load


@dataclass(frozen=True)
class TeacherPredictions:
    """All of a student's tracks, in the order of its manifest, with their distributions; columns of N tracks.

    origins : None for tracks without distributions, as their files were unusable when the run was made; unusable (N,)
    bool, probs (N, V, C), uniform where there are none; digest : of all distributions
    """

    origins: tuple[Origin | None, ...]
    unusable: np.ndarray
    starts: np.ndarray
    probs: np.ndarray
    num_networks: int
    digest: str

    @cached_property
    def track_probs(self) -> np.ndarray:
        """The mean over each track's windows, shape (N, C), float64: the teacher's answer."""
        return self.probs.mean(axis=1, dtype=np.float64)


def load_teacher_predictions(folder: Path, tracks: Manifest, teacher: str) -> TeacherPredictions:
    """Join the parts in a folder. Raises InputError for those of another teacher or run, and for missing tracks."""
    parts = [(path, load(path)) for path in sorted(folder.glob("*.npz"))]
    row_of = {key: row for row, key in enumerate(zip(tracks.ids, tracks.splits, strict=True))}
    class_names = tuple(tracks.class_names)
    origins: list[Origin | None] = [None] * len(tracks)
    rows_of_parts = []
    for path, part in parts:
        rows = [row_of.get(key, -1) for key in zip(part.ids, part.splits, strict=True)]
        is_new = -1 not in rows and not any(origins[row] for row in rows)
        _check_part(path, part, teacher, class_names, is_new and np.array_equal(part.starts, parts[0][1].starts))
        for row, origin in zip(rows, part.origins, strict=True):
            origins[row] = origin
        rows_of_parts.append(rows)
    missing = sum(origins[row] is None for row in predicted_rows(tracks).tolist())
    if missing:
        raise InputError(f"{folder}: the teacher has not predicted {missing} of the run's tracks yet: {REPEAT}")
    return _join([part for _, part in parts], rows_of_parts, tuple(origins))


def _check_part(
    path: Path, part: Distributions, teacher: str, class_names: tuple[str, ...], has_known_tracks: bool
) -> None:
    """Raise InputError for a part of another teacher, of other classes, or of other tracks or windows."""
    problem = ""
    if part.provenance.teacher != teacher:
        problem = f"of the teacher {part.provenance.teacher}, not {teacher}"
    elif part.class_names != class_names:
        problem = "of other classes than this run's"
    elif not has_known_tracks:
        problem = "of other tracks or windows than those of this run"
    if problem:
        raise InputError(f"{path}: {problem}; delete it, and {REPEAT}")


def _join(
    parts: Sequence[Distributions], rows_of_parts: Sequence[Sequence[int]], origins: tuple[Origin | None, ...]
) -> TeacherPredictions:
    """The parts, with their rows of the manifest, as columns of all its tracks; there is at least one."""
    starts = parts[0].starts
    num_classes = len(parts[0].class_names)
    probs = np.full((len(origins), len(starts), num_classes), 1 / num_classes, np.float32)
    unusable = np.ones(len(origins), bool)
    networks = set()
    for part, rows in zip(parts, rows_of_parts, strict=True):
        probs[rows] = part.probs
        unusable[rows] = part.unusable
        networks |= {(network.round, network.backbone, network.fold) for network in part.provenance.networks}
    digest = hashlib.sha256(parts[0].provenance.teacher.encode() + probs.tobytes()).hexdigest()[:16]
    return TeacherPredictions(origins, unusable, starts, probs, len(networks), digest)


def predicted_rows(tracks: Manifest) -> np.ndarray:
    """The rows that a teacher predicts, shape (R,): all but training tracks without usable audio."""
    is_test = np.array([split is not Split.TRAIN for split in tracks.splits], bool)
    return np.flatnonzero(is_test | (tracks.folds >= 0))
