"""Which test tracks become training tracks of the next round, and the record of why.

Only tracks of the public test set are eligible: a training track keeps its own label and its fold, so a pseudo track
can never enter a validation set.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from melgpu import files
from melgpu.recipe import PseudoSpec

COLUMNS = ("id", "label", "confidence", "votes", "round", "recipe_digest")


@dataclass(frozen=True)
class PseudoLabel:
    """A test track, the label it was given, how sure the answer was, and how many networks say so (`5/6`)."""

    id: str
    label: str
    confidence: float
    votes: str


def select(
    ids: list[str], probs: np.ndarray, votes: np.ndarray, class_names: list[str], spec: PseudoSpec
) -> list[PseudoLabel]:
    """The tracks of which answer and networks are sure enough, in their order.

    probs (N, C) are the answer's, votes (V, N) the classes that V networks find likeliest.
    """
    top, sure = probs.argmax(axis=1), probs.max(axis=1)
    agreeing = (votes == top).sum(axis=0)
    chosen = (sure > spec.threshold) & (agreeing >= spec.agreement * len(votes) - 1e-9)  # 0.28 * 25 is above 7
    if spec.max_per_class:
        chosen &= _rank_in_class(top, np.where(chosen, sure, -1)) < spec.max_per_class
    return [
        PseudoLabel(ids[row], class_names[top[row]], float(sure[row]), f"{agreeing[row]}/{len(votes)}")
        for row in np.flatnonzero(chosen)
    ]


def _rank_in_class(classes: np.ndarray, sure: np.ndarray) -> np.ndarray:
    """How many rows of the same class are surer, or as sure and earlier; shape (N,)."""
    order = np.lexsort([-sure, classes])
    first = np.searchsorted(classes[order], classes[order])
    ranks = np.empty(len(order), np.int64)
    ranks[order] = np.arange(len(order)) - first
    return ranks


def save(labels: list[PseudoLabel], path: Path, round_number: int, recipe_digest: str) -> None:
    rows = ((p.id, p.label, f"{p.confidence:.6f}", p.votes, round_number, recipe_digest) for p in labels)
    files.write_csv(path, COLUMNS, rows)


def load(path: Path, round_number: int, recipe_digest: str) -> list[PseudoLabel]:
    """What `save` wrote for this round and recipe. Raises InputError for a damaged or foreign file."""
    with files.read_csv(path, "a file of pseudo labels", COLUMNS) as (_, rows):
        labels = [PseudoLabel(name, label, float(confidence), votes) for name, label, confidence, votes, *_ in rows]
        if any(row[4:] != [str(round_number), recipe_digest] for row in rows):
            raise ValueError(f"not of round {round_number} or of recipe {recipe_digest}")
        if not all(0 <= label.confidence <= 1 for label in labels):
            raise ValueError("a confidence outside [0, 1]")
        if len({label.id for label in labels}) < len(labels):
            raise ValueError("a track is named twice")
    return labels
