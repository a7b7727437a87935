"""Writes a teacher's distributions over the windows of its student's tracks, part by part; a killed call resumes."""

import contextlib
import hashlib

import numpy as np
import torch

from melgpu import console, distributed
from melgpu.errors import InputError, is_out_of_memory
from melgpu.models import checkpoint
from melgpu.prediction.distillation import speed
from melgpu.prediction.ensemble import load_networks
from melgpu.prediction.round import PredictionPass, merge_shards, open_log
from melgpu.runs import sampling, timings
from melgpu.runs.distillation import distributions
from melgpu.runs.distillation.distributions import Distributions, TeacherProvenance
from melgpu.runs.distillation.teacher import Part, Teacher, plan_parts, say_counts
from melgpu.runs.run import Run


def write_distributions(run: Run, teacher: Teacher, device: torch.device) -> None:
    """Write the parts that a student does not have yet. Raises InputError."""
    parts = plan_parts(run.manifest, teacher)
    missing = [part for part in parts if not (run.teacher_folder / f"{part.name}.npz").exists()]
    distributed.barrier()  # no process writes before all have looked
    if missing:
        say_counts(parts, teacher)
    try:
        for part in missing:
            write_part(run, teacher, part, device)
        speed.measure_teacher(run, teacher.run, device)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        reason = f"the teacher's networks do not fit into the memory of {device} together"
        raise InputError(f"{reason}: set a smaller loader.predict_batch_size, or use --device cpu") from None
    if distributed.is_main_process():
        for path in run.teacher_folder.glob("*.resume_log"):  # perhaps of a process that was killed after its part
            path.unlink()
    distributed.barrier()


def write_part(run: Run, teacher: Teacher, part: Part, device: torch.device) -> None:
    """Predict and write one part."""
    networks = load_networks(teacher.run, part.jobs)
    # Pictures and windows are those of the networks; where decoding and machine differ, the student's settings hold.
    updates = {"loader": run.recipe.loader, "machine": run.recipe.machine}
    recipe = networks[0].metadata.recipe.model_copy(update=updates)
    digests = [checkpoint.digest(teacher.run.checkpoint_path(job)) for job in part.jobs]
    index = sampling.teacher_windows(run, part.rows)
    of_networks = f"with {console.counted(len(networks), 'network')} of the teacher"
    title = f"predicting {console.counted(len(part.rows), 'track')} {of_networks}"
    log_path = run.teacher_folder / f"{part.name}-process{distributed.rank()}.resume_log"
    timing: contextlib.AbstractContextManager = contextlib.nullcontext()
    if distributed.is_main_process() and not log_path.exists():  # how much a resumed pass still predicts is not known
        timing = timings.measure(run.timings_path, 1, "teacher", len(networks) * len(index), "windows")
    with open_log(log_path, digests, recipe, rows=_digest(part.rows), starts=_digest(index.starts)) as log, timing:
        shards = PredictionPass(networks, recipe, index, title, device, mean=True).shards(run, log)
        if shards:  # on the main process
            probs, valid = merge_shards(shards)
            num_windows = len(index) // len(part.rows)
            shape = len(part.rows), num_windows
            saved = Distributions(
                ids=tuple(run.manifest.ids[row] for row in part.rows),
                splits=tuple(run.manifest.splits[row] for row in part.rows),
                origins=part.origins,
                unusable=np.logical_not(valid.reshape(shape)).any(axis=1),
                starts=index.starts[:num_windows],
                probs=probs[0].reshape(*shape, -1),
                class_names=tuple(run.class_names),
                provenance=TeacherProvenance(teacher=teacher.digest, networks=teacher.provenance(part.jobs)),
            )
            distributions.save(saved, run.teacher_folder / f"{part.name}.npz")
        distributed.barrier()  # no process closes its log, and unlocks it, before the part is saved


def _digest(column: np.ndarray) -> str:
    return hashlib.sha256(column.tobytes()).hexdigest()[:16]
