"""A cell: in, its recipe and the tracks; out, one file with the probabilities of its validation and test tracks.

Trained as by `train.py`; killed, it resumes. Tracks are decoded once, into a PCM cache that all cells share.
"""

import shutil
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import numpy as np
import torch

from benchmarks.experiments.spec import Cell, settings
from melgpu.data.loader import WindowLoader
from melgpu.data.manifest import EVALUATED_SPLITS, Split
from melgpu.errors import InputError
from melgpu.models.metadata import Environment
from melgpu.models.schema import Schema
from melgpu.prediction.ensemble import load_networks
from melgpu.prediction.predictor import WindowPredictor
from melgpu.prediction.round import predict_round
from melgpu.runs import environment, sampling, setup
from melgpu.runs.folder import is_run
from melgpu.runs.formats.npz import Array, NpzFormat
from melgpu.runs.paths import RunPaths
from melgpu.runs.run import Run
from melgpu.runs.run_request import RunRequest, Sources
from melgpu.stacking.round import stack_round
from melgpu.training.round import train_round

REMEDY = "delete it to make it again"


class CellMetadata(Schema):
    """How a cell was made: all settings of its recipe that count, fold, seed, epochs, time, machine.

    resumed : it was interrupted, and `seconds` are those after the last interruption
    """

    variant: str
    fold: int
    seed: int
    settings: dict[str, str]
    best_epoch: int
    seconds: float
    resumed: bool
    date: str
    environment: Environment


@dataclass(frozen=True)
class CellResult:
    """N labelled tracks that a cell did not train on, in the order of the manifest.

    ids, splits, labels : (N,)
    probs : (N, C), means over the windows of a track
    window_accuracy : (N,), the fraction of a track's windows that are right
    class_names : (C,)
    """

    ids: tuple[str, ...]
    splits: tuple[Split, ...]
    labels: tuple[str, ...]
    probs: Annotated[np.ndarray, Array("f", 2)]
    window_accuracy: Annotated[np.ndarray, Array("f", 1)]
    class_names: tuple[str, ...]
    metadata: CellMetadata

    @property
    def correct(self) -> np.ndarray:
        """Whether a track's most probable class is its label, (N,) bool."""
        return np.array(self.class_names)[self.probs.argmax(axis=1)] == np.array(self.labels)


NPZ = NpzFormat(CellResult, "a cell", REMEDY)
save = NPZ.save
load = NPZ.load


def cell_path(folder: Path, cell: Cell) -> Path:
    return folder / "cells" / f"{cell.name}.npz"


def run_folder(folder: Path, cell: Cell) -> Path:
    """The folder of the run that trains a cell, until it is finished."""
    return folder / "runs" / cell.name


def make(cell: Cell, sources: Sources, folder: Path, device: torch.device) -> None:
    """Train a cell, or go on with it, and save its result. Raises InputError."""
    started = time.monotonic()
    cell_folder = run_folder(folder, cell)
    resumed = is_run(cell_folder)
    _link_cache(cell_folder, folder)
    request = RunRequest(cell_folder, list(cell.recipes), list(cell.overrides), without_pseudo=False)
    run = setup.open_or_create(request, sources, device)
    _train(run, device)
    metadata = CellMetadata(
        variant=cell.variant,
        fold=cell.fold,
        seed=cell.seed,
        settings=settings(run.recipe),
        best_epoch=_best_epoch(run),
        seconds=round(time.monotonic() - started, 1),
        resumed=resumed,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        environment=environment.describe(device),
    )
    save(_predict(run, metadata, device), cell_path(folder, cell))


def _link_cache(cell_folder: Path, folder: Path) -> None:
    """Let a run use the PCM cache of all cells, whose files are named by sample rate and length of the tracks."""
    (folder / "pcm_cache").mkdir(parents=True, exist_ok=True)
    cell_folder.mkdir(parents=True, exist_ok=True)
    link = RunPaths(cell_folder).pcm_cache
    if not link.is_symlink():
        link.symlink_to(Path("..", "..", "pcm_cache"), target_is_directory=True)


def delete_run(folder: Path, cell: Cell) -> None:
    """Delete the run of a finished cell; of the PCM cache only the link to it."""
    if run_folder(folder, cell).exists():
        shutil.rmtree(run_folder(folder, cell))


def _train(run: Run, device: torch.device) -> None:
    """Train all rounds; those before the last are predicted and give pseudo labels."""
    while run.current_round:
        train_round(run, None, None, device)
        if run.current_round == len(run.recipe.rounds):
            return
        predict_round(run, device)
        stack_round(run, run.current_round)


def _best_epoch(run: Run) -> int:
    """The epoch whose weights the first network of the last round has."""
    (network, *_) = load_networks(run, run.jobs(len(run.recipe.rounds)))
    return network.metadata.scores.epoch


def _predict(run: Run, metadata: CellMetadata, device: torch.device) -> CellResult:
    """Predict the labelled tracks that the networks of the last round did not train on, by their mean."""
    jobs = run.jobs(len(run.recipe.rounds))
    splits = run.manifest.fold_splits(metadata.fold)
    is_evaluated = np.array([split in EVALUATED_SPLITS for split in splits])
    all_classes = run.manifest.class_indices(run.class_names)
    rows = np.flatnonzero(is_evaluated & (all_classes >= 0))
    index = sampling.prediction_windows(run, rows)
    probs = []
    with WindowLoader(run.manifest.paths, run.recipe.audio, run.recipe.loader, device, run.pcm_cache) as loader:
        predictor = WindowPredictor(load_networks(run, jobs), run.recipe, device)
        batches = loader.batches(index, sampling.window_samples(run), run.recipe.loader.predict_batch_size)
        for _, batch_probs in predictor.probs(batches):
            probs.append(batch_probs.mean(dim=0).double().numpy())
    window_probs = np.concatenate(probs)  # (W, C)
    windows_correct = window_probs.argmax(axis=1) == all_classes[index.tracks]
    positions = np.searchsorted(rows, index.tracks)
    counts = np.bincount(positions, minlength=len(rows))
    sums = np.zeros((len(rows), len(run.class_names)))
    np.add.at(sums, positions, window_probs)
    return CellResult(
        ids=tuple(run.manifest.ids[row] for row in rows),
        splits=tuple(splits[row] for row in rows),
        labels=tuple(run.manifest.labels[row] for row in rows),
        probs=sums / counts[:, None],
        window_accuracy=np.bincount(positions, windows_correct, minlength=len(rows)) / counts,
        class_names=tuple(run.class_names),
        metadata=metadata,
    )


def load_finished(folder: Path, cell: Cell) -> CellResult | None:
    """The result of a cell, if it is made. Raises InputError where it was made by other settings."""
    path = cell_path(folder, cell)
    if not path.exists():
        return None
    result = load(path)
    before = result.metadata.settings
    now = settings(cell.recipe)
    # Settings that only one of both has came or went with a version of melgpu.
    changed = [f"{key}: {before[key]}, now {now[key]}" for key in now.keys() & before.keys() if now[key] != before[key]]
    if changed:
        raise InputError(f"{path}: made with other settings ({'; '.join(sorted(changed))}); {REMEDY}")
    return result
