"""The manifest of a run: its tracks, the order of its classes, and folds that never split a track (or an artist).

A manifest is columns, one row a track; nothing is decoded. Labels are text as written (`1` and `01` differ); an empty
label means unknown. Folds count from 0 in the training split and are -1 elsewhere, and for training tracks without
usable audio; the number of folds stands for training tracks that are in no fold's validation set.
"""

import os
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path

import numpy as np

from melgpu import files
from melgpu.audio.remote import absolute_path
from melgpu.audio.walk import is_utf8, natural_key
from melgpu.data.sources import SourceList
from melgpu.errors import InputError

COLUMNS = ("id", "path", "label", "split", "fold")
MAX_CLASSES = 10_000
MAX_NAMED = 10  # classes in a message


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
    """Columns of equal length N; an id is the file's name in its source list, a path is absolute, or a URL."""

    ids: tuple[str, ...]
    paths: tuple[str, ...]
    labels: tuple[str, ...]
    splits: tuple[Split, ...]  # of MANIFEST_SPLITS
    folds: np.ndarray = field(compare=False)  # (N,), int64

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self, split: Split) -> np.ndarray:
        """The rows of a split, in the order of its source list."""
        return np.flatnonzero(in_split(self.splits, split))

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


def build(
    source_lists: dict[Split, SourceList],
    num_folds: int,
    seed: int,
    unusable: Collection[str] = (),
    small_classes: str = "refuse",
) -> Manifest:
    """Join the source lists of the splits and assign the folds of the training tracks; paths in `unusable` get none.

    Where `small_classes` is `train`, tracks of classes that are too small for the folds get the fold `num_folds`: every
    network trains on them, and none is validated on them. Raises InputError with every duplicate id and unknown test
    label, and with the classes that are too small.
    """
    problems = [problem for source_list in source_lists.values() for problem in _check_names(source_list)]
    problems += _check_duplicates(source_lists)
    train = _without(source_lists[Split.TRAIN], unusable)
    counts = Counter(train.labels)
    small = _small_classes(train, num_folds)
    problems += _check_classes(counts, small, num_folds, small_classes)
    for split in TEST_SPLITS:
        if split in source_lists:
            problems += _check_labels(source_lists[split], counts)
    if problems:
        raise InputError(problems)
    folds = np.full(len(source_lists[Split.TRAIN].ids), -1)
    is_usable = np.array([path not in unusable for path in source_lists[Split.TRAIN].paths])
    is_small = np.array([label in small for label in source_lists[Split.TRAIN].labels])
    folds[is_usable & is_small] = num_folds
    divided = [row for row, label in enumerate(train.labels) if label not in small]
    labels = [train.labels[row] for row in divided]
    groups = [train.groups[row] for row in divided]
    folds[is_usable & ~is_small] = assign_folds(labels, num_folds, seed, groups)
    return _join(source_lists, folds)


def _without(source_list: SourceList, unusable: Collection[str]) -> SourceList:
    usable_rows = [row for row, path in enumerate(source_list.paths) if path not in unusable]

    def select(column: list[str]) -> list[str]:
        return [column[row] for row in usable_rows]

    return SourceList(
        select(source_list.ids),
        select(source_list.paths),
        select(source_list.labels),
        select(source_list.groups),
        select(source_list.locations),
    )


def _check_names(source_list: SourceList) -> Iterable[str]:
    seen: dict[str, str] = {}
    for name, line in zip(source_list.ids, source_list.locations, strict=True):
        if name in seen:
            yield f"{line}: {name} is listed twice (first: {seen[name]})"
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
                yield f"{line}: {name} is also a {first_split.description} track ({first_name})"
            elif split is Split.TRAIN and first_name != name:
                yield f"{line}: {name} is the same file as {first_name}"


def _small_classes(train: SourceList, num_folds: int) -> dict[str, int]:
    """The classes with fewer artists than folds, and how many; a track without an artist counts as one of its own."""
    artists: dict[str, set[str]] = {}
    for row, (label, group) in enumerate(zip(train.labels, train.groups, strict=True)):
        artists.setdefault(label, set()).add(group or f"\0{row}")
    counts = {label: len(names) for label, names in artists.items() if len(names) < num_folds}
    return dict(sorted(counts.items(), key=lambda item: natural_key(item[0])))


