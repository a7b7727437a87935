"""Which trained network of a run is exported."""

from melgpu.errors import InputError
from melgpu.runs.run import Job, Run


def select_job(run: Run, backbone: str | None, fold: int | None) -> Job:
    """The only trained network of a run, or of this backbone or fold; of two rounds, that of the later one.

    Raises InputError, which names those that can be exported.
    """
    trained: dict[str, Job] = {}
    for round_number in range(1, len(run.recipe.rounds) + 1):
        trained.update((job.name, job) for job in run.trained_jobs(round_number))
    if not trained:
        raise InputError(f"{run.folder}: no trained network yet; run train.py first")
    chosen = [job for job in trained.values() if backbone in (None, job.backbone) and fold in (None, job.fold)]
    if len(chosen) == 1:
        return chosen[0]
    names = "; ".join(f"--backbone {job.backbone} --fold {job.fold}" for job in chosen or trained.values())
    if not chosen:
        raise InputError(f"{run.folder}: no such network is trained; there are: {names}")
    raise InputError(f"{run.folder}: a file holds one network, and {len(chosen)} are trained; choose one: {names}")
