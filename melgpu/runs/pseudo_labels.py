"""Selects the test tracks that become training tracks of the next round, by confidence and votes.

Only tracks of the public test set are eligible: training tracks have a label and a fold of their own, so a
pseudo-labelled track is never in a validation set.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from melgpu import files
from melgpu.recipe_schema import PseudoSpec

COLUMNS = ("id", "label", "confidence", "votes", "round", "recipe_digest")


@dataclass(frozen=True)
class PseudoLabel:
    """A test track, its predicted class, the confidence, and the votes of the networks for this class (`5/6`)."""

    id: str
    label: str
    confidence: float
    votes: str


def select(
    ids: list[str], probs: np.ndarray, votes: np.ndarray, class_names: list[str], spec: PseudoSpec
) -> list[PseudoLabel]:
    """The tracks with sufficient confidence and agreement, in their order.

    probs (N, C) are those of the final predictor, votes (V, N) the classes predicted by V networks.
    """
    predicted = probs.argmax(axis=1)
    confidence = probs.max(axis=1)
    agreeing = (votes == predicted).sum(axis=0)
    min_votes = spec.agreement * len(votes) - 1e-9  # a margin for rounding: 0.28 * 25 is above 7
    selected = (confidence > spec.threshold) & (agreeing >= min_votes)
    if spec.max_per_class:
        ranks = _rank_in_class(predicted, np.where(selected, confidence, -1))  # -1: behind all selected tracks
        selected &= ranks < spec.max_per_class
    return [
        PseudoLabel(ids[row], class_names[predicted[row]], float(confidence[row]), f"{agreeing[row]}/{len(votes)}")
        for row in np.flatnonzero(selected)
    ]


def _rank_in_class(classes: np.ndarray, confidence: np.ndarray) -> np.ndarray:
    """Each row's rank by confidence in its class, from 0; ties by row; shape (N,)."""
    order = np.lexsort([-confidence, classes])  # by class first: the last key is the primary one
    first = np.searchsorted(classes[order], classes[order])  # where each row's class begins in this order
    ranks = np.empty(len(order), np.int64)
    ranks[order] = np.arange(len(order)) - first
    return ranks


def save(labels: list[PseudoLabel], path: Path, round_number: int, recipe_digest: str) -> None:
    rows = (
        (label.id, label.label, f"{label.confidence:.6f}", label.votes, round_number, recipe_digest) for label in labels
    )
    files.write_csv(path, COLUMNS, rows)


def load(path: Path, round_number: int, recipe_digest: str) -> list[PseudoLabel]:
    """The pseudo labels of this round and recipe. Raises InputError for a malformed file or one of another run."""
    with files.read_csv(path, "a file of pseudo labels", COLUMNS) as (_, rows):
        labels = [PseudoLabel(name, label, float(confidence), votes) for name, label, confidence, votes, *_ in rows]
        if any(row[4:] != [str(round_number), recipe_digest] for row in rows):
            raise ValueError(f"not of round {round_number} or of recipe {recipe_digest}")
        if not all(0 <= label.confidence <= 1 for label in labels):
            raise ValueError("a confidence outside [0, 1]")
        if len({label.id for label in labels}) < len(labels):
            raise ValueError("a track is listed twice")
    return labels
