"""What a run's rounds found, as numbers: scores by fold, what pseudo labels were worth, where classes are confused."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from melgpu.errors import InputError
from melgpu.metrics import bootstrap_interval, confusion_counts, sign_test, wilson_interval
from melgpu.runs import predictions, pseudo_labels
from melgpu.runs.run import Job, Run, class_indices
from melgpu.stacking import evaluation
from melgpu.stacking.evaluation import SPLITS, RoundEvaluation
from melgpu.training import checkpointing
from melgpu.training.loop import STAGES

PREDICTOR_NAMES = {
    "mean": "mean of the networks",
    "cnn": "stacker: CNN",
    "skip_cnn": "stacker: CNN with skips",
    "lightgbm": "stacker: LightGBM",
    "blend": "blend of the stackers",
    "fitted blend": "blend, weights fitted",
}


@dataclass(frozen=True)
class RoundResult:
    """A stacked round, with or without pseudo labels, and what was judged in it."""

    run: Run
    number: int
    evaluation: RoundEvaluation

    @property
    def title(self) -> str:
        return f"Round {self.number}{self.run.variant}"

    @property
    def key(self) -> str:
        """For links."""
        return self.run.round_folder(self.number).name

    @property
    def final_predictor(self) -> str:
        """The judge that counts."""
        return self.evaluation.provenance["final_predictor"]

    def kind(self, judge: str) -> str:
        """`network`, `mean`, `stacker`, or `blend`."""
        if judge in self.run.spec(self.number).backbones:
            return "network"
        return "blend" if judge.endswith("blend") else "mean" if judge == "mean" else "stacker"


def round_results(run: Run) -> list[RoundResult]:
    """The stacked rounds, the last one first, each before the same round without pseudo labels. Raises InputError."""
    other, numbers = replace(run, without_pseudo=True), range(len(run.recipe.rounds), 0, -1)
    places = [(own, number) for number in numbers for own in ((run, other) if number > 1 else (run,))]
    return [_round_result(own, number) for own, number in places if own.is_stacked(number)]


def _round_result(run: Run, number: int) -> RoundResult:
    path = run.evaluation_path(number)
    found = evaluation.load(path)
    known = {
        (name, _evaluation_split(split)) for name, split in zip(run.manifest.ids, run.manifest.splits, strict=True)
    }
    if list(found.class_names) != run.class_names or not set(zip(found.ids, found.splits, strict=True)) <= known:
        raise InputError(f"{path}: of other tracks or classes than this run's")
    if found.provenance.get("round") != number:
        raise InputError(f"{path}: of another round")
    return RoundResult(run, number, found)


def _evaluation_split(split: str) -> str:
    return "validation" if split == "train" else split


def labelled_splits(result: RoundResult) -> list[str]:
    """Those with known labels."""
    return [split for split in SPLITS if len(result.evaluation.rows(split))]


def fold_scores(result: RoundResult) -> dict[str, dict[int, tuple[float, float | None]]]:
    """{judge: {fold: (accuracy on its validation tracks, on their windows)}}; windows are judged by networks alone."""
    told = result.evaluation
    rows = {fold: told.rows("validation", fold) for fold in result.run.spec(result.number).folds}
    windows = {(job.backbone, job.fold): window_accuracy(result.run, job) for job in result.run.jobs(result.number)}
    return {
        judge: {
            fold: (float(np.mean(told.probs[j, own].argmax(1) == told.labels[own])), windows.get((judge, fold)))
            for fold, own in rows.items()
            if len(own)
        }
        for j, judge in enumerate(told.predictors)
    }


def window_accuracy(run: Run, job: Job) -> float | None:
    """Share of a network's validation windows that are right, flips included; None where its predictions are gone."""
    if not run.predictions_path(job).exists():
        return None
    said = predictions.load(run.predictions_path(job))
    if said.ids != run.manifest.ids:
        raise InputError(f"{run.predictions_path(job)}: not of this run's tracks")
    labels = class_indices(run.manifest, run.class_names)
    counts = (np.array(said.splits) == "valid") & ~said.unusable & (labels >= 0)
    chosen = np.repeat(counts, said.num_windows)
    right = said.probs.argmax(1) == np.repeat(labels, said.num_windows)
    return float(right[chosen].mean()) if chosen.any() else None


@dataclass(frozen=True)
class Comparison:
    """Accuracy of one judge with and without something, on the same tracks: the difference, its 95 % interval, and how
    probable one as large is by chance.
    """

    before: float
    after: float
    gain: float
    interval: tuple[float, float]
    p: float
    tracks: int
    pseudo_labelled: int


def compare(before: RoundEvaluation, after: RoundEvaluation) -> dict[str, dict[str, Comparison]]:
    """{judge: {split: what changed}} on the tracks with known labels that both judged."""
    places = {key: row for row, key in enumerate(zip(before.ids, before.splits, strict=True))}
    found: dict[str, dict[str, Comparison]] = {}
    for judge in (judge for judge in after.predictors if judge in before.predictors):
        for split in SPLITS:
            keys = [(row, places.get((after.ids[row], split))) for row in after.rows(split).tolist()]
            pairs = np.array([pair for pair in keys if None not in pair], int)
            if len(pairs):
                found.setdefault(judge, {})[split] = _compare_predictor(before, after, judge, pairs.T)
    return found


