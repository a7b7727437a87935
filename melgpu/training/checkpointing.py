"""The files of a training in its job's folder: the best weights, its log, and its state.

After each epoch best.safetensors, last.pt and log.csv are written, in this order; last.pt also every
`machine.save_minutes`. A thread writes them from a copy in host memory, while the device goes on training. At the end
scores.json is written and last.pt is deleted. A training that is killed at any point resumes from last.pt, with the
same result.
"""

import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from melgpu import console, files
from melgpu.errors import InputError, one_line
from melgpu.features.parity import ParityFigures
from melgpu.models import checkpoint
from melgpu.models.checkpoint import CheckpointError
from melgpu.models.metadata import EpochRecord, NetworkMetadata
from melgpu.models.schema import describe_error
from melgpu.runs.job import Job
from melgpu.runs.run import Run
from melgpu.training.background_writer import BackgroundWriter, HostCopy
from melgpu.training.state import Training, TrainingState

LOG_COLUMNS = tuple(EpochRecord.model_fields)
REMEDY = "delete it to train this network anew"


@contextmanager
def job_lock(run: Run, job: Job) -> Iterator[None]:
    """An exclusive lock on a job's folder. Raises InputError where another process trains the same network."""
    folder = run.paths.job_folder(job)
    folder.mkdir(parents=True, exist_ok=True)
    # A file, which stays: NFS locks nothing that is not open for writing, as a folder cannot be.
    with open(run.paths.job_lock(job), "ab") as file:
        try:
            if not files.lock(file.fileno()):
                console.say_once(f"{run.folder}: {files.UNLOCKED_NOTE}")
        except BlockingIOError:
            raise InputError(f"{folder}: another process is training this network") from None
        yield


def save_epoch(run: Run, job: Job, training: Training, parity_figures: ParityFigures, writer: BackgroundWriter) -> None:
    """Write the files of a training after an epoch. Raises OSError of an earlier write."""
    weights = HostCopy(training.evaluated_model.state_dict()) if training.progress.improved else None
    is_finished = training.progress.finished(run.recipe.optim_for(job.backbone))
    # `mark_trained` would delete the state of a finished one.
    state = None if is_finished else _copy_state(run, job, training)
    writer.submit(_write_epoch, run, job, list(training.log), parity_figures, weights, state)


def _write_epoch(
    run: Run,
    job: Job,
    log: list[EpochRecord],
    parity_figures: ParityFigures,
    weights: HostCopy | None,
    state: HostCopy | None,
) -> None:
    # The weights come before the state: a training that is killed in between repeats the epoch and writes them again.
    if weights:
        metadata = NetworkMetadata(
            provenance=run.job_provenance(job),
            class_names=run.class_names,
            recipe=run.recipe,
            scores=log[-1],
            parity=parity_figures,
            environment=run.environment,
        )
        checkpoint.save(run.paths.checkpoint(job), weights.get(), metadata)
    if state:
        _write_state(run.paths.training_state(job), state)
    if run.recipe.machine.tensorboard:
        _write_tensorboard(run.paths.tensorboard(job), log[-1])
    # The state holds the whole log, so a resumed training writes all epochs again.
    rows = ([value for _, value in record] for record in log)
    files.write_csv(run.paths.training_log(job), LOG_COLUMNS, rows)


def load_log(run: Run, job: Job) -> list[EpochRecord]:
    """The log record of each epoch so far; none before the end of the first. Raises InputError for a malformed file."""
    path = run.paths.training_log(job)
    if not path.exists():
        return []
    with files.read_csv(path, "a training log", LOG_COLUMNS) as (_, rows):
        return [_parse_record(row) for row in rows]


def _parse_record(row: list[str]) -> EpochRecord:
    """Raises ValueError."""
    if len(row) != len(LOG_COLUMNS):
        raise ValueError(f"a row of {len(row)} fields")
    try:
        return EpochRecord.model_validate_strings(dict(zip(LOG_COLUMNS, row, strict=True)))
    except ValueError as error:
        raise ValueError(describe_error(error)) from None


