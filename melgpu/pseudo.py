"""Which test tracks become training tracks of the next round, and the record of why.

Only tracks of the public test set are eligible: a training track keeps its own label and its fold, so a pseudo track
can never enter a validation set.
"""

import csv
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from melgpu import files
from melgpu.errors import InputError, brief

COLUMNS = ("id", "label", "probability", "round", "recipe")


@dataclass(frozen=True)
class PseudoLabel:
    """A test track, the label it was given and how sure the blend was."""

    id: str
    label: str
    probability: float


def select(ids: list[str], probs: np.ndarray, class_names: list[str], threshold: float) -> list[PseudoLabel]:
    """The tracks whose top probability exceeds the threshold; probs (N, C)."""
    top = probs.argmax(axis=1)
    return [
        PseudoLabel(ids[row], class_names[top[row]], float(probs[row, top[row]]))
        for row in np.flatnonzero(probs.max(axis=1) > threshold)
    ]


def save(labels: list[PseudoLabel], path: Path, round_number: int, recipe_digest: str) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    writer.writerows((p.id, p.label, f"{p.probability:.6f}", round_number, recipe_digest) for p in labels)
    files.write_text(path, text.getvalue())


def load(path: Path, round_number: int, recipe_digest: str) -> list[PseudoLabel]:
    """What `save` wrote for this round and recipe. Raises InputError for a damaged or foreign file."""
    try:
        header, *rows = csv.reader(io.StringIO(files.read_text(path), newline=""))
        if tuple(header) != COLUMNS:
            raise ValueError(f"its columns are {', '.join(header)}")
        labels = [PseudoLabel(name, label, float(probability)) for name, label, probability, *_ in rows]
        if any(row[3:] != [str(round_number), recipe_digest] for row in rows):
            raise ValueError(f"not of round {round_number} or of recipe {recipe_digest}")
        if not all(0 <= label.probability <= 1 for label in labels):
            raise ValueError("a probability that is none")
        if len({label.id for label in labels}) < len(labels):
            raise ValueError("a track is named twice")
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{path}: not a file of pseudo labels: {brief(error)}") from None
    return labels
