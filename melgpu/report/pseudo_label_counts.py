"""The pseudo labels that a round selected for the next one: how many of each class, how certain, how many correct."""

from dataclasses import dataclass

from melgpu.data.manifest import Split
from melgpu.runs.formats import pseudo_labels
from melgpu.runs.formats.pseudo_labels import PseudoLabel
from melgpu.runs.run import Run


@dataclass(frozen=True)
class PseudoLabelCounts:
    """The pseudo labels of one class.

    count : how many
    min_confidence, mean_confidence : of the final predictor
    unanimous : how many have the votes of all networks
    correct, labelled : how many are correct, of those whose label is known
    """

    name: str
    count: int
    min_confidence: float
    mean_confidence: float
    unanimous: int
    correct: int
    labelled: int


def count_by_class(run: Run, round_number: int) -> list[PseudoLabelCounts] | None:
    """The pseudo labels that a round selected for the next one, by class; None before it did. Raises InputError."""
    path = run.paths.pseudo_labels(round_number)
    if not path.exists():
        return None
    public = run.manifest.rows(Split.PUBLIC).tolist()
    true_labels = {run.manifest.ids[row]: run.manifest.labels[row] for row in public}
    soft_classes = pseudo_labels.soft_classes(run.recipe.pseudo, run.class_names)
    selected = pseudo_labels.load(path, round_number, run.recipe.digest(), soft_classes)
    counts = []
    for name in run.class_names:
        of_class = [pseudo for pseudo in selected if pseudo.label == name]
        counts.append(_count(name, of_class, true_labels))
    return counts


def _count(name: str, of_class: list[PseudoLabel], true_labels: dict[str, str]) -> PseudoLabelCounts:
    confidences = [pseudo.confidence for pseudo in of_class] or [0.0]  # a class may have no pseudo labels
    known = [true_labels[pseudo.id] for pseudo in of_class if true_labels.get(pseudo.id)]
    return PseudoLabelCounts(
        name=name,
        count=len(of_class),
        min_confidence=min(confidences),
        mean_confidence=sum(confidences) / len(confidences),
        unanimous=sum(len(set(pseudo.votes.split("/"))) == 1 for pseudo in of_class),
        correct=known.count(name),
        labelled=len(known),
    )


def total(classes: list[PseudoLabelCounts]) -> PseudoLabelCounts:
    """The counts of all classes together."""
    sums = dict.fromkeys(("count", "unanimous", "correct", "labelled"), 0)
    for counts in classes:
        for name in sums:
            sums[name] += getattr(counts, name)
    mean_confidence = sum(counts.mean_confidence * counts.count for counts in classes) / max(1, sums["count"])
    # Without the classes that have none: their confidence of 0 is no minimum.
    min_confidence = min((counts.min_confidence for counts in classes if counts.count), default=0.0)
    return PseudoLabelCounts("all", min_confidence=min_confidence, mean_confidence=mean_confidence, **sums)
