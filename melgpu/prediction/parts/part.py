"""One part of a list to its file: predicted chunk by chunk in bounded memory, logged, written when it is whole.

A chunk is whole batches, but for the last one of a part. A batch that is not full is computed as a full one, so that
the answer for a file does not depend on its neighbours: to the bit on a CPU in one thread, elsewhere by rounding.
"""

import contextlib
import itertools
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from melgpu import console
from melgpu.audio.remote import is_url
from melgpu.console import Tracker
from melgpu.data.loader import WindowLoader
from melgpu.errors import InputError
from melgpu.prediction.ensemble import load_ensemble
from melgpu.prediction.parts.contract import Contract
from melgpu.prediction.parts.file_list import FileList
from melgpu.prediction.parts.part_log import Answers, PartLog
from melgpu.prediction.parts.previous import PreviousAnswers, merge_answers, split_known
from melgpu.prediction.parts.scheduler import Part
from melgpu.prediction.predictor import TrackPredictor, recipe_for_new_music
from melgpu.prediction.table import FileStatus, column_names, file_status, used_seconds
from melgpu.prediction.table_writer import MAX_GROUP_ROWS, open_table
from melgpu.runs.run import Run

CHUNK_FILES = 1024  # at least: what they need is in memory, and the loader pauses between chunks
MERGED_GROUP_ROWS = 2**22  # of all parts together, a group of each of which a merge reads at the same time
MIN_ABSENT_FILES = 20  # that are the first of a part: if there are none of them, a folder is probably not mounted


@dataclass(frozen=True)
class PartTask:
    """What one task does: a part of a list into a folder; `previous` is an earlier table, or None."""

    part: Part
    names: FileList
    contract: Contract
    folder: Path
    previous: Path | None

    @property
    def path(self) -> Path:
        """The file of the part."""
        return self.contract.part_path(self.folder, self.part.index)

    @property
    def log_path(self) -> Path:
        return self.folder / f".part-{self.part.index:05d}.log"

    @property
    def chunk_log_path(self) -> Path:
        """The resume log of the chunk that is being predicted."""
        return self.folder / f".part-{self.part.index:05d}.chunk.resume_log"

    @property
    def rows(self) -> int:
        return self.contract.part_rows(self.part.index)

    def chunks(self, first: int, size: int) -> Iterator[list[str]]:
        """The paths of the part from the `first` on, `size` at a time."""
        paths = self.names.part(self.part.index, self.part.count, first)
        while chunk := list(itertools.islice(paths, size)):
            yield chunk


def is_finished(task: PartTask) -> bool:
    """Whether the file of a part exists; says so."""
    if task.path.exists():
        console.say(f"{task.part} is finished: {task.path}")
        return True
    return False


def predict_part(run: Run, task: PartTask, device: torch.device) -> None:
    """Write the file of a part, unless it exists. Raises InputError."""
    if is_finished(task):
        return
    metadata = {"contract": task.contract.model_dump(mode="json"), "part": task.part.index}
    wait_note = f"{task.part}: another process predicts it; waiting for it"
    with PartLog(task.log_path, metadata, wait_note) as log:
        if is_finished(task):  # by the process that this one has waited for
            return
        num_done = sum(len(answers.errors) for answers in log.saved())
        if num_done < task.rows:
            _predict_rest(run, task, log, num_done, device)
        num_unusable = _write_part(task, log)
    for path in (task.log_path, task.chunk_log_path):
        path.unlink(missing_ok=True)
    errors = f", {num_unusable:,} without usable audio" if num_unusable else ""
    console.say(f"{task.part}: {console.counted(task.rows, 'track')}{errors}: {task.path}")


