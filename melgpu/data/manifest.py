"""Which tracks exist: label order, folds that never split a track (or an artist), and the run's list of them.

A manifest is columns, one row a track; nothing is decoded. Labels are text as written (`1` and `01` differ); an empty
label means unknown. Splits are `train`, `public` and `private`; folds count from 0 in `train` and are -1 elsewhere, and
for training tracks that cannot be read.
"""

import os
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from melgpu import files
from melgpu.audio.remote import absolute_path
from melgpu.data.sources import SourceList, is_utf8, natural_key
from melgpu.errors import InputError

SPLITS = ("train", "public", "private")
COLUMNS = ("id", "path", "label", "split", "fold")


@dataclass(frozen=True)
class Manifest:
    """Columns of equal length N; an id is the file as its list names it, its path where it is."""

    ids: tuple[str, ...]
    paths: tuple[str, ...]
    labels: tuple[str, ...]
    splits: tuple[str, ...]
    folds: np.ndarray = field(compare=False)  # (N,), int64

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self, split: str) -> np.ndarray:
        """The rows of a split, in the order of its list."""
        return np.flatnonzero(np.array([s == split for s in self.splits], bool))

    @property
    def class_names(self) -> list[str]:
        """The labels of the training tracks, numbers in numerical order."""
        return sorted({self.labels[row] for row in self.rows("train")}, key=natural_key)


def build(listings: dict[str, SourceList], num_folds: int, seed: int, unusable: Collection[str] = ()) -> Manifest:
    """Join the listings of the splits and draw the folds of the training tracks; paths in `lost` get none.

    Raises InputError with every duplicate id, class too small for the folds and unknown test label.
    """
    problems = [problem for listing in listings.values() for problem in _check_names(listing)]
    problems += _check_duplicates(listings)
    train = _without(listings["train"], unusable)
    counts = Counter(train.labels)
    problems += _check_artists(train, num_folds)
    problems += [
        f"class {label!r} has {count} training tracks, fewer than {num_folds} folds"
        for label, count in sorted(counts.items(), key=lambda item: natural_key(item[0]))
        if count < num_folds
    ]
    if len(counts) < 2:
        problems.append(f"training needs at least two classes, the labels name {len(counts)}: {', '.join(counts)}")
    for split in SPLITS[1:]:
        if split in listings:
            problems += _check_labels(listings[split], counts)
    if problems:
        raise InputError(problems)
    folds = np.full(len(listings["train"].ids), -1)
    folds[[path not in unusable for path in listings["train"].paths]] = assign_folds(
        train.labels, num_folds, seed, train.groups
    )
    return _join(listings, folds)


def _without(listing: SourceList, unusable: Collection[str]) -> SourceList:
    kept = [row for row, path in enumerate(listing.paths) if path not in unusable]
    columns = (listing.ids, listing.paths, listing.labels, listing.groups, listing.lines)
    return SourceList(*([column[row] for row in kept] for column in columns))


def _check_names(listing: SourceList) -> Iterable[str]:
    seen: dict[str, str] = {}
    for name, line in zip(listing.ids, listing.lines, strict=True):
        if name in seen:
            yield f"{line}: {name} is listed twice (first: {seen[name]})"
        elif not is_utf8(name):
            yield f"{line}: {name!r}: the file's name is not UTF-8"
        seen.setdefault(name, line)


def _check_duplicates(listings: dict[str, SourceList]) -> Iterable[str]:
    """A file in two places would be judged, or pseudo-labelled, by networks that were trained on it."""
    seen: dict[str, tuple[str, str]] = {}
    for split in (split for split in SPLITS if split in listings):
        listing = listings[split]
        for name, path, line in zip(listing.ids, listing.paths, listing.lines, strict=True):
            known, other = seen.setdefault(os.path.realpath(path), (name, split))
            if other != split:
                kind = "training" if other == "train" else f"{other} test"
                yield f"{line}: {name} is also a {kind} track ({known})"
            elif split == "train" and known != name:
                yield f"{line}: {name} is the same file as {known}"


