"""Predictions of one network, the contract between models and stacking: save, load, average over windows, align.

Probabilities are saved per window, in float32; a track's are the mean over its windows. Files are .npz without pickle.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np

from melgpu.data.manifest import Split
from melgpu.errors import InputError
from melgpu.models.metadata import NetworkProvenance
from melgpu.runs.formats.npz import Array, Flags, Integers, NpzFormat


@dataclass(frozen=True)
class Predictions:
    """One network's probabilities of W windows of N tracks; the windows of a track are contiguous, in order of time.

    ids (N,); splits (N,): with respect to the network's fold; unusable (N,) bool: no usable audio, the probabilities
    are those of silence; num_windows (N,), at least 1; probs (W, C) with W = sum of num_windows; class_names (C,).
    """

    ids: tuple[str, ...]
    splits: tuple[Split, ...]
    unusable: Flags
    num_windows: Integers
    probs: Annotated[np.ndarray, Array("f", 2)]
    class_names: tuple[str, ...]
    provenance: NetworkProvenance

    def __post_init__(self) -> None:
        is_count = (self.num_windows >= 1) & (self.num_windows <= len(self.probs))  # huge ones could overflow the sum
        if not is_count.all() or self.num_windows.sum() != len(self.probs):
            raise ValueError("num_windows does not match probs")
        lengths = {len(self.ids), len(self.splits), len(self.unusable), len(self.num_windows)}
        if len(lengths) != 1 or self.probs.shape[1] != len(self.class_names):
            raise ValueError("columns differ in length")

    @property
    def track_probs(self) -> np.ndarray:
        """Mean over each track's windows, shape (N, C), float64."""
        # From each first window to the next; right only since every track has at least one window.
        sums = np.add.reduceat(self.probs.astype(np.float64), self._first_windows, axis=0)
        return sums / self.num_windows[:, None]

    @property
    def _first_windows(self) -> np.ndarray:
        """The row of each track's first window, shape (N,)."""
        return np.cumsum(self.num_windows) - self.num_windows

    def reordered_to(self, tracks: Iterable[tuple[str, Split]]) -> "Predictions":
        """Reordered to the (id, split) of tracks if they are the same tracks; else unchanged."""
        rows = {key: row for row, key in enumerate(zip(self.ids, self.splits, strict=True))}
        keys = list(tracks)
        # Equal lengths, too: a track that occurs twice has no row of its own.
        if rows.keys() != set(keys) or not len(rows) == len(self.ids) == len(keys):
            return self
        order = np.array([rows[key] for key in keys])
        first = self._first_windows
        windows = [np.arange(first[row], first[row] + self.num_windows[row]) for row in order]
        ids = tuple(self.ids[row] for row in order)
        splits = tuple(self.splits[row] for row in order)
        return replace(
            self,
            ids=ids,
            splits=splits,
            unusable=self.unusable[order],
            num_windows=self.num_windows[order],
            probs=self.probs[np.concatenate(windows)],
        )


NPZ = NpzFormat(Predictions, "a file of predictions", "delete it to predict again")


def save(predictions: Predictions, path: Path) -> None:
    """Write predictions, in float32."""
    NPZ.save(replace(predictions, probs=predictions.probs.astype(np.float32)), path)


def load(path: Path) -> Predictions:
    """Raises InputError for a malformed file."""
    return NPZ.load(path)


def load_provenance(path: Path) -> NetworkProvenance:
    """The provenance of a file of predictions, whose other arrays are not read. Raises InputError."""
    return NPZ.load_field(path, "provenance")


def align(
    members: Sequence[Predictions],
    provenances: Sequence[NetworkProvenance],
    tracks: Sequence[tuple[str, Split]],
    class_names: Sequence[str],
) -> np.ndarray:
    """Track probabilities of K networks of one fold, shape (N, K, C), for the (id, split) of N tracks in their order.

    Raises InputError with every network that has other tracks, splits, classes or provenance than these.
    """
    problems = []
    for member, provenance in zip(members, provenances, strict=True):
        differences = member.provenance.differences(provenance)
        if tuple(zip(member.ids, member.splits, strict=True)) != tuple(tracks):
            differences.append(_track_difference(member, tracks))
        if list(member.class_names) != list(class_names):
            differences.append(f"its classes are {', '.join(member.class_names)}, not {', '.join(class_names)}")
        name = f"predictions of {provenance.backbone}, fold {provenance.fold}"
        problems += [f"{name}: {difference}" for difference in differences]
    if problems:
        raise InputError(problems)
    return np.stack([member.track_probs for member in members], axis=1)


def _track_difference(member: Predictions, tracks: Sequence[tuple[str, Split]]) -> str:
    expected_ids = tuple(name for name, _ in tracks)
    if member.ids == expected_ids:
        return "was trained on other tracks"
    present = set(member.ids)
    expected = set(expected_ids)
    missing = [name for name in expected_ids if name not in present]
    unknown = [name for name in member.ids if name not in expected]
    if not missing and not unknown:
        return "the same tracks in another order"
    parts = (("lacks", missing), ("has unknown", unknown))  # the message names three tracks of each
    return "; ".join(f"{verb} {len(names)} tracks ({', '.join(names[:3])})" for verb, names in parts if names)
