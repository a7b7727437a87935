"""Where the time of training went: network by network, from their logs."""

from dataclasses import dataclass

from melgpu.runs.run import Run
from melgpu.training import checkpointing
from melgpu.training.loop import STAGES


@dataclass(frozen=True)
class Spent:
    """Training of one backbone in one round, all its folds together.

    seconds : by stage, validation among them
    windows_per_s : trained on, by each process, while it trains; 0 where nothing is known
    """

    backbone: str
    networks: int
    epochs: int
    seconds: dict[str, float]
    windows_per_s: float

    @property
    def total_s(self) -> float:
        return sum(self.seconds.values())


def logs(run: Run, round_number: int) -> dict[str, dict[int, list[dict[str, float]]]]:
    """{backbone: {fold: its training's records}}, of trainings that have ended an epoch. Raises InputError."""
    found: dict[str, dict[int, list[dict[str, float]]]] = {}
    for job in run.jobs(round_number):
        if records := checkpointing.log(run, job):
            found.setdefault(job.backbone, {})[job.fold] = records
    return found


def spent(run: Run, backbone: str, folds: dict[int, list[dict[str, float]]]) -> Spent:
    """What a backbone's `logs` add up to."""
    records = [record for log in folds.values() for record in log]
    seconds = {stage: sum(record[f"{stage}_s"] for record in records) for stage in STAGES}
    trained_s = sum(own for stage, own in seconds.items() if stage != "validation")
    steps = sum(record["steps_per_s"] * _trained_s(record) for record in records)  # of resumed epochs what was seen
    batch_size = run.recipe.optim_for(backbone).batch_size
    return Spent(backbone, len(folds), len(records), seconds, steps * batch_size / trained_s if trained_s else 0.0)


def _trained_s(record: dict[str, float]) -> float:
    return sum(record[f"{stage}_s"] for stage in STAGES if stage != "validation")