def _compare_predictor(before: RoundEvaluation, after: RoundEvaluation, judge: str, rows: np.ndarray) -> Comparison:
    labels = after.labels[rows[0]]
    new, old = (
        (told.probs[told.predictors.index(judge), own].argmax(1) == labels).astype(float)
        for told, own in ((after, rows[0]), (before, rows[1]))
    )
    gain = new - old
    seen = int(after.pseudo_labelled[rows[0]].sum())
    return Comparison(old.mean(), new.mean(), gain.mean(), bootstrap_interval(gain), sign_test(gain), len(labels), seen)


@dataclass(frozen=True)
class PseudoLabelCounts:
    """The pseudo labels of one class: how many, how sure, how many with all networks' votes; right ones of known."""

    name: str
    count: int
    lowest: float
    mean: float
    unanimous: int
    right: int
    known: int


def pseudo_label_counts(run: Run, round_number: int) -> list[PseudoLabelCounts] | None:
    """What a round chose for the next one, class by class; None where it chose nothing yet. Raises InputError."""
    path = run.pseudo_path(round_number)
    if not path.exists():
        return None
    public = run.manifest.rows("public").tolist()
    truth = {run.manifest.ids[row]: run.manifest.labels[row] for row in public}
    chosen = pseudo_labels.load(path, round_number, run.recipe.digest())
    by_class = {name: [one for one in chosen if one.label == name] for name in run.class_names}
    return [_count_pseudo_labels(name, own, truth) for name, own in by_class.items()]


def _count_pseudo_labels(name: str, own: list[pseudo_labels.PseudoLabel], truth: dict[str, str]) -> PseudoLabelCounts:
    sure = [one.confidence for one in own] or [0.0]
    known = [truth[one.id] for one in own if truth.get(one.id)]
    unanimous = sum(len(set(one.votes.split("/"))) == 1 for one in own)
    return PseudoLabelCounts(name, len(own), min(sure), sum(sure) / len(sure), unanimous, known.count(name), len(known))


def total_counts(classes: list[PseudoLabelCounts]) -> PseudoLabelCounts:
    """Those of all classes together."""
    sums = {name: sum(getattr(one, name) for one in classes) for name in ("count", "unanimous", "right", "known")}
    mean = sum(one.mean * one.count for one in classes) / max(1, sums["count"])
    return PseudoLabelCounts(
        "all", lowest=min((one.lowest for one in classes if one.count), default=0.0), mean=mean, **sums
    )


@dataclass(frozen=True)
class ClassScore:
    """How many tracks of a class were answered with it, and the share's 95 % interval."""

    name: str
    right: int
    tracks: int
    interval: tuple[float, float]


def confusion_matrix(result: RoundResult, split: str) -> np.ndarray:
    """How many tracks of each class (axis 0) were answered with each class (axis 1), shape (C, C)."""
    rows = result.evaluation.rows(split)
    return confusion_counts(
        result.evaluation.final_probs[rows].argmax(1), result.evaluation.labels[rows], len(result.run.class_names)
    )


def class_scores(table: np.ndarray, names: list[str]) -> list[ClassScore]:
    """Recall of each class that occurs."""
    pairs = zip(names, table.diagonal().tolist(), table.sum(axis=1).tolist(), strict=True)
    return [
        ClassScore(n, right, tracks, wilson_interval(right / tracks, tracks)) for n, right, tracks in pairs if tracks
    ]


def most_confused(table: np.ndarray, most: int) -> Iterator[tuple[int, int]]:
    """The pairs (truth, answer) that are confused most often, the most frequent first."""
    wrong = table - np.diag(table.diagonal())
    for place in np.argsort(-wrong, axis=None, kind="stable")[:most].tolist():
        truth, answer = divmod(place, len(table))
        if wrong[truth, answer]:
            yield truth, answer


@dataclass(frozen=True)
class TrainingTime:
    """Training of one backbone in one round, all its folds together.

    seconds : by stage, validation among them
    windows_per_s : trained on, by each process, while it trains; 0 where nothing is known
    """

    backbone: str
    networks: int
    epochs: int
    seconds: dict[str, float]
    windows_per_s: float

    @property
    def total_s(self) -> float:
        return sum(self.seconds.values())


def training_logs(run: Run, round_number: int) -> dict[str, dict[int, list[dict[str, float]]]]:
    """{backbone: {fold: its training's records}}, of trainings that have ended an epoch. Raises InputError."""
    found: dict[str, dict[int, list[dict[str, float]]]] = {}
    for job in run.jobs(round_number):
        if records := checkpointing.load_log(run, job):
            found.setdefault(job.backbone, {})[job.fold] = records
    return found


def training_time(run: Run, backbone: str, folds: dict[int, list[dict[str, float]]]) -> TrainingTime:
    """What a backbone's `logs` add up to."""
    records = [record for log in folds.values() for record in log]
    seconds = {stage: sum(record[f"{stage}_s"] for record in records) for stage in STAGES}
    trained_s = sum(own for stage, own in seconds.items() if stage != "validation")
    steps = sum(record["steps_per_s"] * _trained_s(record) for record in records)  # of resumed epochs what was seen
    batch_size = run.recipe.optim_for(backbone).batch_size
    return TrainingTime(
        backbone, len(folds), len(records), seconds, steps * batch_size / trained_s if trained_s else 0.0
    )


def _trained_s(record: dict[str, float]) -> float:
    return sum(record[f"{stage}_s"] for stage in STAGES if stage != "validation")
