"""Which windows a run's networks train and are judged on, and what they are to answer."""

import numpy as np
import torch

from melgpu.data import targets, windows
from melgpu.data.targets import Targets
from melgpu.data.windows import WindowIndex
from melgpu.runs.run import Job, Run, class_indices


def window_samples(run: Run) -> int:
    return windows.to_samples(run.recipe.windows.window_s, run.recipe.audio.sample_rate)


def training_windows(run: Run, job: Job) -> WindowIndex:
    """The windows that a job trains on, not shuffled."""
    tracks, (rows, _) = run.round_manifest(job.round)[0], run.round_rows(job.round, job.fold)
    labels = [tracks.labels[row] for row in rows]
    return windows.training_windows(rows, labels, run.recipe.audio, run.recipe.windows)


def windows_per_epoch(run: Run, job: Job) -> int:
    """How many windows an epoch of a job trains on."""
    return len(windows.drop_last(training_windows(run, job), run.recipe.optim_for(job.backbone).batch_size))


def epoch_windows(run: Run, job: Job, epoch: int, rank: int, ranks: int) -> WindowIndex:
    """The windows of an epoch in whole batches, in their order, for one of several processes."""
    recipe, optim = run.recipe, run.recipe.optim_for(job.backbone)
    index, seed = training_windows(run, job), run.recipe.seed
    if optim.balance == "sampling":
        index = windows.class_balanced(index, round_class_indices(run, job)[index.tracks], seed, epoch)
    if recipe.windows.random_starts:
        whole = windows.to_samples(recipe.audio.track_s, recipe.audio.sample_rate)
        index = windows.with_random_starts(index, whole - window_samples(run), seed, epoch)
    chunk = recipe.shuffle_tracks_for(job.backbone)
    index = windows.shuffle(index, chunk and chunk * ranks, seed, epoch)
    return windows.drop_last(index, optim.batch_size, rank, ranks)


def round_class_indices(run: Run, job: Job) -> np.ndarray:
    """The class number of each row of the manifest in a job's round, pseudo labels included; -1 where it has none."""
    return class_indices(run.round_manifest(job.round)[0], run.class_names)


def training_targets(run: Run, job: Job) -> Targets:
    """What a job's network is to answer."""
    classes, num_classes = torch.from_numpy(round_class_indices(run, job)), len(run.class_names)
    if run.recipe.optim_for(job.backbone).balance != "weights":
        return Targets(classes, torch.ones(num_classes))
    trained = classes[torch.from_numpy(training_windows(run, job).tracks).long()]
    return Targets(classes, targets.class_weights(trained, num_classes))


def prediction_windows(run: Run, rows: np.ndarray) -> WindowIndex:
    """The windows that stand for tracks when they are judged."""
    public = np.array([run.manifest.splits[row] == "public" for row in rows], bool)
    return windows.prediction_windows(rows, public, run.recipe.audio, run.recipe.windows)
