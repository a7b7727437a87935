"""Source lists, pseudo labels, predictions and checkpoints of untrained runs, and a run whose networks are random."""

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from melgpu.data import manifest_builder
from melgpu.data.lists.sources import SourceList, read_source
from melgpu.data.manifest import Split
from melgpu.features.log_mel import LogMel
from melgpu.features.parity import measure_parity
from melgpu.models import checkpoint
from melgpu.models.classifier import Classifier
from melgpu.models.metadata import NetworkMetadata
from melgpu.recipe import load_recipe
from melgpu.runs import environment, sampling
from melgpu.runs.folder import create_run
from melgpu.runs.formats import predictions, pseudo_labels
from melgpu.runs.formats.predictions import Predictions
from melgpu.runs.formats.scores import RoundScores
from melgpu.runs.job import Job
from melgpu.runs.run import Run
from melgpu.stacking import dataset
from tests.helpers import QUICK, write_labelled_tracks
from tests.helpers.training import epoch_record

CPU = torch.device("cpu")
ZALO_COUNTS = {"1": 36, "2": 446, "3": 523, "4": 369, "5": 392, "6": 372, "7": 279, "8": 2586, "9": 62, "10": 93}
SMALL_NETWORK = [
    *QUICK,
    "mel.n_fft=1024",
    "mel.n_mels=64",
    "mel.image_size=80",
    "backbone.pretrained=false",
    "optim.precision='float32'",
]


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def read_source_text(path: Path, text: str | bytes, labelled: bool = True) -> SourceList:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_source(path, None, labelled)


def read_source_lists(
    folder: Path,
    train: list[tuple[str, str]],
    public: list[tuple[str, str]] = (),
    private: list[tuple[str, str]] = (),
) -> dict:
    touch(folder, *(name for name, _ in (*train, *public, *private)))
    source_lists = {}
    for split, rows in (("train", train), ("public", public), ("private", private)):
        if rows:
            path = folder / f"{split}.csv"
            path.write_text("".join(f"{name},{label}\n" for name, label in rows))
            source_lists[split] = read_source(path, None, labelled=split == "train")
    return source_lists


def pseudo_label(track_id: str, class_name: str, distribution: tuple[float, ...] = ()) -> pseudo_labels.PseudoLabel:
    return pseudo_labels.PseudoLabel(track_id, class_name, 0.9, "2/2", distribution)


def mark_stacked(run: Run, round_number: int, labels: list[pseudo_labels.PseudoLabel]) -> None:
    """Save pseudo labels of a round and mark it as stacked."""
    soft_classes = pseudo_labels.soft_classes(run.recipe.pseudo, run.class_names)
    pseudo_labels.save(labels, run.paths.pseudo_labels(round_number), round_number, run.recipe.digest(), soft_classes)
    finish_without_scores(run, round_number)


def finish_without_scores(run: Run, round_number: int) -> None:
    """Mark a round as stacked."""
    settings = run.stack_settings(round_number)
    run.finish_round(round_number, RoundScores(settings=settings, final_predictor="mean", selection=None, scores={}))


def write_predictions(
    run: Run, round_number: int, monkeypatch, unusable_row: int | None = 5, first_seed: int = 0, **changes
) -> None:
    """Write random predictions of every network of a round, without the networks."""
    monkeypatch.setattr(Run, "is_trained", lambda run, job: True)
    monkeypatch.setattr(dataset.Run, "is_predicted", lambda run, job: run.paths.predictions(job).exists())
    num_tracks = len(run.manifest)
    num_windows = np.bincount(sampling.prediction_windows(run, np.arange(num_tracks)).tracks)
    for seed, job in enumerate(run.jobs(round_number), start=first_seed):
        probs = np.random.default_rng(seed).dirichlet(np.ones(2), num_windows.sum()).astype(np.float32)
        provenance = run.job_provenance(job, "x").model_copy(update=changes)
        unusable, splits = np.arange(num_tracks) == unusable_row, run.manifest.fold_splits(job.fold)
        predicted = Predictions(run.manifest.ids, splits, unusable, num_windows, probs, ("a", "b"), provenance)
        predictions.save(predicted, run.paths.predictions(job))


def write_checkpoint(path: Path, tensors: dict[str, Tensor], metadata: object) -> None:
    """A well-formed checkpoint, with the right hash, of metadata that are not validated."""
    text = json.dumps(metadata)
    save_file(tensors, path, {checkpoint.FORMAT: f"{checkpoint._content_hash(tensors, text)} {text}"})


def write_run(folder: Path, backbones: tuple[str, ...] = ("test_efficientnet",), *overrides: str) -> Run:
    """A run of one round with eight tracks of 6 s, beside them in the folder, and its networks."""
    labels = write_labelled_tracks(folder)
    rounds = f"rounds=[{{backbones={list(backbones)}, folds=[0], blend={{}}}}]"
    recipe = load_recipe(["quick"], [*SMALL_NETWORK, rounds, *overrides])
    tracks = manifest_builder.build({Split.TRAIN: read_source(labels, None, True)}, 2, 8)
    run = create_run(folder / "run", recipe, tracks, CPU)
    for job in run.jobs(1):
        _write_network(run, job)
    return run


def _write_network(run: Run, job: Job) -> None:
    recipe = run.recipe
    torch.manual_seed(0)
    model = Classifier(job.backbone, len(run.class_names), recipe)
    with torch.no_grad():
        model.head[-1].weight.mul_(1000)  # else all probabilities are nearly the same
    metadata = NetworkMetadata(
        provenance=run.job_provenance(job),
        class_names=run.class_names,
        recipe=recipe,
        scores=epoch_record(1),
        parity=measure_parity(LogMel(recipe.mel, recipe.audio.sample_rate), recipe.audio.sample_rate, CPU),
        environment=environment.describe(CPU),
    )
    checkpoint.save(run.paths.checkpoint(job), model.state_dict(), metadata)
    run.paths.job_scores(job).write_text("{}")
