"""The contract between models and stacking: ids, probabilities, the hash of what made them; load, save, average, align.

Probabilities are kept per window, in float32; a track's are the mean over its windows. Files are .npz without pickle.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from melgpu import files
from melgpu.errors import InputError, one_line

SCHEMA = {  # kind of numpy dtype and number of axes
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
    """What one model says of W windows of N tracks; the windows of a track stand together, in order of time.

    ids (N,); splits (N,): `train` (the model was fitted on it), `valid`, `public`, `private`;
    lost (N,) bool: the file gave nothing, its answer is the training tracks' distribution of classes;
    num_windows (N,), at least 1; probs (W, C) with W = sum of num_windows; class_names (C,);
    source: model, fold, round, and the hashes of recipe, pseudo labels (or `none`) and checkpoint.
    """

    ids: tuple[str, ...]
    splits: tuple[str, ...]
    unusable: np.ndarray
    num_windows: np.ndarray
    probs: np.ndarray
    class_names: tuple[str, ...]
    provenance: dict

    def __post_init__(self):
        assert len(self.ids) == len(self.splits) == len(self.unusable) == len(self.num_windows), (
            "columns differ in length"
        )
        assert self.probs.shape == (self.num_windows.sum(), len(self.class_names)), "columns differ in length"
        assert isinstance(self.provenance, dict), "it does not say what made it"

    @property
    def track_probs(self) -> np.ndarray:
        """Mean over each track's windows, shape (N, C), float64."""
        return np.add.reduceat(self.probs.astype(np.float64), self._first, axis=0) / self.num_windows[:, None]

    @property
    def _first(self) -> np.ndarray:
        """Each track's first window, shape (N,)."""
        return np.cumsum(self.num_windows) - self.num_windows

    def in_order(self, tracks: Iterable[tuple[str, str]]) -> "Predictions":
        """The same in the order of a manifest's (id, split), where its tracks are these; else as it is."""
        kinds = ("train" if split == "valid" else split for split in self.splits)
        rows, wanted = {key: row for row, key in enumerate(zip(self.ids, kinds, strict=True))}, list(tracks)
        if rows.keys() != set(wanted) or not len(rows) == len(self.ids) == len(wanted):
            return self
        order = np.array([rows[key] for key in wanted])
        windows = [np.arange(self._first[row], self._first[row] + self.num_windows[row]) for row in order]
        ids, splits = (tuple(column[row] for row in order) for column in (self.ids, self.splits))
        num_windows, probs = self.num_windows[order], self.probs[np.concatenate(windows)]
        return replace(
            self, ids=ids, splits=splits, unusable=self.unusable[order], num_windows=num_windows, probs=probs
        )


def save(predictions: Predictions, path: Path) -> None:
    columns = {name: np.array(getattr(predictions, name), np.str_) for name in ("ids", "splits", "class_names")}
    numbers = {"unusable": predictions.unusable, "num_windows": predictions.num_windows}
    source = np.array(json.dumps(predictions.provenance))
    files.save_arrays(path, {**columns, **numbers, "probs": predictions.probs.astype(np.float32), "provenance": source})


def load(path: Path) -> Predictions:
    """Raises InputError for a damaged or foreign file."""
    try:
        data = _arrays(path)
        columns = {name: tuple(data[name].tolist()) for name in ("ids", "splits", "class_names")}
        return Predictions(**{**data, **columns, "provenance": json.loads(str(data["provenance"]))})
    except Exception as error:  # zipfile, zlib, numpy and json each have their own
        raise InputError(f"{path}: damaged or no predictions ({one_line(error)})") from None


def _arrays(path: Path) -> dict[str, np.ndarray]:
    """A file's arrays in the form that they must have. Raises ValueError, among others."""
    data = files.load_arrays(path, SCHEMA)
    files.check_probabilities(data["probs"])
    probs, num_windows = data["probs"], data["num_windows"]
    if not ((num_windows >= 1) & (num_windows <= len(probs))).all() or num_windows.sum() != len(probs):
        raise ValueError("the windows of the tracks are not those of the probabilities")
    return data


def align(members: list[Predictions], ids: tuple[str, ...], class_names: list[str], wanted: dict) -> np.ndarray:
    """Track probabilities of K models of one fold, shape (N, K, C), for the tracks `ids` in their order.

    Raises InputError that names every model that is of other tracks or classes, that says something else of itself
    (`source`) than `wanted`, or that saw another split of the tracks than the first.
    """
    first, problems = members[0], []
    for member in members:
        name = f"predictions of {member.provenance.get('backbone')}, fold {member.provenance.get('fold')}"
        if member.ids != ids:
            problems.append(f"{name}: {_track_difference(member.ids, ids)}")
        if list(member.class_names) != class_names:
            problems.append(f"{name}: its classes are {', '.join(member.class_names)}, not {', '.join(class_names)}")
        problems += [
            f"{name}: made with {key} {member.provenance.get(key)}, not {value}"
            for key, value in wanted.items()
            if member.provenance.get(key) != value
        ]
        if member.splits != first.splits:
            problems.append(f"{name}: was trained on other tracks than {first.provenance.get('backbone')}")
    if problems:
        raise InputError(problems)
    return np.stack([member.track_probs for member in members], axis=1)


def _track_difference(own: tuple[str, ...], wanted: tuple[str, ...]) -> str:
    missing, foreign = [i for i in wanted if i not in set(own)], [i for i in own if i not in set(wanted)]
    if not missing and not foreign:
        return "the same tracks in another order"
    parts = (("lacks", missing), ("has unknown", foreign))
    return "; ".join(f"{verb} {len(names)} tracks ({', '.join(names[:3])})" for verb, names in parts if names)
