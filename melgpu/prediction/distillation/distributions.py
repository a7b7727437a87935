"""Writes a teacher's distributions over the windows of its student's tracks, part by part; a killed call resumes."""

import contextlib
import hashlib
from dataclasses import dataclass

import numpy as np
import torch

from melgpu import console, distributed
from melgpu.data.windows import WindowIndex
from melgpu.models import checkpoint
from melgpu.prediction.distillation import speed
from melgpu.prediction.ensemble import load_networks
from melgpu.prediction.round import PredictionPass, in_passes_that_fit, merge_shards, open_log
from melgpu.runs import sampling
from melgpu.runs.distillation import distributions
from melgpu.runs.distillation.distributions import Distributions, TeacherProvenance
from melgpu.runs.distillation.teacher import Part, Teacher, plan_parts, say_counts
from melgpu.runs.formats import timings
from melgpu.runs.job import Job
from melgpu.runs.run import Run


def write_distributions(run: Run, teacher: Teacher, device: torch.device) -> None:
    """Write the parts that a student does not have yet. Raises InputError."""
    parts = plan_parts(run.manifest, teacher)
    missing = [part for part in parts if not run.paths.teacher_part(part.name).exists()]
    distributed.barrier()  # no process writes before all have looked
    if missing:
        say_counts(parts, teacher)
    for part in missing:
        write_part(run, teacher, part, device)
    speed.measure_teacher(run, teacher.run, device)
    if distributed.is_main_process():
        for path in run.paths.teacher_resume_logs():  # perhaps of a process that was killed after its part
            path.unlink()
    distributed.barrier()


def write_part(run: Run, teacher: Teacher, part: Part, device: torch.device) -> None:
    """Predict and write one part."""
    index = sampling.teacher_windows(run, part.rows)
    timing: contextlib.AbstractContextManager = contextlib.nullcontext()
    is_resumed = bool(run.paths.teacher_resume_logs(part.name))
    distributed.barrier()  # no process opens its log before the main process has looked for old ones
    if distributed.is_main_process() and not is_resumed:  # how much a resumed pass still predicts is not known
        timing = timings.measure(run.paths.timings, 1, "teacher", len(part.jobs) * len(index), "windows")
    with contextlib.ExitStack() as logs, timing:
        predictor = PartPredictor(run, teacher, part, index, device, logs)
        means = in_passes_that_fit(predictor.predict, part.jobs)
        if distributed.is_main_process():
            probs, unusable = predictor.join([mean for mean in means if mean is not None])
            saved = Distributions(
                ids=tuple(run.manifest.ids[row] for row in part.rows),
                splits=tuple(run.manifest.splits[row] for row in part.rows),
                origins=part.origins,
                unusable=unusable,
                starts=index.starts[: probs.shape[1]],
                probs=probs,
                class_names=tuple(run.class_names),
                provenance=TeacherProvenance(teacher=teacher.digest, networks=teacher.provenance(part.jobs)),
            )
            distributions.save(saved, run.paths.teacher_part(part.name))
        distributed.barrier()  # no process closes its logs, and unlocks them, before the part is saved


@dataclass(frozen=True)
class MeanPredictions:
    """The mean of some networks: probs (W, C), valid (W,)."""

    num_networks: int
    probs: np.ndarray
    valid: np.ndarray


@dataclass(frozen=True)
class PartPredictor:
    """Predicts the windows `index` of a part's tracks; `logs` keeps the resume logs open, and so locked."""

    run: Run
    teacher: Teacher
    part: Part
    index: WindowIndex
    device: torch.device
    logs: contextlib.ExitStack

    def predict(self, jobs: list[Job]) -> MeanPredictions | None:
        """The mean of some of the part's networks, in one pass; on the main process, and None on others."""
        networks = load_networks(self.teacher.run, jobs)
        # Pictures and windows are those of the networks; of decoding and machine, the student's settings hold.
        updates = {"loader": self.run.recipe.loader, "machine": self.run.recipe.machine}
        recipe = networks[0].metadata.recipe.model_copy(update=updates)
        digests = [checkpoint.digest(self.teacher.run.paths.checkpoint(job)) for job in jobs]
        log_path = self.run.paths.teacher_resume_log(self.part.name, distributed.rank(), digests)
        rows = _digest(self.part.rows)
        log = self.logs.enter_context(open_log(log_path, digests, recipe, rows=rows, starts=_digest(self.index.starts)))
        of_networks = f"with {console.counted(len(networks), 'network')} of the teacher"
        title = f"predicting {console.counted(len(self.part.rows), 'track')} {of_networks}"
        shards = PredictionPass(networks, recipe, self.index, title, self.device, mean=True).shards(self.run, log)
        if not shards:
            return None
        probs, valid = merge_shards(shards)
        return MeanPredictions(len(jobs), probs[0], valid)

    def join(self, means: list[MeanPredictions]) -> tuple[np.ndarray, np.ndarray]:
        """The mean of all networks, probs (R, V, C) of the part's tracks, and which tracks are unusable, (R,)."""
        shape = len(self.part.rows), len(self.index) // len(self.part.rows)
        num_networks = [mean.num_networks for mean in means]
        probs = np.average([mean.probs for mean in means], axis=0, weights=num_networks).astype(np.float32)
        valid = np.logical_and.reduce([mean.valid for mean in means])
        return probs.reshape(*shape, -1), np.logical_not(valid.reshape(shape)).any(axis=1)


def _digest(column: np.ndarray) -> str:
    return hashlib.sha256(column.tobytes()).hexdigest()[:16]
