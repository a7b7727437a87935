"""Finished cells to rows of a table: the accuracy of each variant, and its paired difference to another."""

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from benchmarks.experiments import statistics
from benchmarks.experiments.cells import CellResult
from benchmarks.experiments.spec import BASE
from benchmarks.experiments.statistics import Estimate
from melgpu.data.manifest import Split
from melgpu.errors import InputError

Key = tuple[int, int]  # of a training: seed, fold
Track = tuple[str, Split]  # an id is of one track in each split only
Results = Mapping[Key, CellResult]
TEST, VALIDATION, PRIVATE = "test", "validation", "private"
SPLITS = {
    TEST: (Split.PUBLIC, Split.PRIVATE),
    VALIDATION: (Split.VALID,),
    "public": (Split.PUBLIC,),
    PRIVATE: (Split.PRIVATE,),
}


@dataclass(frozen=True)
class Row:
    """A variant, or the difference of `variant` to `against`.

    estimates : by (tracks, measure): `test` tracks, which are `public` and `private` ones, were never seen, but for
        public ones with pseudo labels; of `validation` tracks the best epoch was chosen;
        `network`: tracks by each network alone; `windows`: its windows; `ensemble`: tracks by the mean of the networks
        (on validation tracks of those of other seeds, which did not train on them either)
    """

    variant: str
    against: str | None
    num_cells: int
    estimates: dict[tuple[str, str], Estimate]


def rows(cells: Mapping[str, Results], pairs: Sequence[tuple[str, str]]) -> list[Row]:
    """The accuracy of each variant with a finished cell, then the differences: to the base, and of pairs."""
    check_same_tracks([result for results in cells.values() for result in results.values()])
    finished = {name: results for name, results in cells.items() if results}
    accuracies = [_row(name, results) for name, results in finished.items()]
    compared = [(name, BASE) for name in finished if name != BASE]
    compared += [pair for pair in pairs if pair not in compared]
    differences = []
    for variant, against in compared:
        common = sorted(finished.get(variant, {}).keys() & finished.get(against, {}).keys())
        if common:
            both = {key: _on_same_tracks(finished[variant][key], finished[against][key]) for key in common}
            first = {key: results[0] for key, results in both.items()}
            second = {key: results[1] for key, results in both.items()}
            differences.append(_row(variant, first, against, second))
    return accuracies + differences


def _on_same_tracks(first: CellResult, second: CellResult) -> tuple[CellResult, CellResult]:
    """Two cells on the tracks that both were evaluated on: with other `folds` they have other validation tracks."""
    common = set(zip(first.ids, first.splits, strict=True)) & set(zip(second.ids, second.splits, strict=True))
    return _only(first, common), _only(second, common)


def _only(result: CellResult, tracks: Set[Track]) -> CellResult:
    rows = [row for row, track in enumerate(zip(result.ids, result.splits, strict=True)) if track in tracks]
    return replace(
        result,
        ids=tuple(result.ids[row] for row in rows),
        splits=tuple(result.splits[row] for row in rows),
        labels=tuple(result.labels[row] for row in rows),
        probs=result.probs[rows],
        window_accuracy=result.window_accuracy[rows],
    )


def check_same_tracks(results: Sequence[CellResult]) -> None:
    """Raise InputError where cells know another label of a track, or other classes or test tracks."""
    labels: dict[Track, str] = {}
    for result in results:
        first = results[0]
        is_other = result.class_names != first.class_names or _tracks(result, TEST) != _tracks(first, TEST)
        tracks = zip(result.ids, result.splits, strict=True)
        of_track = zip(tracks, result.labels, strict=True)
        if is_other or any(labels.setdefault(track, label) != label for track, label in of_track):
            metadata = result.metadata
            raise InputError(
                f"cell {metadata.variant}, fold {metadata.fold}, seed {metadata.seed} is of other tracks than "
                f"{first.metadata.variant}, fold {first.metadata.fold}: choose another --folder for other music"
            )


def _tracks(result: CellResult, tracks: str) -> list[Track]:
    return [track for track in zip(result.ids, result.splits, strict=True) if track[1] in SPLITS[tracks]]


def _row(variant: str, first: Results, against: str | None = None, second: Results | None = None) -> Row:
    estimates = {}
    for tracks in SPLITS:
        evaluated = list(dict.fromkeys(track for result in first.values() for track in _tracks(result, tracks)))
        if not evaluated:
            continue
        for measure, values_of in MEASURES.items():
            values = values_of(first, evaluated)
            if second:
                values = values - values_of(second, evaluated)
            estimates[tracks, measure] = statistics.estimate(values)
    return Row(variant, against, len(first), estimates)


def _by_training(column: Callable[[CellResult], np.ndarray], results: Results, tracks: Sequence[Track]) -> np.ndarray:
    """A column of each training's tracks, shape (R, T), NaN where a track is not in it."""
    values = np.full((len(results), len(tracks)), np.nan)
    position = {track: index for index, track in enumerate(tracks)}
    splits = {split for _, split in tracks}
    for row, key in enumerate(sorted(results)):
        result = results[key]
        cells = zip(result.ids, result.splits, column(result), strict=True)
        for name, split, value in cells:
            if split in splits:
                values[row, position[name, split]] = value
    return values


def _of_ensemble(results: Results, tracks: Sequence[Track]) -> np.ndarray:
    """Whether the mean probabilities of the trainings that were evaluated on a track are right, shape (1, T)."""
    class_names = next(iter(results.values())).class_names
    sums = np.zeros((len(tracks), len(class_names)))
    labels = np.zeros(len(tracks), np.int64)
    position = {track: index for index, track in enumerate(tracks)}
    splits = {split for _, split in tracks}
    for key in sorted(results):
        result = results[key]
        for name, split, label, probs in zip(result.ids, result.splits, result.labels, result.probs, strict=True):
            if split in splits:
                sums[position[name, split]] += probs
                labels[position[name, split]] = class_names.index(label)
    return (sums.argmax(axis=1) == labels).astype(float)[None]


MEASURES: dict[str, Callable[[Results, Sequence[Track]], np.ndarray]] = {
    "network": partial(_by_training, lambda result: result.correct),
    "windows": partial(_by_training, lambda result: result.window_accuracy),
    "ensemble": _of_ensemble,
}
