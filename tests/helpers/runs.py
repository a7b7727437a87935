"""Lists, pseudo labels and predictions of runs in which nothing was trained."""

from pathlib import Path

import numpy as np

from melgpu.data.sources import SourceList, read_source
from melgpu.runs import predictions, pseudo_labels, run, sampling
from melgpu.runs.predictions import Predictions
from melgpu.runs.run import Run
from melgpu.stacking import dataset

ZALO_COUNTS = {"1": 36, "2": 446, "3": 523, "4": 369, "5": 392, "6": 372, "7": 279, "8": 2586, "9": 62, "10": 93}


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def read(path: Path, text: str | bytes, labelled: bool = True) -> SourceList:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_source(path, None, labelled)


def label(name: str, own: str) -> pseudo_labels.PseudoLabel:
    return pseudo_labels.PseudoLabel(name, own, 0.9, "2/2")


def stack_round(made: run.Run, number: int, labels: list[pseudo_labels.PseudoLabel]) -> None:
    pseudo_labels.save(labels, made.pseudo_path(number), number, made.recipe.digest())
    made.finish_round(number, {})


def predict(run: Run, number: int, monkeypatch, **changes) -> None:
    """Predictions of every network of a round, of networks that there are not."""
    monkeypatch.setattr(Run, "is_trained", lambda run, job: True)
    monkeypatch.setattr(dataset.Run, "is_predicted", lambda run, job: run.predictions_path(job).exists())
    size = len(run.manifest)
    counts = np.bincount(sampling.prediction_windows(run, np.arange(size)).tracks)
    for seed, job in enumerate(run.jobs(number)):
        probs = np.random.default_rng(seed).dirichlet(np.ones(2), counts.sum()).astype(np.float32)
        source = {"backbone": job.backbone, "fold": job.fold, "round": number, "recipe_digest": run.recipe.digest()}
        source |= {"pseudo_digest": run.pseudo_digest(number), "checkpoint_digest": "x", **changes}
        unusable, splits = np.arange(size) == 5, tuple(run.round_splits(job.fold))
        own = Predictions(run.manifest.ids, splits, unusable, counts, probs, ("a", "b"), source)
        predictions.save(own, run.predictions_path(job))