def _predict_rest(run: Run, task: PartTask, log: PartLog, num_done: int, device: torch.device) -> None:
    """Add the answers that the log lacks."""
    ensemble = load_ensemble(run)
    console.say(f"Predicted by {ensemble.description}")
    recipe = recipe_for_new_music(ensemble, run.recipe)
    predictor = TrackPredictor(ensemble, recipe, device)
    batch_size = recipe.loader.predict_batch_size
    batch_files = batch_size // math.gcd(batch_size, predictor.windows_per_track)  # the fewest in whole batches
    chunk_size = batch_files * math.ceil(CHUNK_FILES / batch_files)
    num_windows = task.rows * predictor.windows_per_track
    num_copied = 0
    with contextlib.ExitStack() as stack:
        loader = stack.enter_context(WindowLoader([], recipe.audio, recipe.loader, device))
        previous = stack.enter_context(_open_previous(task)) if task.previous else None
        title = f"{task.part}: predicting {console.counted(task.rows, 'track')}"
        tracker = stack.enter_context(console.progress(title, num_windows, "windows"))
        tracker.skip(num_done * predictor.windows_per_track)
        for paths in task.chunks(num_done, chunk_size):
            _check_mounted(task, paths)
            statuses = [file_status(path) for path in paths]  # before decoding: a file that changes is another
            known, positions = split_known(paths, statuses, previous)
            num_copied += len(known)
            tracker.skip(len(known) * predictor.windows_per_track)
            new_paths = [paths[position] for position in positions]
            new_statuses = [statuses[position] for position in positions]
            new = _predict(predictor, loader, new_paths, new_statuses, task.chunk_log_path, tracker)
            log.add(merge_answers(known, new, positions, statuses) if known else new)
    if previous:
        console.say(f"{task.part}: {num_copied:,} answers copied from {task.previous}")


def _open_previous(task: PartTask) -> PreviousAnswers:
    assert task.previous
    wanted = task.names.part(task.part.index, task.part.count)
    return PreviousAnswers(task.previous, task.contract.class_names, wanted, task.rows)


def _predict(
    predictor: TrackPredictor,
    loader: WindowLoader,
    paths: list[str],
    statuses: Sequence[FileStatus],
    log_path: Path,
    tracker: Tracker,
) -> Answers:
    """The answers for some files, resumed from the log of a killed task where it has the same files."""
    if not paths:
        return Answers(np.zeros((0, len(predictor.ensemble.class_names)), np.float32), [], [], [])
    loader.set_paths(paths)
    probs = predictor.predict(loader, log_path, tracker, pad=True)
    errors = [loader.errors.get(path) for path in paths]
    track_s = predictor.recipe.audio.track_s
    used_s = [used_seconds(path, error, track_s) for path, error in zip(paths, errors, strict=True)]
    return Answers(probs, errors, used_s, statuses)


def _check_mounted(task: PartTask, paths: list[str]) -> None:
    """Raise InputError where no file of a chunk is here: a table of errors would be a finished part."""
    local = [path for path in paths if not is_url(path)]
    if len(local) < MIN_ABSENT_FILES or any(map(os.path.exists, local)):
        return
    absent = f"none of {len(local):,} files of {task.names.path} is here, as {local[0]}"
    raise InputError(f"{task.part}: {absent}: is their folder mounted?")


def _write_part(task: PartTask, log: PartLog) -> int:
    """Write the file of a part from its log; returns the number of tracks without usable audio."""
    contract = task.contract
    names = column_names(contract.class_names)
    paths = task.names.part(task.part.index, task.part.count)
    num_unusable = 0
    for left in task.folder.glob(f".{task.path.name}.*.tmp"):  # by a task that was killed while it wrote
        left.unlink(missing_ok=True)
    metadata = contract.metadata(task.part.index).model_dump_json()
    group_rows = min(MAX_GROUP_ROWS, max(CHUNK_FILES, MERGED_GROUP_ROWS // contract.parts))
    with open_table(task.path, names, metadata, group_rows) as writer:
        for answers in log.saved():
            chunk = list(itertools.islice(paths, len(answers.errors)))
            table = answers.table(chunk, contract.class_names, contract.min_confidence)
            num_unusable += int((~table.usable).sum())
            writer.write(table.columns())
    return num_unusable
