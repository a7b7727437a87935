"""Window indices and targets of a run's jobs: training, validation and prediction."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from melgpu.data import targets, windows
from melgpu.data.manifest import Split
from melgpu.data.targets import Targets, TeacherTargets
from melgpu.data.windows import WindowIndex
from melgpu.errors import InputError
from melgpu.runs.job import Job
from melgpu.runs.round_tracks import RoundTracks
from melgpu.runs.run import Run


def window_samples(run: Run) -> int:
    """The length of a window in samples."""
    return windows.to_samples(run.recipe.windows.window_s, run.recipe.audio.sample_rate)


def training_windows(run: Run, job: Job) -> WindowIndex:
    """The windows that a job trains on, not shuffled."""
    tracks = run.round_tracks(job.round)
    rows, _ = tracks.fold_rows(job.fold)
    labels = [tracks.manifest.labels[row] for row in rows]
    return windows.training_windows(rows, labels, run.recipe.audio, run.recipe.windows)


def windows_per_epoch(run: Run, job: Job) -> int:
    """The number of windows in an epoch of a job, in whole batches."""
    batch_size = run.recipe.optim_for(job.backbone).batch_size
    return len(windows.drop_last(training_windows(run, job), batch_size))


def epoch_windows(run: Run, job: Job, epoch: int, rank: int, world_size: int) -> WindowIndex:
    """The shuffled windows of an epoch in whole batches, one rank's shard."""
    recipe = run.recipe
    optim = recipe.optim_for(job.backbone)
    index = training_windows(run, job)
    seed = recipe.seed  # the same on all ranks: each draws the whole epoch and takes its shard
    if optim.balance == "sampling":
        window_classes = round_class_indices(run, job)[index.tracks]
        index = windows.class_balanced(index, window_classes, seed, epoch)
    if recipe.windows.random_starts:
        # Every start at which a whole window fits into a track, which decoding has made exactly this long.
        track_samples = windows.to_samples(recipe.audio.track_s, recipe.audio.sample_rate)
        index = windows.with_random_starts(index, track_samples - window_samples(run), seed, epoch)
    shuffle_tracks = recipe.shuffle_tracks_for(job.backbone)
    if shuffle_tracks:
        shuffle_tracks *= world_size  # of all ranks together: a shard has every `world_size`-th track
    index = windows.shuffle(index, shuffle_tracks, seed, epoch)
    return windows.drop_last(index, optim.batch_size, rank, world_size)


def round_class_indices(run: Run, job: Job) -> np.ndarray:
    """The class index of each manifest row in a job's round, pseudo labels included, shape (N,); -1 without a label."""
    return run.round_tracks(job.round).manifest.class_indices(run.class_names)


def training_targets(run: Run, job: Job) -> Targets:
    """The targets of a job: classes of all rows, distributions where some are soft, and class weights of the loss."""
    classes = torch.from_numpy(round_class_indices(run, job))
    num_classes = len(run.class_names)
    distributions = _distributions(run.round_tracks(job.round), classes, num_classes)
    teacher = teacher_targets(run)
    if run.recipe.optim_for(job.backbone).balance != "weights":
        return Targets(classes, torch.ones(num_classes), distributions, teacher)
    # Weights count windows, as the loss does: tracks of dense classes have more of them.
    window_tracks = torch.from_numpy(training_windows(run, job).tracks).long()
    if distributions is None:
        counts = torch.bincount(classes[window_tracks], minlength=num_classes)
    else:
        counts = torch.bincount(window_tracks, minlength=len(classes)).float() @ distributions
    return Targets(classes, targets.class_weights(counts), distributions, teacher)


def _distributions(tracks: RoundTracks, classes: Tensor, num_classes: int) -> Tensor | None:
    """What the loss aims at for all rows, shape (N, C), where some pseudo labels are soft."""
    if tracks.pseudo_targets is None:
        return None
    distributions = F.one_hot(classes.clamp(min=0), num_classes).float() * (classes >= 0)[:, None]
    distributions[tracks.pseudo_rows] = torch.from_numpy(tracks.pseudo_targets).float()
    return distributions


def teacher_windows(run: Run, rows: np.ndarray) -> WindowIndex:
    """The windows of tracks that a student's teacher predicts: the same of each, those that the student trains on."""
    return windows.training_windows(rows, [""] * len(rows), run.recipe.audio, run.recipe.windows)


def teacher_targets(run: Run) -> TeacherTargets | None:
    """The distributions that a student learns; None for a run without a teacher. Raises InputError."""
    distil, predictions = run.recipe.distil, run.teacher_predictions
    if distil is None or predictions is None:
        return None
    if not np.array_equal(predictions.starts, teacher_windows(run, np.array([0])).starts):
        raise InputError(f"{run.paths.teacher_folder}: of other windows than those that this run trains on")
    is_labelled = run.manifest.folds >= 0  # labels of test tracks are for scores only
    label_weights = np.where(is_labelled, distil.label_weight, 0.0).astype(np.float32)
    return TeacherTargets(
        probs=targets.at_temperature(torch.from_numpy(predictions.probs), distil.temperature),
        starts=torch.from_numpy(predictions.starts).long(),  # as in batches
        label_weights=torch.from_numpy(label_weights),
        temperature=distil.temperature,
    )


def prediction_windows(run: Run, rows: np.ndarray) -> WindowIndex:
    """The windows of tracks for validation and prediction."""
    # Public test tracks have a hop of their own.
    public = np.isin(rows, run.manifest.rows(Split.PUBLIC))
    return windows.prediction_windows(rows, public, run.recipe.audio, run.recipe.windows)
