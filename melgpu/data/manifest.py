"""The manifest of a run: its tracks, the order of its classes, and folds that never split a track (or an artist).

A manifest is columns, one row a track; nothing is decoded. Labels are text as written (`1` and `01` differ); an empty
label means unknown. Folds count from 0 in the training split and are -1 elsewhere, and for training tracks without
usable audio; the number of folds stands for training tracks that are in no fold's validation set. Columns that were
added later are optional: a run without them is read, too.
"""

import itertools
import os
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path

import numpy as np

from melgpu import files
from melgpu.audio.content import CONTENT_ID, content_id
from melgpu.audio.remote import absolute_path
from melgpu.audio.walk import is_utf8, natural_key
from melgpu.data.folds import assign_folds, check_classes, check_listed_folds, find_small_classes, listed_folds
from melgpu.data.sources import SourceList, folded_label
from melgpu.errors import InputError, printable

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


def build(
    source_lists: dict[Split, SourceList],
    num_folds: int,
    seed: int,
    unusable: Collection[str] = (),
    small_classes: str = "refuse",
) -> Manifest:
    """Join the source lists of the splits and assign the folds of the training tracks; paths in `unusable` get none.

    The folds are those of another run, those that the list names, or drawn. Where `small_classes` is `train`, tracks of
    classes that are too small to be drawn get the fold `num_folds`: every network trains on them, and none is validated
    on them. Raises InputError with every duplicate id and unknown test label, and with the classes that are too small.
    """
    problems = [problem for source_list in source_lists.values() for problem in _check_names(source_list)]
    problems += _check_duplicates(source_lists)
    train = source_lists[Split.TRAIN]
    is_usable = np.array([path not in unusable for path in train.paths])
    usable_rows = np.flatnonzero(is_usable).tolist()
    labels = [train.labels[row] for row in usable_rows]
    groups = [train.groups[row] for row in usable_rows]
    counts = Counter(labels)
    is_drawn = not train.folds and not train.run_folds
    small = find_small_classes(labels, groups, num_folds) if is_drawn else {}
    problems += check_classes(counts, small, num_folds, small_classes)
    for split in TEST_SPLITS:
        if split in source_lists:
            problems += _check_labels(source_lists[split], counts)
    folds = np.full(len(train.ids), -1)
    if train.run_folds:
        folds[is_usable] = np.array(train.run_folds)[is_usable]
    elif train.folds:
        problems += _collect_listed_folds(train, num_folds, is_usable, folds)
    if problems:
        raise InputError(problems)
    if is_drawn:
        is_small = np.array([label in small for label in labels], bool)
        usable_folds = np.full(len(labels), num_folds)
        divided = np.flatnonzero(~is_small).tolist()
        usable_folds[divided] = assign_folds(
            [labels[row] for row in divided], num_folds, seed, [groups[row] for row in divided]
        )
        folds[is_usable] = usable_folds
    return _join(source_lists, folds)


def _collect_listed_folds(train: SourceList, num_folds: int, is_usable: np.ndarray, folds: np.ndarray) -> list[str]:
    """Write the folds that the list names to those of the usable tracks, both (N,); returns the problems with them."""
    try:
        listed = listed_folds(train.folds, num_folds)
    except InputError as error:
        return error.problems
    folds[is_usable] = listed[is_usable]
    usable_labels = [label for label, usable in zip(train.labels, is_usable.tolist(), strict=True) if usable]
    return list(check_listed_folds(listed[is_usable], usable_labels))


def _check_names(source_list: SourceList) -> Iterable[str]:
    seen: dict[str, str] = {}
    for name, line in zip(source_list.ids, source_list.locations, strict=True):
        if name in seen:
            yield f"{line}: {printable(name)} is listed twice (first: {seen[name]})"
        elif not is_utf8(name):
            yield f"{line}: {name!r}: the file's name is not UTF-8"
        seen.setdefault(name, line)


def _check_duplicates(source_lists: dict[Split, SourceList]) -> Iterable[str]:
    """A file in two splits is a leak: networks that were trained on it would be evaluated on it, or pseudo-label it."""
    seen: dict[str, tuple[str, Split]] = {}
    # Training tracks come first: a file in two splits is reported at the later one, which is a test track.
    for split in MANIFEST_SPLITS:
        if split not in source_lists:
            continue
        source_list = source_lists[split]
        for name, path, line in zip(source_list.ids, source_list.paths, source_list.locations, strict=True):
            # The real path, so that links to the same file are found.
            first_name, first_split = seen.setdefault(os.path.realpath(path), (name, split))
            if first_split != split:
                yield f"{line}: {printable(name)} is also a {first_split.description} track ({printable(first_name)})"
            elif split is Split.TRAIN and first_name != name:
                yield f"{line}: {printable(name)} is the same file as {printable(first_name)}"


def _check_labels(source_list: SourceList, known: Counter) -> Iterable[str]:
    known_spellings = {folded_label(label): label for label in known}
    for name, label, line in zip(source_list.ids, source_list.labels, source_list.locations, strict=True):
        if label and label not in known:
            similar = known_spellings.get(folded_label(label))
            hint = f"; {similar!r} only looks the same" if similar else ""
            yield f"{line}: {printable(name)} has the label {label!r}, which no training track has{hint}"


def track_columns(
    source_lists: dict[Split, SourceList],
) -> tuple[tuple[str, ...], tuple[str, ...], tuple[Split, ...]]:
    """The ids, labels and splits of a manifest of these lists."""
    splits = [split for split in MANIFEST_SPLITS if split in source_lists]
    ids = tuple(name for split in splits for name in source_lists[split].ids)
    labels = tuple(label for split in splits for label in source_lists[split].labels)
    split_column = tuple(split for split in splits for _ in source_lists[split].ids)
    return ids, labels, split_column


def listed_paths(source_lists: dict[Split, SourceList]) -> list[str]:
    """The paths of these lists, as they are in the lists, in the order of a manifest."""
    return [path for source_list in _in_order(source_lists) for path in source_list.paths]


def _in_order(source_lists: dict[Split, SourceList]) -> list[SourceList]:
    return [source_lists[split] for split in MANIFEST_SPLITS if split in source_lists]


def _join(source_lists: dict[Split, SourceList], folds: np.ndarray) -> Manifest:
    ids, labels, splits = track_columns(source_lists)
    ordered = _in_order(source_lists)
    # Absolute: a later command may run in another folder.
    paths = tuple(map(absolute_path, listed_paths(source_lists)))
    # The first split is the training split; tracks of all others have no fold.
    fold_column = np.concatenate([folds, np.full(len(ids) - len(folds), -1)])
    submission_ids: tuple[str, ...] = ()
    if any(source_list.submission_ids for source_list in ordered):
        listed = (source_list.submission_ids or [""] * len(source_list.ids) for source_list in ordered)
        submission_ids = tuple(itertools.chain.from_iterable(listed))
    return Manifest(ids, paths, labels, splits, fold_column, submission_ids)


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
    """Raise ValueError where columns hold values that `build` never writes."""
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
