"""Selects the test tracks that become training tracks of the next round, by confidence and votes.

Only tracks of the public test set are eligible: training tracks have a label and a fold of their own, so a
pseudo-labelled track is never in a validation set.

A hard pseudo label is the predicted class. A soft one is the final prediction p, sharpened: p^power, normalised
(Berthelot et al., "MixMatch", 2019, section 3.2; power is 1 / temperature). Its confidence before that is the weight
of the track in the loss. The file then has a column more for each class.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from melgpu import files
from melgpu.recipe_schema import PseudoSpec

COLUMNS = ("id", "label", "confidence", "votes", "round", "recipe_digest")
MAX_ROUNDING = 1e-6  # of a probability in the file


@dataclass(frozen=True)
class PseudoLabel:
    """A test track, its predicted class, the confidence, and the votes of the networks for this class (`5/6`).

    distribution : of a soft pseudo label, in the order of the classes; empty where it is hard
    """

    id: str
    label: str
    confidence: float
    votes: str
    distribution: tuple[float, ...] = ()


def soft_classes(spec: PseudoSpec, class_names: Sequence[str]) -> Sequence[str]:
    """The classes of the distributions of pseudo labels: none where these are hard."""
    return class_names if spec.kind == "soft" else ()


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
    distributions = sharpened(probs, spec.power) if spec.kind == "soft" else np.empty((len(probs), 0))
    labels = []
    for row in np.flatnonzero(selected).tolist():
        label = class_names[predicted[row]]
        support = f"{agreeing[row]}/{len(votes)}"
        distribution = tuple(distributions[row].tolist())
        labels.append(PseudoLabel(ids[row], label, float(confidence[row]), support, distribution))
    return labels


def sharpened(probs: np.ndarray, power: float) -> np.ndarray:
    """Probabilities (N, C) to a power, normalised."""
    powered = (probs / probs.max(axis=1, keepdims=True)) ** power  # 1 for the largest: nothing underflows to a sum of 0
    return powered / powered.sum(axis=1, keepdims=True)


def _rank_in_class(classes: np.ndarray, confidence: np.ndarray) -> np.ndarray:
    """Each row's rank by confidence in its class, from 0; ties by row; shape (N,)."""
    order = np.lexsort([-confidence, classes])  # by class first: the last key is the primary one
    first = np.searchsorted(classes[order], classes[order])  # where each row's class begins in this order
    ranks = np.empty(len(order), np.int64)
    ranks[order] = np.arange(len(order)) - first
    return ranks


def save(
    labels: list[PseudoLabel], path: Path, round_number: int, recipe_digest: str, soft_classes: Sequence[str] = ()
) -> None:
    """Write pseudo labels, those with distributions over `soft_classes` if there are any."""
    rows = []
    for label in labels:
        distribution = [f"{probability:.6f}" for probability in label.distribution]
        columns = label.id, label.label, f"{label.confidence:.6f}", label.votes, round_number, recipe_digest
        rows.append((*columns, *distribution))
    files.write_csv(path, _columns(soft_classes), rows)


def load(path: Path, round_number: int, recipe_digest: str, soft_classes: Sequence[str] = ()) -> list[PseudoLabel]:
    """The pseudo labels of this round and recipe, with distributions over `soft_classes` if there are any.

    Raises InputError for a malformed file or one of another run.
    """
    with files.read_csv(path, "a file of pseudo labels", _columns(soft_classes)) as (_, rows):
        labels = []
        for name, class_name, confidence, votes, _, _, *distribution in rows:
            labels.append(PseudoLabel(name, class_name, float(confidence), votes, tuple(map(float, distribution))))
        if any(row[4:6] != [str(round_number), recipe_digest] for row in rows):
            raise ValueError(f"not of round {round_number} or of recipe {recipe_digest}")
        if not all(0 <= label.confidence <= 1 for label in labels):
            raise ValueError("a confidence outside [0, 1]")
        if len({label.id for label in labels}) < len(labels):
            raise ValueError("a track is listed twice")
        for label in labels:
            _check_distribution(label, soft_classes)
    return labels


def _columns(soft_classes: Sequence[str]) -> tuple[str, ...]:
    return (*COLUMNS, *(f"p({name})" for name in soft_classes))


def _check_distribution(label: PseudoLabel, soft_classes: Sequence[str]) -> None:
    """Raise ValueError where the distribution is none over these classes, or its most probable class not the label."""
    if len(label.distribution) != len(soft_classes):
        raise ValueError(f"{label.id} has {len(label.distribution)} probabilities for {len(soft_classes)} classes")
    if not soft_classes:
        return
    probability_of = dict(zip(soft_classes, label.distribution, strict=True))
    if not all(0 <= probability <= 1 for probability in probability_of.values()):
        raise ValueError(f"{label.id} has a probability outside [0, 1]")
    if abs(sum(probability_of.values()) - 1) > MAX_ROUNDING * len(soft_classes):
        raise ValueError(f"the probabilities of {label.id} do not sum to 1")
    if probability_of.get(label.label) != max(probability_of.values()):
        raise ValueError(f"{label.label!r} is not the most probable class of {label.id}")
