"""The files of a training in its job's folder: the best weights, its log, and its state.

After each epoch best.safetensors, last.safetensors and log.csv are written, in this order; last.safetensors also every
`machine.save_every` steps. At the end scores.json is written and last.safetensors is deleted. A training that is killed
at any point resumes from last.safetensors, with the same result.
"""

import fcntl
import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from melgpu import files
from melgpu.errors import InputError, one_line
from melgpu.models import checkpoint, schema
from melgpu.runs.run import Job, Run
from melgpu.training.loop import STAGES
from melgpu.training.state import Training

LOG_COLUMNS = ("epoch", "loss", "window_accuracy", "steps_per_s", *(f"{stage}_s" for stage in STAGES))  # among others


@contextmanager
def job_lock(run: Run, job: Job) -> Iterator[None]:
    """An exclusive lock on a job's folder. Raises InputError where another process trains the same network."""
    run.job_folder(job).mkdir(parents=True, exist_ok=True)
    folder = os.open(run.job_folder(job), os.O_RDONLY)
    try:
        _lock(folder, run.job_folder(job))
        yield
    finally:
        os.close(folder)


def _lock(descriptor: int, folder: Path) -> None:
    """Lock an open folder; the system releases the lock when the process ends."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # LOCK_NB: fail at once instead of waiting
    except BlockingIOError:
        raise InputError(f"{folder}: another process is training this network") from None


def save_epoch(run: Run, job: Job, training: Training, parity_figures: dict) -> None:
    """Write the files of a training after an epoch; for `parity_figures` see `parity.measure_parity`."""
    folder = run.job_folder(job)
    metadata = _network_metadata(run, job, training) | {"parity": parity_figures}
    # The weights come before the state: a training that is killed in between repeats the epoch and writes them again.
    if training.progress.improved:
        checkpoint.save(run.checkpoint_path(job), training.evaluated_model.state_dict(), metadata)
    if not training.progress.finished(run.recipe.optim_for(job.backbone)):  # else `mark_trained` would delete the state
        save_state(run, job, training)
    if run.recipe.machine.tensorboard:
        _write_tensorboard(folder / "tensorboard", training.log[-1])
    # The state holds the whole log, so a resumed training writes all epochs again.
    rows = (list(record.values()) for record in training.log)
    files.write_csv(folder / "log.csv", list(training.log[0]), rows)


def load_log(run: Run, job: Job) -> list[dict[str, float]]:
    """The log record of each epoch so far, by column name; empty before the end of the first epoch.

    Raises InputError for a malformed file.
    """
    path = run.job_folder(job) / "log.csv"
    if not path.exists():
        return []
    with files.read_csv(path, "a training log") as (header, rows):  # turns a ValueError of the block into an InputError
        records = [dict(zip(header, map(float, row), strict=True)) for row in rows]
        missing = [name for name in LOG_COLUMNS if name not in header]
        if missing:
            raise ValueError(f"columns are missing: {', '.join(missing)}")
        if not all(math.isfinite(value) for record in records for value in record.values()):
            raise ValueError("a value is not finite")
    return records


def _write_tensorboard(folder: Path, record: dict) -> None:
    """Add an epoch's record; events of this and later epochs, from before an interruption, are purged."""
    with summary_writer()(str(folder), purge_step=record["epoch"]) as writer:
        for name in record.keys() - {"epoch"}:
            writer.add_scalar(name, record[name], record["epoch"])


def summary_writer() -> type:
    """TensorBoard's SummaryWriter. Raises InputError where TensorBoard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise InputError("machine.tensorboard needs TensorBoard: pip install 'melgpu[tensorboard]'") from None
    return SummaryWriter


def save_state(run: Run, job: Job, training: Training) -> None:
    """Write all that a training needs to resume from its current step."""
    tensors, state = training.state()
    metadata = {"recipe_digest": run.recipe.digest(), "pseudo_digest": run.pseudo_digest(job.round), "training": state}
    checkpoint.save(run.job_folder(job) / "last.safetensors", tensors, metadata)


def resume(run: Run, job: Job, training: Training) -> bool:
    """Restore the saved state of an interrupted training; False where there is none. Raises CheckpointError."""
    path = run.job_folder(job) / "last.safetensors"
    if not path.exists():
        return False
    tensors, metadata = checkpoint.load(path)
    if metadata.get("recipe_digest") != run.recipe.digest():
        raise checkpoint.CheckpointError(f"{path}: made with another recipe")
    if metadata.get("pseudo_digest") != run.pseudo_digest(job.round):
        raise checkpoint.CheckpointError(f"{path}: made with other pseudo labels")
    schema.validate_metadata(schema.StateMetadata, metadata, path)
    try:
        training.restore(tensors, metadata["training"], run.recipe.optim_for(job.backbone))
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise checkpoint.CheckpointError(f"{path}: does not fit {job.name} ({one_line(error)})") from None
    return True


def mark_trained(run: Run, job: Job, training: Training) -> None:
    """Mark a job as trained: write the record of its best epoch, delete its state."""
    # Of equal epochs max() takes the first, whose weights were saved: `improved` needs a higher accuracy.
    best = max(training.log, key=lambda record: record["window_accuracy"])
    # scores.json is the mark: once it exists, the state is not needed any more.
    files.write_text(run.job_folder(job) / "scores.json", json.dumps(best) + "\n")
    (run.job_folder(job) / "last.safetensors").unlink(missing_ok=True)


def _network_metadata(run: Run, job: Job, training: Training) -> dict:
    return {
        **asdict(job),
        "class_names": run.class_names,
        "recipe": json.loads(run.recipe.to_json()),  # as JSON data
        "recipe_digest": run.recipe.digest(),
        "pseudo_digest": run.pseudo_digest(job.round),
        "scores": training.log[-1],
        "environment": run.environment,
    }
