"""The trained networks of a run's current round to the predictions of all its tracks, which stacking needs."""

import contextlib
from dataclasses import dataclass

import numpy as np
import torch

from melgpu import console, distributed
from melgpu.audio import quarantine
from melgpu.audio.quarantine import AudioError
from melgpu.data import windows
from melgpu.data.loader import WindowLoader
from melgpu.data.windows import WindowIndex
from melgpu.errors import InputError
from melgpu.models import checkpoint
from melgpu.prediction import ensemble, predictor
from melgpu.prediction.resume_log import ResumeLog
from melgpu.runs import predictions, preflight, sampling, timings
from melgpu.runs.run import Job, Run


def predict_round(run: Run, device: torch.device) -> None:
    """Write the predictions of every trained network of the current round for every track. Raises InputError."""
    number = run.current_round
    if number is None:
        console.say(f"All rounds are done: python stack.py {run.flags} shows the scores")
        return
    trained = run.trained_jobs(number)
    if not trained:
        raise InputError(f"{run.folder}: round {number} has no trained network; run train.py first")
    if distributed.is_main_process():
        preflight.fill_cache(run)
    distributed.barrier()
    missing = [job for job in trained if not run.is_predicted(job)]
    timed = _timed(run, missing)
    distributed.barrier()  # nobody looks for logs while the main process writes its own
    if missing:
        with timed:
            predict_jobs(run, missing, device)
        if distributed.is_main_process():
            for path in run.resume_logs(number):
                path.unlink()  # their batches are in the predictions
    if flaws := quarantine.load_errors(run.quarantine_path):
        console.say(quarantine.summarize(flaws, run.quarantine_path))
    script = "train.py" if len(trained) < len(run.jobs(number)) else "stack.py"
    console.say(f"Round {number}: {len(trained)} networks predicted. Next: python {script} {run.flags}")


def _timed(run: Run, jobs: list[Job]) -> contextlib.AbstractContextManager:
    """Records what the prediction of these jobs takes; of a resumed one it is not known how many windows it did."""
    if not distributed.is_main_process():
        return contextlib.nullcontext()
    number = run.current_round
    stage = f"predict{run.variant}"
    if run.resume_logs(number):
        return timings.measure(run.timings_path, number, f"{stage}, resumed", 0, "windows")
    num_windows = len(sampling.prediction_windows(run, np.arange(len(run.manifest))))
    return timings.measure(run.timings_path, number, stage, len(jobs) * num_windows, "windows")


def predict_jobs(run: Run, jobs: list[Job], device: torch.device) -> None:
    """Predict with networks of a round in one pass over the music, or in more where memory does not hold them all."""
    try:
        predict_together(run, jobs, device)
        return
    except torch.OutOfMemoryError:
        if len(jobs) == 1 or distributed.world_size() > 1:
            raise InputError("the device's memory runs out: set a smaller loader.predict_batch_size") from None
    half = -(-len(jobs) // 2)
    console.say(f"the device's memory does not hold {len(jobs)} networks: {half} at a time, more passes")
    predict_jobs(run, jobs[:half], device)
    predict_jobs(run, jobs[half:], device)


@dataclass(frozen=True)
class Shard:
    """What one process predicted: positions (S,) in the index of all windows, probs (K, S, C), heard (S,), errors."""

    positions: np.ndarray
    probs: np.ndarray
    valid: np.ndarray
    errors: dict[str, AudioError]


def predict_together(run: Run, jobs: list[Job], device: torch.device) -> None:
    """Predict with networks of a round in one pass over the music, and save the predictions of each."""
    if len(run.manifest) < distributed.world_size():
        raise InputError(f"{len(run.manifest)} tracks are fewer than {distributed.world_size()} processes")
    networks = ensemble.load_networks(run, jobs)
    digests = [checkpoint.digest(run.checkpoint(job)) for job in jobs]
    order = sampling.prediction_windows(run, np.arange(len(run.manifest)))
    positions = windows.shard_positions(order, distributed.rank(), distributed.world_size())
    title = f"round {jobs[0].round}: {len(jobs)} networks predict {len(run.manifest)} tracks"
    batch_size = run.recipe.loader.predict_batch_size
    metadata = {"checkpoints": digests, "batch": batch_size, "ranks": distributed.world_size()}
    probs = np.empty((len(jobs), len(positions), len(run.class_names)), np.float32)
    heard = np.empty(len(positions), bool)
    loader = WindowLoader(run.manifest.paths, run.recipe.audio, run.recipe.loader, device, run.pcm_cache)
    log = ResumeLog(run.resume_log_path(jobs[0].round, distributed.rank(), digests), metadata)
    with loader, log:
        for part, batch in predictor.predict_windows(networks, run.recipe, loader, order[positions], log, title):
            probs[:, part] = batch.probs
            heard[part] = batch.valid
        shards = distributed.gather_to_main(Shard(positions, probs, heard, loader.errors))
        if shards:
            save_shards(run, jobs, digests, order, shards)
            found = [flaw for shard in shards for flaw in shard.errors.values()]
            quarantine.record_errors(run.quarantine_path, found)
        distributed.barrier()


def save_shards(run: Run, jobs: list[Job], digests: list[str], order: WindowIndex, shards: list[Shard]) -> None:
    """Put the shards of all processes together and save each network's predictions."""
    probs = np.empty((len(jobs), len(order), len(run.class_names)), np.float32)
    heard = np.empty(len(order), bool)
    for shard in shards:
        probs[:, shard.positions] = shard.probs
        heard[shard.positions] = shard.valid
    probs[:, ~heard] = run.prior
    num_windows = np.bincount(order.tracks, minlength=len(run.manifest))
    lost = np.isin(np.arange(len(run.manifest)), order.tracks[~heard])
    for job, digest, own in zip(jobs, digests, probs, strict=True):
        source = {
            "backbone": job.backbone,
            "fold": job.fold,
            "round": job.round,
            "recipe_digest": run.recipe.digest(),
            "pseudo_digest": run.pseudo_digest(job.round),
            "checkpoint_digest": digest,
        }
        splits = tuple(run.round_splits(job.fold))
        made = predictions.Predictions(run.manifest.ids, splits, lost, num_windows, own, tuple(run.class_names), source)
        predictions.save(made, run.predictions_path(job))
