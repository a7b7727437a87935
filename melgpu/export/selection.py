"""Which trained network of a run is exported, and which networks predict.py uses instead."""

from melgpu import cli
from melgpu.errors import InputError
from melgpu.prediction.ensemble import predicting_round
from melgpu.runs.job import Job
from melgpu.runs.run import Run
from melgpu.stacking.stack import MEAN


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
    several = f"a file holds one network, and {len(chosen)} are trained; choose one: {names}"
    raise InputError(f"{run.folder}: {several}{_student(run)}")


def describe_others(run: Run, job: Job) -> str | None:
    """A note that predict.py uses other networks than the exported one, or stackers; None where it does not."""
    round_number = predicting_round(run)
    jobs = run.trained_jobs(round_number)
    if jobs == [job]:
        if not _has_stackers(run, round_number):
            return None
        return f"note: predict.py combines this network's probabilities by the stackers of round {round_number}"
    others = f"all {len(jobs)} networks" if len(jobs) > 1 else "the network"
    student = _student(run) if len(jobs) > 1 else ""
    used = f"predict.py uses {others} of round {round_number}, and its probabilities differ"
    return f"note: this is one network of round {job.round}: {used}{student}"


def _has_stackers(run: Run, round_number: int) -> bool:
    """Whether stackers make the final probabilities of a round."""
    if not run.is_stacked(round_number) or not run.round_spec(round_number).blend:
        return False
    return run.scores(round_number).final_predictor != MEAN


def _student(run: Run) -> str:
    """How one network can stand for all of a run; empty before it can teach."""
    if not run.last_stacked_round:
        return ""
    call = cli.command_line("train", "--run", "NEW", "--recipe", "student", "--teacher", str(run.folder))
    return f"; or train one network that learns from all: {call}"
