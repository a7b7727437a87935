"""Predictions of a round's trained networks for all tracks of its run, the input of stacking."""

import contextlib
import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from melgpu import console, distributed
from melgpu.audio import quarantine
from melgpu.audio.quarantine import AudioError
from melgpu.data import windows
from melgpu.data.loader import WindowLoader
from melgpu.data.windows import WindowIndex
from melgpu.errors import InputError, is_out_of_memory
from melgpu.models import checkpoint
from melgpu.models.classifier import LoadedNetwork
from melgpu.prediction.ensemble import load_networks
from melgpu.prediction.predictor import WindowPredictor, predict_windows
from melgpu.prediction.resume_log import ResumeLog
from melgpu.recipe import Recipe
from melgpu.runs import preflight, relocation, sampling
from melgpu.runs.formats import predictions, timings
from melgpu.runs.job import Job
from melgpu.runs.run import Run

Result = TypeVar("Result")


def predict_round(run: Run, device: torch.device) -> None:
    """Write the predictions of every trained network of the current round for every track. Raises InputError.

    After the last round these are its own, where some were deleted: stacking it anew needs them.
    """
    round_number = run.current_round or run.last_round
    if run.current_round is None and all(map(run.is_predicted, run.trained_jobs(round_number))):
        console.say(f"All rounds are done: {run.command_line('stack')} shows the scores")
        return
    if run.is_between_rounds:
        console.say(f"Round {run.last_stacked_round} is done. Next: {run.command_line('train')}")
        return
    trained = run.trained_jobs(round_number)
    if not trained:
        first = run.command_line("train")
        raise InputError(f"{run.folder}: round {round_number} has no trained network yet; first {first}")
    if distributed.is_main_process():
        if not all(map(run.is_predicted, trained)):
            relocation.check_present(run)
        preflight.fill_cache(run)
    distributed.barrier()  # the others wait for the cache
    missing = [job for job in trained if not run.is_predicted(job)]
    timing = _measure_time(run, round_number, missing)
    distributed.barrier()  # no process opens its log before the main process has looked for old ones
    if missing:
        with timing:
            predict_jobs(run, missing, device)
    if distributed.is_main_process():
        for path in run.paths.resume_logs(round_number):  # perhaps of a process that was killed after its predictions
            path.unlink()  # the predictions contain their batches
    if audio_errors := quarantine.load_errors(run.paths.quarantine):
        console.say(quarantine.summarize(audio_errors, run.paths.quarantine))
    if run.recipe.is_one_step and run.current_round and not run.untrained_jobs(round_number):  # the scores follow
        return
    script = "train" if run.untrained_jobs(round_number) else "stack"
    networks = console.counted(len(trained), "network")
    console.say(f"Round {round_number}: predictions of {networks}. Next: {run.command_line(script)}")


def _measure_time(run: Run, round_number: int, jobs: list[Job]) -> contextlib.AbstractContextManager:
    """Records the time that the prediction of these jobs takes; a resumed one has no known number of windows."""
    if not distributed.is_main_process():
        return contextlib.nullcontext()
    stage = f"predict{run.variant_suffix}"
    if run.paths.resume_logs(round_number):
        return timings.measure(run.paths.timings, round_number, f"{stage}, resumed", 0, "windows")
    num_windows = len(sampling.prediction_windows(run, np.arange(len(run.manifest))))
    return timings.measure(run.paths.timings, round_number, stage, len(jobs) * num_windows, "windows")


def predict_jobs(run: Run, jobs: list[Job], device: torch.device) -> None:
    """Predict with networks of a round in one pass over the tracks, or in more where they do not fit into memory."""
    in_passes_that_fit(functools.partial(predict_together, run, device=device), jobs)


