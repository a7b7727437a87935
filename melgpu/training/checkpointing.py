"""What a training leaves in its job's folder: the best weights, its log, and what it needs to go on.

Order of writing: best.safetensors, last.safetensors, log.csv after each epoch, last.safetensors now and then between;
scores.json marks the end, and last.safetensors goes. Killed anywhere, a training goes on from last.safetensors to the
same end.
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
from melgpu.training.loop import STAGES, Training

LOG_COLUMNS = ("epoch", "loss", "window_accuracy", "steps_per_s", *(f"{stage}_s" for stage in STAGES))  # among others


@contextmanager
def job_lock(run: Run, job: Job) -> Iterator[None]:
    """Keep other processes from training the same network meanwhile. Raises InputError where one does."""
    run.job_folder(job).mkdir(parents=True, exist_ok=True)
    folder = os.open(run.job_folder(job), os.O_RDONLY)
    try:
        _lock(folder, run.job_folder(job))
        yield
    finally:
        os.close(folder)


def _lock(descriptor: int, folder: Path) -> None:
    """Released by the system whatever happens to this process."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InputError(f"{folder}: another process is training this network") from None


def save_epoch(run: Run, job: Job, training: Training, front_end: dict) -> None:
    """Write a training as it stands after an epoch; `front_end` are its pictures' figures (see `parity.figures`)."""
    folder, metadata = run.job_folder(job), _network_metadata(run, job, training) | {"parity": front_end}
    if training.progress.improved:
        checkpoint.save(run.checkpoint(job), training.evaluated_model.state_dict(), metadata)
    if not training.progress.finished(run.recipe.optim_for(job.backbone)):
        save_state(run, job, training)
    if run.recipe.machine.tensorboard:
        _write_tensorboard(folder / "tensorboard", training.log[-1])
    files.write_csv(folder / "log.csv", list(training.log[0]), (list(epoch.values()) for epoch in training.log))


def load_log(run: Run, job: Job) -> list[dict[str, float]]:
    """A training's record of each epoch so far, its columns by name; none where it has not ended one.

    Raises InputError for a damaged or foreign file.
    """
    path = run.job_folder(job) / "log.csv"
    if not path.exists():
        return []
    with files.read_csv(path, "a training's log") as (header, rows):
        epochs = [dict(zip(header, map(float, row), strict=True)) for row in rows]
        if missing := [name for name in LOG_COLUMNS if name not in header]:
            raise ValueError(f"it lacks {', '.join(missing)}")
        if not all(math.isfinite(value) for epoch in epochs for value in epoch.values()):
            raise ValueError("a number that is not finite")
    return epochs


def _write_tensorboard(folder: Path, record: dict) -> None:
    """Add an epoch's record; what was there of this epoch and later ones no longer counts."""
    with summary_writer()(str(folder), purge_step=record["epoch"]) as writer:
        for name in record.keys() - {"epoch"}:
            writer.add_scalar(name, record[name], record["epoch"])


def summary_writer() -> type:
    """TensorBoard's. Raises InputError where it is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise InputError("machine.tensorboard needs TensorBoard: pip install 'melgpu[tensorboard]'") from None
    return SummaryWriter


def save_state(run: Run, job: Job, training: Training) -> None:
    """Write all that a training needs to go on from this very step."""
    tensors, state = training.state()
    metadata = {"recipe_digest": run.recipe.digest(), "pseudo_digest": run.pseudo_digest(job.round), "training": state}
    checkpoint.save(run.job_folder(job) / "last.safetensors", tensors, metadata)


def resume(run: Run, job: Job, training: Training) -> bool:
    """Bring a fresh training to where an interrupted one stood; False where none was. Raises CheckpointError."""
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
    """Mark a job as trained."""
    best = max(training.log, key=lambda record: record["window_accuracy"])
    files.write_text(run.job_folder(job) / "scores.json", json.dumps(best) + "\n")
    (run.job_folder(job) / "last.safetensors").unlink(missing_ok=True)


def _network_metadata(run: Run, job: Job, training: Training) -> dict:
    return {
        **asdict(job),
        "class_names": run.class_names,
        "recipe": json.loads(run.recipe.to_json()),
        "recipe_digest": run.recipe.digest(),
        "pseudo_digest": run.pseudo_digest(job.round),
        "scores": training.log[-1],
        "environment": run.environment,
    }
