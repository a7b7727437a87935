"""The manifest of a run: its tracks, the order of its classes, and folds that never split a track (or an artist).

A manifest is columns, one row a track; nothing is decoded. Labels are text as written (`1` and `01` differ); an empty
label means unknown. Folds count from 0 in the training split and are -1 elsewhere, and for training tracks without
usable audio; the number of folds stands for training tracks that are in no fold's validation set. Columns that were
added later are optional: a run without them is read, too.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path

import numpy as np

from melgpu import files
from melgpu.audio.content import CONTENT_ID, content_id
from melgpu.audio.walk import natural_key

COLUMNS = ("id", "path", "label", "split", "fold")
OPTIONAL_COLUMNS = ("submission_id", "content")


class Split(StrEnum):
    """The part of the data set that a track is in; its value is written in files.

    Folds divide the training tracks: those of a network's own fold are its validation tracks.
    """

    TRAIN = "train"
    VALID = "valid"
    PUBLIC = "public"
    PRIVATE = "private"

    @property
    def description(self) -> str:
        """The split in a sentence: `12 public test tracks`."""
        return {"train": "training", "valid": "validation"}.get(self, f"{self} test")


def in_split(splits: Sequence[Split], split: Split) -> np.ndarray:
    """Which of N splits are a split, shape (N,) bool."""
    return np.array(splits, np.str_) == split


TEST_SPLITS = (Split.PUBLIC, Split.PRIVATE)
MANIFEST_SPLITS = (Split.TRAIN, *TEST_SPLITS)  # no validation tracks, which depend on the fold
EVALUATED_SPLITS = (Split.VALID, *TEST_SPLITS)


@dataclass(frozen=True)
class Manifest:
    """Columns of equal length N; an id is the file's name in its source list, a path is absolute, or a URL.

    submission_ids : of a test list's own column of ids; empty texts where it has none, no column where no list has
    contents : `audio.content.content_id` of the files when the run was made; empty texts for URLs and where there was
        no file, no column in runs that were made before there was this one
    """

    ids: tuple[str, ...]
    paths: tuple[str, ...]
    labels: tuple[str, ...]
    splits: tuple[Split, ...]  # of MANIFEST_SPLITS
    folds: np.ndarray = field(compare=False)  # (N,), int64
    submission_ids: tuple[str, ...] = ()
    contents: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self, split: Split) -> np.ndarray:
        """The rows of a split, in the order of its source list."""
        return np.flatnonzero(in_split(self.splits, split))

    @property
    def test_rows(self) -> np.ndarray:
        """The rows of all test sets, one after another."""
        return np.concatenate([self.rows(split) for split in TEST_SPLITS])

    def fold_rows(self, fold: int) -> tuple[np.ndarray, np.ndarray]:
        """Training and validation rows of a fold, without tracks without usable audio."""
        train = np.flatnonzero(self.folds >= 0)
        held_out = self.folds[train] == fold
        return train[~held_out], train[held_out]

    def fold_splits(self, fold: int) -> tuple[Split, ...]:
        """The split of each row for the networks of a fold, whose tracks are their validation tracks."""
        _, valid = self.fold_rows(fold)
        held_out = set(valid.tolist())
        return tuple(Split.VALID if row in held_out else split for row, split in enumerate(self.splits))

    def ids_for_submission(self, split: Split) -> list[str]:
        """The ids of a test set's tracks in its submission, in the order of its list."""
        rows = self.rows(split).tolist()
        if not self.submission_ids:
            return [self.ids[row] for row in rows]
        return [self.submission_ids[row] or self.ids[row] for row in rows]

    @property
    def class_names(self) -> list[str]:
        """The labels of the training tracks, numbers in numerical order."""
        return sorted({self.labels[row] for row in self.rows(Split.TRAIN)}, key=natural_key)

    @property
    def evaluated_splits(self) -> tuple[Split, ...]:
        """The split in which each track is evaluated: training tracks are validation tracks of one fold."""
        return tuple(Split.VALID if split is Split.TRAIN else split for split in self.splits)

    def class_indices(self, class_names: Sequence[str]) -> np.ndarray:
        """Each track's index into `class_names`, shape (N,); -1 where its label is unknown."""
        index_of = {name: index for index, name in enumerate(class_names)}
        return np.array([index_of.get(label, -1) for label in self.labels], np.int64)

    @property
    def prior(self) -> np.ndarray:
        """Class frequencies of the training tracks, shape (C,): the prediction for a file without usable audio."""
        rows = np.flatnonzero(self.folds >= 0)
        class_names = self.class_names
        labels = self.class_indices(class_names)[rows]
        return np.bincount(labels, minlength=len(class_names)) / len(rows)


def with_labels(manifest: Manifest, rows: Sequence[int], labels: Sequence[str]) -> Manifest:
    """The same tracks with the labels of some test tracks replaced (pseudo labels); splits and folds stay."""
    column = list(manifest.labels)
    for row, label in zip(rows, labels, strict=True):
        if manifest.splits[row] is Split.TRAIN:
            raise ValueError(f"row {row} ({manifest.ids[row]}) is a training track, its label cannot be replaced")
        column[row] = label
    return replace(manifest, labels=tuple(column))


def with_contents(manifest: Manifest) -> Manifest:
    """The same tracks, with what tells their files from others, as they are now."""
    return replace(manifest, contents=tuple(map(content_id, manifest.paths)))


def save(manifest: Manifest, path: Path) -> None:
    """Write a CSV file, one row a track."""
    columns = {
        "id": manifest.ids,
        "path": manifest.paths,
        "label": manifest.labels,
        "split": manifest.splits,
        "fold": manifest.folds.tolist(),
    }
    optional = zip(OPTIONAL_COLUMNS, (manifest.submission_ids, manifest.contents), strict=True)
    columns |= {name: column for name, column in optional if column}
    files.write_csv(path, list(columns), zip(*columns.values(), strict=True))


def load(path: Path, num_folds: int) -> Manifest:
    """Read what `save` wrote. Raises InputError for a damaged file, or one that was not written by melgpu."""
    # Parsed inside the block, which turns each ValueError into an InputError that names the file.
    with files.read_csv(path, "a manifest") as (header, rows):
        optional = [name for name in OPTIONAL_COLUMNS if name in header]
        if header != [*COLUMNS, *optional]:
            raise ValueError(f"its columns are {', '.join(header)}")
        ids, paths, labels, splits, folds, *others = zip(*rows, strict=True)
        column_of = dict(zip(optional, others, strict=True))
        manifest = Manifest(
            ids,
            paths,
            labels,
            tuple(map(Split, splits)),
            np.array(folds, np.int64),
            column_of.get("submission_id", ()),
            column_of.get("content", ()),
        )
        _check_columns(manifest, num_folds)
    return manifest


def _check_columns(manifest: Manifest, num_folds: int) -> None:
    """Raise ValueError where columns hold values that no manifest has."""
    if not set(manifest.splits) <= set(MANIFEST_SPLITS):
        raise ValueError(f"a split other than {', '.join(MANIFEST_SPLITS)}")
    folds = manifest.folds
    is_training = in_split(manifest.splits, Split.TRAIN)
    if folds.min() < -1 or folds.max() > num_folds or (folds[~is_training] != -1).any():
        raise ValueError(f"a fold other than 0 to {num_folds}, or of a test track")
    if len(set(zip(manifest.ids, manifest.splits, strict=True))) < len(manifest):
        raise ValueError("a track is listed twice")
    if not all(CONTENT_ID.fullmatch(content) for content in manifest.contents if content):
        raise ValueError("a content that is not a size and a hash")
