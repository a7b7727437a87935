"""Source lists of all splits to a manifest: their tracks in one order, and the folds of the training tracks."""

import itertools
import os
from collections import Counter
from collections.abc import Collection, Iterable

import numpy as np

from melgpu.audio.remote import absolute_path
from melgpu.audio.walk import is_utf8
from melgpu.data.folds import assign_folds, check_classes, check_listed_folds, find_small_classes, listed_folds
from melgpu.data.lists.sources import SourceList, folded_label
from melgpu.data.manifest import MANIFEST_SPLITS, TEST_SPLITS, Manifest, Split
from melgpu.errors import InputError, printable


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
