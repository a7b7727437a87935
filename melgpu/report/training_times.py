"""Training times by backbone and stage, from the logs of a round's networks."""

from dataclasses import dataclass

from melgpu.models.metadata import EpochRecord
from melgpu.runs.run import Run
from melgpu.training import checkpointing
from melgpu.training.stage_timer import STAGES


@dataclass(frozen=True)
class TrainingTime:
    """Training of one backbone in one round, all its folds together.

    seconds : by stage, validation included
    windows_per_s : training windows of each process, validation time excluded; 0 where it is not known
    """

    backbone: str
    networks: int
    epochs: int
    seconds: dict[str, float]
    windows_per_s: float

    @property
    def total_s(self) -> float:
        return sum(self.seconds.values())


FoldLogs = dict[int, list[EpochRecord]]  # the training logs of one backbone, by fold


def training_logs(run: Run, round_number: int) -> dict[str, FoldLogs]:
    """The training logs by backbone, of trainings that have finished an epoch. Raises InputError."""
    logs: dict[str, FoldLogs] = {}
    for job in run.jobs(round_number):
        records = checkpointing.load_log(run, job)
        if records:
            logs.setdefault(job.backbone, {})[job.fold] = records
    return logs


def training_time(run: Run, backbone: str, folds: FoldLogs) -> TrainingTime:
    """Sums over the training logs of a backbone's folds."""
    records = [record for log in folds.values() for record in log]
    seconds = {}
    for stage in STAGES:
        seconds[stage] = sum(_stage_s(record, stage) for record in records)
    training_s = sum(stage_s for stage, stage_s in seconds.items() if stage != "validation")
    # Rate times time: the logs have no number of steps. Of a resumed epoch it is what was logged.
    steps = sum(record.steps_per_s * _training_s(record) for record in records)
    batch_size = run.recipe.optim_for(backbone).batch_size
    windows_per_s = steps * batch_size / training_s if training_s else 0.0
    return TrainingTime(backbone, len(folds), len(records), seconds, windows_per_s)


def _stage_s(record: EpochRecord, stage: str) -> float:
    return float(getattr(record, f"{stage}_s"))


def _training_s(record: EpochRecord) -> float:
    return sum(_stage_s(record, stage) for stage in STAGES if stage != "validation")