def in_passes_that_fit(predict: Callable[[list[Job]], Result], jobs: list[Job]) -> list[Result]:
    """`predict` of all networks at once, or of halves of them where they do not fit into memory; a result a pass."""
    try:
        return [predict(jobs)]
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        # One of several processes cannot split the work alone: its barriers would not match those of the others.
        if len(jobs) == 1 or distributed.world_size() > 1:
            remedy = "set a smaller loader.predict_batch_size"
            if len(jobs) > 1:
                remedy += ", or start one process, which takes fewer networks at a time"
            raise InputError(f"the device is out of memory: {remedy}") from None
    # After the except block: in it the traceback would keep the memory of the failed attempt.
    half = -(-len(jobs) // 2)  # rounded up
    console.say(f"{len(jobs)} networks do not fit into the device's memory: {half} at a time, in more passes")
    return [*in_passes_that_fit(predict, jobs[:half]), *in_passes_that_fit(predict, jobs[half:])]


@dataclass(frozen=True)
class Shard:
    """Predictions of one process: positions (S,) in the index of all windows, probs (K, S, C), valid (S,), errors."""

    positions: np.ndarray
    probs: np.ndarray
    valid: np.ndarray
    errors: dict[str, AudioError]


def predict_together(run: Run, jobs: list[Job], device: torch.device) -> None:
    """Predict with networks of a round in one pass over the tracks, and save the predictions of each."""
    if len(run.manifest) < distributed.world_size():
        raise InputError(f"{len(run.manifest)} tracks are fewer than {distributed.world_size()} processes")
    networks = load_networks(run, jobs)
    # A log of older checkpoints is not resumed.
    digests = [checkpoint.digest(run.paths.checkpoint(job)) for job in jobs]
    index = sampling.prediction_windows(run, np.arange(len(run.manifest)))
    title = f"round {jobs[0].round}: predicting {len(run.manifest)} tracks with {console.counted(len(jobs), 'network')}"
    log = open_log(run.paths.resume_log(jobs[0].round, distributed.rank(), digests), digests, run.recipe)
    pass_ = PredictionPass(networks, run.recipe, index, title, device)
    with log:
        shards = pass_.shards(run, log)
        if shards:  # on the main process
            save_shards(run, jobs, digests, index, shards)
        distributed.barrier()  # no process closes its log, and unlocks it, before the predictions are saved


def open_log(path: Path, digests: list[str], recipe: Recipe, **others: str) -> ResumeLog:
    """The resume log at a path, of networks with these checkpoint digests, and of what else its batches depend on."""
    batch_size = recipe.loader.predict_batch_size
    return ResumeLog(path, {"checkpoints": digests, "batch": batch_size, "ranks": distributed.world_size(), **others})


@dataclass(frozen=True)
class PredictionPass:
    """One pass over windows of a run's tracks with K networks, by all processes; `mean`: of the networks alone."""

    networks: list[LoadedNetwork]
    recipe: Recipe
    index: WindowIndex
    title: str
    device: torch.device
    mean: bool = False

    def shards(self, run: Run, log: ResumeLog) -> list[Shard] | None:
        """Predict; the shards of all processes on the main process, which records audio errors, and None on others."""
        positions = windows.shard_positions(self.index, distributed.rank(), distributed.world_size())
        num_models = 1 if self.mean else len(self.networks)
        probs = np.empty((num_models, len(positions), len(run.class_names)), np.float32)
        valid = np.empty(len(positions), bool)
        recipe = self.recipe
        make_predictor = functools.partial(WindowPredictor, self.networks, recipe, self.device)
        with WindowLoader(run.manifest.paths, recipe.audio, recipe.loader, self.device, run.pcm_cache) as loader:
            with console.progress(self.title, len(positions), "windows") as tracker:
                index = self.index[positions]
                for part, batch in predict_windows(make_predictor, recipe, loader, index, log, tracker):
                    probs[:, part] = batch.probs.mean(0, keepdims=True) if self.mean else batch.probs
                    valid[part] = batch.valid
            shards = distributed.gather_to_main(Shard(positions, probs, valid, loader.errors))
        if shards:
            audio_errors = [audio_error for shard in shards for audio_error in shard.errors.values()]
            quarantine.record_errors(run.paths.quarantine, audio_errors)
        return shards


def merge_shards(shards: list[Shard]) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (K, W, C) and validity (W,) of all windows, in the order of their index."""
    num_models, _, num_classes = shards[0].probs.shape
    num_windows = sum(len(shard.positions) for shard in shards)
    probs = np.empty((num_models, num_windows, num_classes), np.float32)
    valid = np.empty(num_windows, bool)
    for shard in shards:
        probs[:, shard.positions] = shard.probs
        valid[shard.positions] = shard.valid
    return probs, valid


def save_shards(run: Run, jobs: list[Job], digests: list[str], index: WindowIndex, shards: list[Shard]) -> None:
    """Merge the shards of all processes and save each network's predictions."""
    probs, valid = merge_shards(shards)
    num_windows = np.bincount(index.tracks, minlength=len(run.manifest))
    unusable = np.isin(np.arange(len(run.manifest)), index.tracks[~valid])
    for job, digest, job_probs in zip(jobs, digests, probs, strict=True):
        merged = predictions.Predictions(
            ids=run.manifest.ids,
            splits=run.manifest.fold_splits(job.fold),
            unusable=unusable,
            num_windows=num_windows,
            probs=job_probs,
            class_names=tuple(run.class_names),
            provenance=run.job_provenance(job, digest),
        )
        predictions.save(merged, run.paths.predictions(job))