def _write_tensorboard(folder: Path, record: EpochRecord) -> None:
    """Add an epoch's record; events of this and later epochs, from before an interruption, are purged."""
    with summary_writer()(str(folder), purge_step=record.epoch) as writer:
        for name, value in record:
            if name != "epoch":
                writer.add_scalar(name, value, record.epoch)


def summary_writer() -> type:
    """TensorBoard's SummaryWriter. Raises InputError where TensorBoard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise InputError("machine.tensorboard needs TensorBoard: pip install 'melgpu[tensorboard]'") from None
    return SummaryWriter


def save_state(run: Run, job: Job, training: Training, writer: BackgroundWriter) -> None:
    """Write all that a training needs to resume from its current step. Raises OSError of an earlier write."""
    writer.submit(_write_state, run.paths.training_state(job), _copy_state(run, job, training))


def _copy_state(run: Run, job: Job, training: Training) -> HostCopy:
    return HostCopy(training.state(run.job_provenance(job)).model_dump())


def _write_state(path: Path, state: HostCopy) -> None:
    with files.atomic_write(path) as temporary:
        try:
            with open(temporary, "wb") as file:  # given a path, torch would write its name into the file
                torch.save(state.get(), file)
        except RuntimeError:  # its text does not tell the cause
            raise OSError(f"{path}: cannot be written; is the disk full?") from None


def delete_unused_states(run: Run, jobs: Iterable[Job]) -> None:
    """Delete the states of trained networks, which a process leaves that is killed at its end."""
    for job in jobs:
        if run.is_trained(job):
            run.paths.training_state(job).unlink(missing_ok=True)


def resume(run: Run, job: Job, training: Training) -> bool:
    """Restore the saved state of an interrupted training; False where there is none. Raises CheckpointError."""
    path = run.paths.training_state(job)
    if not path.exists():
        return False
    state = _load_state(path)
    differences = state.provenance.differences(run.job_provenance(job))
    if differences:
        raise CheckpointError(f"{path}: {', '.join(differences)}; {REMEDY}")
    try:
        training.restore(state, run.recipe.optim_for(job.backbone))
    except (ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path}: does not fit {job.name} ({one_line(error)}); {REMEDY}") from None
    return True


def _load_state(path: Path) -> TrainingState:
    """A state of unknown origin: loading runs no code of it."""
    try:
        files.check_regular_file(path)
        _check_archive(path)
        data = torch.load(path, map_location="cpu", weights_only=True)
        return TrainingState.model_validate(data)
    except Exception as error:  # zipfile, pickle, torch and pydantic each have their own
        reason = describe_error(error)
        raise CheckpointError(f"{path}: damaged, or not the state of a training ({reason}); {REMEDY}") from None


def _check_archive(path: Path) -> None:
    """Raise ValueError for what torch.save does not write, and for wrong checksums, which torch does not check."""
    with open(path, "rb") as file:
        if file.read(4) != b"PK\x03\x04":  # other formats of torch have no checksums
            raise ValueError("not a zip archive")
    with zipfile.ZipFile(path) as archive:
        # torch does not compress; a compressed member may expand to any size.
        if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
            raise ValueError("a compressed archive")
        if damaged := archive.testzip():
            raise ValueError(f"{damaged} has a wrong checksum")


def mark_trained(run: Run, job: Job, training: Training) -> None:
    """Mark a job as trained: write the record of its best epoch, delete its state."""
    # Of equal epochs max() takes the first, whose weights were saved: `improved` needs a higher accuracy.
    best = max(training.log, key=lambda record: record.window_accuracy)
    # scores.json is the mark: once it exists, the state is not needed any more.
    files.write_text(run.paths.job_scores(job), best.model_dump_json() + "\n")
    run.paths.training_state(job).unlink(missing_ok=True)