def _check_artists(train: SourceList, num_folds: int) -> Iterable[str]:
    """With artists kept together, a class needs as many artists as there are folds."""
    if not any(train.groups):
        return
    artists: dict[str, set[str]] = {}
    for row, (label, group) in enumerate(zip(train.labels, train.groups, strict=True)):
        artists.setdefault(label, set()).add(group or f"\0{row}")
    for label, names in sorted(artists.items(), key=lambda item: natural_key(item[0])):
        if len(names) < num_folds:
            yield f"class {label!r} has tracks of {len(names)} artists, fewer than {num_folds} folds"


def _check_labels(listing: SourceList, known: Counter) -> Iterable[str]:
    for name, label, line in zip(listing.ids, listing.labels, listing.lines, strict=True):
        if label and label not in known:
            yield f"{line}: {name} has the label {label!r}, which no training track has"


def _join(listings: dict[str, SourceList], folds: np.ndarray) -> Manifest:
    splits = [split for split in SPLITS if split in listings]
    parts = [listings[split] for split in splits]
    sizes = [len(part.ids) for part in parts]
    return Manifest(
        tuple(name for part in parts for name in part.ids),
        tuple(absolute_path(path) for part in parts for path in part.paths),
        tuple(label for part in parts for label in part.labels),
        tuple(split for split, size in zip(splits, sizes, strict=True) for _ in range(size)),
        np.concatenate([folds, np.full(sum(sizes[1:]), -1)]),
    )


def assign_folds(labels: Sequence[str], num_folds: int, seed: int, groups: Sequence[str] = ()) -> np.ndarray:
    """The fold of each track, shape (N,): stratified by label; tracks of one (non-empty) group stay together."""
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    folds = np.empty(len(labels), np.int64)
    if any(groups):
        alone = [group or f"\0{row}" for row, group in enumerate(groups)]
        splits = StratifiedGroupKFold(num_folds, shuffle=True, random_state=seed).split(labels, labels, alone)
    else:
        splits = StratifiedKFold(num_folds, shuffle=True, random_state=seed).split(labels, labels)
    for fold, (_, held_out) in enumerate(splits):
        folds[held_out] = fold
    return folds


def with_labels(manifest: Manifest, rows: Sequence[int], labels: Sequence[str]) -> Manifest:
    """The same tracks with some test tracks' labels replaced (pseudo labels); splits and folds stay."""
    column = list(manifest.labels)
    for row, label in zip(rows, labels, strict=True):
        if manifest.splits[row] == "train":
            raise ValueError(f"row {row} ({manifest.ids[row]}) is a training track, which keeps its own label")
        column[row] = label
    return replace(manifest, labels=tuple(column))


def save(manifest: Manifest, path: Path) -> None:
    """One CSV row a track."""
    columns = manifest.ids, manifest.paths, manifest.labels, manifest.splits, manifest.folds.tolist()
    files.write_csv(path, COLUMNS, zip(*columns, strict=True))


def load(path: Path, num_folds: int) -> Manifest:
    """What `save` wrote. Raises InputError for a damaged or foreign file."""
    with files.read_csv(path, "a manifest", COLUMNS) as (_, rows):
        ids, paths, labels, splits, folds = zip(*rows, strict=True)
        made = Manifest(ids, paths, labels, splits, np.array(folds, np.int64))
        _check_columns(made, num_folds)
    return made


def _check_columns(made: Manifest, num_folds: int) -> None:
    """Raise ValueError where columns hold what `build` never makes of them."""
    if not set(made.splits) <= set(SPLITS):
        raise ValueError(f"a split that is none of {', '.join(SPLITS)}")
    folds, training = made.folds, np.array(made.splits) == "train"
    if folds.min() < -1 or folds.max() >= num_folds or (folds[~training] != -1).any():
        raise ValueError(f"a fold that none of {num_folds} is, or of a test track")
    if len(set(zip(made.ids, made.splits, strict=True))) < len(made):
        raise ValueError("a track is listed twice")
