"""The tracks of a round: the manifest, in which test tracks have the pseudo labels that the round trains on."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from melgpu.data import manifest
from melgpu.data.manifest import Manifest, Split
from melgpu.errors import InputError
from melgpu.runs import pseudo_labels


@dataclass(frozen=True)
class RoundTracks:
    """The manifest with pseudo labels, their rows, shape (P,), and a short hash of them, or `none`."""

    manifest: Manifest
    pseudo_rows: np.ndarray
    pseudo_digest: str


def load(tracks: Manifest, path: Path | None, round_number: int, recipe_digest: str) -> RoundTracks:
    """The tracks of a round with the pseudo labels in the file at `path`, that of the round before; None for none.

    Raises InputError with every pseudo label that is not of a public test track, or of an unknown class.
    """
    if path is None:
        return RoundTracks(tracks, np.empty(0, np.int64), "none")
    selected = pseudo_labels.load(path, round_number - 1, recipe_digest)
    digest = hashlib.sha256(repr(selected).encode()).hexdigest()[:16]
    public = {tracks.ids[row]: row for row in tracks.rows(Split.PUBLIC).tolist()}
    class_names = tracks.class_names
    problems = [f"{path}: {pseudo.id} is not a public test track" for pseudo in selected if pseudo.id not in public]
    problems += [f"{path}: {pseudo.label!r} is not a class" for pseudo in selected if pseudo.label not in class_names]
    if problems:
        raise InputError(problems)
    rows = [public[pseudo.id] for pseudo in selected]
    labels = [pseudo.label for pseudo in selected]
    return RoundTracks(manifest.with_labels(tracks, rows, labels), np.array(rows, np.int64), digest)
