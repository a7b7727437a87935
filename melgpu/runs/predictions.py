"""Predictions of one network, the contract between models and stacking: save, load, average over windows, align.

Probabilities are saved per window, in float32; a track's are the mean over its windows. Files are .npz without pickle.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from melgpu import files
from melgpu.errors import InputError, one_line

SCHEMA = {  # kind of numpy dtype, number of axes
    "ids": ("U", 1),
    "splits": ("U", 1),
    "unusable": ("b", 1),
    "num_windows": ("i", 1),
    "probs": ("f", 2),
    "class_names": ("U", 1),
    "provenance": ("U", 0),
}


@dataclass(frozen=True)
class Predictions:
    """One network's probabilities of W windows of N tracks; the windows of a track are contiguous, in order of time.

    ids (N,); splits (N,): `train` (the model was fitted on it), `valid`, `public`, `private`;
    unusable (N,) bool: no usable audio, the probabilities are the class prior of the training tracks;
    num_windows (N,), at least 1; probs (W, C) with W = sum of num_windows; class_names (C,);
    provenance: backbone, fold, round, and the digests of recipe, pseudo labels (or `none`) and checkpoint.
    """

    ids: tuple[str, ...]
    splits: tuple[str, ...]
    unusable: np.ndarray
    num_windows: np.ndarray
    probs: np.ndarray
    class_names: tuple[str, ...]
    provenance: dict

    def __post_init__(self):
        lengths = {len(self.ids), len(self.splits), len(self.unusable), len(self.num_windows)}
        probs_shape = (self.num_windows.sum(), len(self.class_names))
        if len(lengths) != 1 or self.probs.shape != probs_shape:
            raise ValueError("columns differ in length")
        if not isinstance(self.provenance, dict):
            raise ValueError("provenance is not a table")

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

    def reordered_to(self, tracks: Iterable[tuple[str, str]]) -> "Predictions":
        """Reordered to a manifest's (id, split) if they are the same tracks; else unchanged."""
        # A manifest has no validation split, which depends on the fold.
        manifest_splits = ("train" if split == "valid" else split for split in self.splits)
        rows = {key: row for row, key in enumerate(zip(self.ids, manifest_splits, strict=True))}
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


def save(predictions: Predictions, path: Path) -> None:
    arrays = {name: np.array(getattr(predictions, name), np.str_) for name in ("ids", "splits", "class_names")}
    arrays |= {"unusable": predictions.unusable, "num_windows": predictions.num_windows}
    arrays["probs"] = predictions.probs.astype(np.float32)
    arrays["provenance"] = np.array(json.dumps(predictions.provenance))  # JSON, since a table would need pickle
    files.save_arrays(path, arrays)


def load(path: Path) -> Predictions:
    """Raises InputError for a malformed file."""
    try:
        data = _load_arrays(path)
        strings = {name: tuple(data[name].tolist()) for name in ("ids", "splits", "class_names")}
        provenance = json.loads(str(data["provenance"]))
        return Predictions(**{**data, **strings, "provenance": provenance})
    except Exception as error:  # zipfile, zlib, numpy and json raise their own
        raise InputError(f"{path}: not a file of predictions ({one_line(error)})") from None


def _load_arrays(path: Path) -> dict[str, np.ndarray]:
    """The validated arrays of a file. Raises ValueError, among others."""
    data = files.load_arrays(path, SCHEMA)
    files.check_probabilities(data["probs"])
    probs = data["probs"]
    num_windows = data["num_windows"]
    is_count = (num_windows >= 1) & (num_windows <= len(probs))  # huge ones could overflow to the right sum
    if not is_count.all() or num_windows.sum() != len(probs):
        raise ValueError("num_windows does not match probs")
    return data


def align(members: list[Predictions], ids: tuple[str, ...], class_names: list[str], provenance: dict) -> np.ndarray:
    """Track probabilities of K networks of one fold, shape (N, K, C), for the tracks `ids` in their order.

    Raises InputError with every network that has other tracks or classes, whose provenance differs from `provenance`,
    or that was trained on another split of the tracks than the first.
    """
    first = members[0]
    problems = []
    for member in members:
        name = f"predictions of {member.provenance.get('backbone')}, fold {member.provenance.get('fold')}"
        if member.ids != ids:
            problems.append(f"{name}: {_track_difference(member.ids, ids)}")
        if list(member.class_names) != class_names:
            problems.append(f"{name}: its classes are {', '.join(member.class_names)}, not {', '.join(class_names)}")
        problems += [
            f"{name}: made with {key} {member.provenance.get(key)}, not {value}"
            for key, value in provenance.items()
            if member.provenance.get(key) != value
        ]
        if member.splits != first.splits:  # the splits tell which tracks are training tracks
            problems.append(f"{name}: was trained on other tracks than {first.provenance.get('backbone')}")
    if problems:
        raise InputError(problems)
    return np.stack([member.track_probs for member in members], axis=1)


def _track_difference(ids: tuple[str, ...], expected: tuple[str, ...]) -> str:
    present_ids = set(ids)
    expected_ids = set(expected)
    missing = [name for name in expected if name not in present_ids]
    unknown = [name for name in ids if name not in expected_ids]
    if not missing and not unknown:
        return "the same tracks in another order"
    parts = (("lacks", missing), ("has unknown", unknown))  # the message names three tracks of each
    return "; ".join(f"{verb} {len(names)} tracks ({', '.join(names[:3])})" for verb, names in parts if names)