def _check_classes(counts: Counter, small: dict[str, int], num_folds: int, small_classes: str) -> Iterable[str]:
    if small and small_classes == "refuse":
        named = ", ".join(f"{label} ({count})" for label, count in list(small.items())[:MAX_NAMED])
        more = f" and {len(small) - MAX_NAMED} more" if len(small) > MAX_NAMED else ""
        smallest = min(small.values())
        fewer_folds = f"use fewer folds (--set folds.num_folds={smallest}), " if smallest > 1 else ""
        yield (
            f"{len(small)} of {len(counts)} classes have fewer tracks (or artists) than {num_folds} folds: "
            f"{named}{more}; {fewer_folds}leave them out, or train on them without validation "
            "(--set folds.small_classes=train)"
        )
    elif small and len(small) == len(counts):
        yield f"every class has fewer tracks, or artists, than {num_folds} folds: none could be validated"
    if len(counts) < 2:
        yield f"training needs at least two classes, the labels have {len(counts)}: {', '.join(counts)}"
    if len(counts) > MAX_CLASSES:
        yield f"the labels have {len(counts)} classes, more than {MAX_CLASSES}"


def _check_labels(source_list: SourceList, known: Counter) -> Iterable[str]:
    for name, label, line in zip(source_list.ids, source_list.labels, source_list.locations, strict=True):
        if label and label not in known:
            yield f"{line}: {name} has the label {label!r}, which no training track has"


def track_columns(
    source_lists: dict[Split, SourceList],
) -> tuple[tuple[str, ...], tuple[str, ...], tuple[Split, ...]]:
    """The ids, labels and splits of a manifest of these lists."""
    splits = [split for split in MANIFEST_SPLITS if split in source_lists]
    ids = tuple(name for split in splits for name in source_lists[split].ids)
    labels = tuple(label for split in splits for label in source_lists[split].labels)
    split_column = tuple(split for split in splits for _ in source_lists[split].ids)
    return ids, labels, split_column


def _join(source_lists: dict[Split, SourceList], folds: np.ndarray) -> Manifest:
    ids, labels, splits = track_columns(source_lists)
    ordered = [source_lists[split] for split in MANIFEST_SPLITS if split in source_lists]
    # Absolute: a later command may run in another folder.
    paths = tuple(absolute_path(path) for source_list in ordered for path in source_list.paths)
    # The first split is the training split; tracks of all others have no fold.
    fold_column = np.concatenate([folds, np.full(len(ids) - len(folds), -1)])
    return Manifest(ids, paths, labels, splits, fold_column)


def assign_folds(labels: Sequence[str], num_folds: int, seed: int, groups: Sequence[str] = ()) -> np.ndarray:
    """The fold of each track, shape (N,): stratified by label; tracks of one (non-empty) group are in one fold."""
    # Imported here, since no other function needs scikit-learn.
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    folds = np.empty(len(labels), np.int64)
    if any(groups):
        unique_groups = [group or f"\0{row}" for row, group in enumerate(groups)]  # without a group: one of its own
        grouped = StratifiedGroupKFold(num_folds, shuffle=True, random_state=seed)
        splits = grouped.split(labels, labels, unique_groups)
    else:
        stratified = StratifiedKFold(num_folds, shuffle=True, random_state=seed)
        splits = stratified.split(labels, labels)
    for fold, (_, held_out) in enumerate(splits):
        folds[held_out] = fold
    return folds


def with_labels(manifest: Manifest, rows: Sequence[int], labels: Sequence[str]) -> Manifest:
    """The same tracks with the labels of some test tracks replaced (pseudo labels); splits and folds stay."""
    column = list(manifest.labels)
    for row, label in zip(rows, labels, strict=True):
        if manifest.splits[row] is Split.TRAIN:
            raise ValueError(f"row {row} ({manifest.ids[row]}) is a training track, its label cannot be replaced")
        column[row] = label
    return replace(manifest, labels=tuple(column))


def save(manifest: Manifest, path: Path) -> None:
    """Write a CSV file, one row a track."""
    columns = (manifest.ids, manifest.paths, manifest.labels, manifest.splits, manifest.folds.tolist())
    files.write_csv(path, COLUMNS, zip(*columns, strict=True))


def load(path: Path, num_folds: int) -> Manifest:
    """Read what `save` wrote. Raises InputError for a damaged file, or one that was not written by melgpu."""
    # Parsed inside the block, which turns each ValueError into an InputError that names the file.
    with files.read_csv(path, "a manifest", COLUMNS) as (_, rows):
        ids, paths, labels, splits, folds = zip(*rows, strict=True)
        manifest = Manifest(ids, paths, labels, tuple(map(Split, splits)), np.array(folds, np.int64))
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
