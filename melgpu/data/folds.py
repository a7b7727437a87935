"""Folds of the training tracks: drawn, or those that the user's list names; none ever splits a track."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from melgpu.audio.walk import natural_key
from melgpu.errors import InputError, printable

MAX_CLASSES = 10_000
MAX_NAMED = 10  # classes or folds in a message


def assign_folds(labels: Sequence[str], num_folds: int, seed: int, groups: Sequence[str] = ()) -> np.ndarray:
    """The fold of each track, shape (N,): stratified by label; tracks of one (non-empty) group are in one fold."""
    # Imported here, since no other function needs scikit-learn.
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    folds = np.empty(len(labels), np.int64)
    classes = _codes(labels)
    if any(groups):
        unique_groups = [group or f"\0{row}" for row, group in enumerate(groups)]  # without a group: one of its own
        grouped = StratifiedGroupKFold(num_folds, shuffle=True, random_state=seed)
        splits = grouped.split(classes, classes, _codes(unique_groups))
    else:
        stratified = StratifiedKFold(num_folds, shuffle=True, random_state=seed)
        splits = stratified.split(classes, classes)
    for fold, (_, held_out) in enumerate(splits):
        folds[held_out] = fold
    return folds


def _codes(texts: Sequence[str]) -> np.ndarray:
    """Numbers in the order of the texts, shape (N,): an array of texts would take the longest one's memory for each."""
    code_of = {text: code for code, text in enumerate(sorted(set(texts)))}
    return np.array([code_of[text] for text in texts], np.int64)


def fold_values(cells: Iterable[str]) -> list[str]:
    """The values of a column of folds, in the order of the folds 0, 1, ..."""
    return sorted(set(cells), key=natural_key)


def listed_folds(cells: Sequence[str], num_folds: int) -> np.ndarray:
    """The folds that a list names, shape (N,): its values in natural order are the folds 0, 1, ...

    Raises InputError where there are more or fewer values than folds.
    """
    values = fold_values(cells)
    if len(values) != num_folds:
        named = ", ".join(printable(value, 40) for value in values[:MAX_NAMED])
        more = f" and {len(values) - MAX_NAMED} more" if len(values) > MAX_NAMED else ""
        raise InputError(
            f"the column of folds.column has {len(values)} folds ({named}{more}) and the recipe {num_folds}: "
            f"--set folds.num_folds={max(2, len(values))}"
        )
    fold_of = {value: fold for fold, value in enumerate(values)}
    return np.array([fold_of[cell] for cell in cells], np.int64)


def check_listed_folds(folds: np.ndarray, labels: Sequence[str]) -> Iterator[str]:
    """Problems of folds that a list names: classes that are in one fold only, whose network would never train on them.

    folds : shape (N,)
    """
    folds_of: dict[str, set[int]] = {}
    for fold, label in zip(folds.tolist(), labels, strict=True):
        folds_of.setdefault(label, set()).add(fold)
    single = sorted((label for label, found in folds_of.items() if len(found) == 1), key=natural_key)
    if single:
        named = ", ".join(f"{printable(label, 40)} ({min(folds_of[label])})" for label in single[:MAX_NAMED])
        more = f" and {len(single) - MAX_NAMED} more" if len(single) > MAX_NAMED else ""
        yield (
            f"{len(single)} of {len(folds_of)} classes are in one fold of the list only, so that the network of that "
            f"fold would never train on them: {named}{more}; spread them over folds, or leave them out"
        )


def split_groups(folds: Sequence[str], groups: Sequence[str]) -> list[str]:
    """The (non-empty) groups with tracks in several folds, in natural order."""
    folds_of: dict[str, set[str]] = {}
    for fold, group in zip(folds, groups, strict=True):
        if group:
            folds_of.setdefault(group, set()).add(fold)
    return sorted((group for group, found in folds_of.items() if len(found) > 1), key=natural_key)


def find_small_classes(labels: Sequence[str], groups: Sequence[str], num_folds: int) -> dict[str, int]:
    """The classes with fewer groups than folds, and how many; a track without a group counts as one of its own."""
    groups_of: dict[str, set[str]] = {}
    for row, (label, group) in enumerate(zip(labels, groups, strict=True)):
        groups_of.setdefault(label, set()).add(group or f"\0{row}")
    counts = {label: len(names) for label, names in groups_of.items() if len(names) < num_folds}
    return dict(sorted(counts.items(), key=lambda item: natural_key(item[0])))


def check_classes(counts: Counter[str], small: dict[str, int], num_folds: int, small_classes: str) -> Iterator[str]:
    """Problems of classes: `counts` are their usable tracks, `small` those classes that are too small for the folds."""
    if small and small_classes == "refuse":
        named = ", ".join(f"{printable(label, 40)} ({count})" for label, count in list(small.items())[:MAX_NAMED])
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
        yield f"training needs at least two classes, the labels have {len(counts)}: {', '.join(map(printable, counts))}"
    if len(counts) > MAX_CLASSES:
        yield f"the labels have {len(counts)} classes, more than {MAX_CLASSES}"
