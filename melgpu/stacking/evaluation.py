"""What a round's networks and stackers say of the tracks that they are judged on, and how right they are.

The contract between stacking and the report. Validation tracks are judged by the networks of their own fold and by
stackers that were fitted on other tracks; test tracks by all folds.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from melgpu import files
from melgpu.errors import InputError, one_line
from melgpu.metrics import accuracy, accuracy_interval, bootstrap_interval, sign_test
from melgpu.runs.run import Run, class_indices
from melgpu.stacking.dataset import BasePredictions, StackingSet
from melgpu.stacking.stack import MEAN, Stack, final_predictor

SPLITS = ("validation", "public", "private")
SCHEMA = {
    "predictors": ("U", 1),
    "ids": ("U", 1),
    "splits": ("U", 1),
    "folds": ("i", 1),
    "labels": ("i", 1),
    "pseudo_labelled": ("b", 1),
    "probs": ("f", 3),
    "class_names": ("U", 1),
    "provenance": ("U", 0),
}


@dataclass(frozen=True)
class RoundEvaluation:
    """What J judges say of N tracks.

    judges (J,): each network by its backbone, `mean` (of the networks), the stackers, `blend` (by the recipe's
    weights) and, of two stackers or more, `fitted blend`; ids (N,); splits (N,) of SPLITS; folds (N,): whose validation
    track it is, -1 for test tracks; labels (N,): class numbers, -1 where unknown; trained (N,) bool: the networks were
    fitted to it by a pseudo label; probs (J, N, C); class_names (C,);
    source: round, recipe, protocol, pseudo (see `predictions`), which judge is the `answer`, and the blends' `weights`
    and `fitted_weights` (the mean of all sub-folds').
    """

    predictors: tuple[str, ...]
    ids: tuple[str, ...]
    splits: tuple[str, ...]
    folds: np.ndarray
    labels: np.ndarray
    pseudo_labelled: np.ndarray
    probs: np.ndarray
    class_names: tuple[str, ...]
    provenance: dict

    def __post_init__(self):
        columns = self.ids, self.splits, self.folds, self.labels, self.pseudo_labelled
        assert len(set(map(len, columns))) == 1, "columns differ in length"
        assert self.probs.shape == (len(self.predictors), len(self.ids), len(self.class_names)), (
            "columns differ in length"
        )
        assert set(self.splits) <= set(SPLITS), "an unknown split"
        assert isinstance(self.provenance, dict), "it does not say what made it"
        assert ((self.labels >= -1) & (self.labels < len(self.class_names))).all(), "an unknown class"

    @property
    def final_probs(self) -> np.ndarray:
        """Probabilities (N, C) of the judge that counts."""
        return self.probs[self.predictors.index(self.provenance["final_predictor"])]

    def rows(self, split: str, fold: int | None = None) -> np.ndarray:
        """The rows of a split, or of one fold's validation tracks, whose labels are known."""
        chosen = (np.array(self.splits) == split) & (self.labels >= 0)
        return np.flatnonzero(chosen if fold is None else chosen & (self.folds == fold))

    def scores(self) -> dict[str, dict[str, dict]]:
        """{judge: {split: its score}}, of splits with known labels; JSON data."""
        rows = {split: self.rows(split) for split in SPLITS}
        return {
            judge: {split: self._score(number, own) for split, own in rows.items() if len(own)}
            for number, judge in enumerate(self.predictors)
        }

    def _score(self, judge: int, rows: np.ndarray) -> dict:
        """Accuracy and what is gained over the mean of the networks, with 95 % intervals; the gain's sign test."""
        labels = self.labels[rows]
        right, plain = (
            (self.probs[number, rows].argmax(1) == labels) for number in (judge, self.predictors.index("mean"))
        )
        gain = right.astype(float) - plain
        return {
            "accuracy": accuracy(self.probs[judge, rows], labels),
            "interval": accuracy_interval(right),
            "tracks": len(rows),
            "pseudo_labelled": int(self.pseudo_labelled[rows].sum()),
            "gain": float(gain.mean()),
            "gain_interval": bootstrap_interval(gain),
            "gain_p": sign_test(gain),
        }


def save(judged: RoundEvaluation, path: Path) -> None:
    """Probabilities in full, so that what is read gives the very same scores."""
    columns = {
        name: np.array(getattr(judged, name), np.str_) for name in ("predictors", "ids", "splits", "class_names")
    }
    numbers = {name: getattr(judged, name) for name in ("folds", "labels", "pseudo_labelled", "probs")}
    files.save_arrays(path, {**columns, **numbers, "provenance": np.array(json.dumps(judged.provenance))})


def load(path: Path) -> RoundEvaluation:
    """Raises InputError for a damaged or foreign file."""
    try:
        data = files.load_arrays(path, SCHEMA)
        files.check_probabilities(data["probs"])
        columns = {name: tuple(data[name].tolist()) for name in ("predictors", "ids", "splits", "class_names")}
        judged = RoundEvaluation(**{**data, **columns, "provenance": json.loads(str(data["provenance"]))})
        if not {"mean", judged.provenance.get("final_predictor")} <= set(judged.predictors):
            raise ValueError("a judge is missing")
    except Exception as error:  # zipfile, zlib, numpy and json each have their own
        raise InputError(f"{path}: damaged, or not what was judged ({one_line(error)})") from None
    return judged


def evaluate_round(
    run: Run, number: int, votes: BasePredictions, stacks: list[tuple[StackingSet, Stack]]
) -> RoundEvaluation:
    """What networks, stackers and blends say of each validation track (out of fold) and of each test track."""
    spec, valid, test = run.spec(number), [], []
    for case, stack in stacks:
        valid.append(
            _networks(spec.backbones, case.validation[0]) | stack.out_of_fold(case.validation[0], case.subfolds)
        )
        for fold in case.folds:
            matrix = votes.matrices[fold][run.test_rows]
            test.append(_networks(spec.backbones, matrix) | stack.predict(matrix))
    probs = np.stack(
        [
            np.concatenate([*(own[name] for own in valid), np.mean([own[name] for own in test], axis=0)])
            for name in test[0]
        ]
    )  # (J, N, C)
    rows = np.concatenate([*(case.rows for case, _ in stacks), run.test_rows])
    splits = ["validation" if split == "train" else split for split in run.manifest.splits]
    probs[:, votes.unusable[rows]] = run.prior
    return RoundEvaluation(
        predictors=tuple(test[0]),
        ids=tuple(run.manifest.ids[row] for row in rows),
        splits=tuple(splits[row] for row in rows),
        folds=np.concatenate([*(case.row_folds for case, _ in stacks), np.full(len(run.test_rows), -1)]),
        labels=class_indices(run.manifest, run.class_names)[rows],
        pseudo_labelled=np.isin(rows, run.round_manifest(number)[1]),
        probs=probs,
        class_names=tuple(run.class_names),
        provenance=_provenance(run, number, [stack for _, stack in stacks]),
    )


def _networks(names: tuple[str, ...], matrix: np.ndarray) -> dict[str, np.ndarray]:
    return {name: matrix[:, k] for k, name in enumerate(names)} | {MEAN: matrix.mean(axis=1)}


def _provenance(run: Run, number: int, stacks: list[Stack]) -> dict:
    settings, fixed = run.recipe.stacking, run.spec(number).blend
    fitted = [part.weights for stack in stacks for part in stack.subfolds]
    return {
        "round": number,
        "recipe_digest": run.recipe.digest(),
        "pseudo_digest": run.pseudo_digest(number),
        "protocol": settings.protocol,
        "final_predictor": final_predictor(settings.final_predictor, len(fixed)),
        "weights": fixed,
        "fitted_weights": {name: float(np.mean([own[name] for own in fitted])) for name in fitted[0]},
    }
