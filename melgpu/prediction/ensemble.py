"""All networks of a run's latest stacked round, with their stackers, as one judge of new music.

Feature settings come from the checkpoints, never from flags.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from melgpu.errors import InputError
from melgpu.models import checkpoint, classifier
from melgpu.models.classifier import Classifier
from melgpu.recipe import Recipe, validate_recipe
from melgpu.runs.run import Job, Run
from melgpu.stacking.stack import MEAN, Stack, final_predictor, fold_groups, load_stack


@dataclass(frozen=True)
class Ensemble:
    """K networks with what their checkpoints say of them, and the stacks by folds (none before a round is stacked).

    `digests` are the checkpoints', shape (K,); `answer` is the judge that counts.
    """

    networks: list[tuple[Classifier, dict]]
    digests: list[str]
    stacks: dict[tuple[int, ...], Stack]
    final_predictor: str
    class_names: list[str]
    recipe: Recipe

    def combine(self, probs: np.ndarray) -> np.ndarray:
        """One answer for each track, shape (N, C), from its probabilities by each network, shape (K, N, C)."""
        if not self.stacks or self.final_predictor == MEAN:
            return probs.mean(axis=0)
        answers = []
        for fold, stack in ((fold, stack) for folds, stack in self.stacks.items() for fold in folds):
            members = [k for k, (_, metadata) in enumerate(self.networks) if metadata["fold"] == fold]
            answers.append(stack.predict(probs[members].swapaxes(0, 1))[self.final_predictor])
        return np.mean(answers, axis=0)


def load_ensemble(run: Run) -> Ensemble:
    """The latest stacked round, or else the trained networks of the first. Raises InputError where there are none."""
    stacked = [number for number in range(1, len(run.recipe.rounds) + 1) if run.is_stacked(number)]
    number = stacked[-1] if stacked else 1
    jobs = run.trained_jobs(number)
    if not jobs:
        raise InputError(f"{run.folder}: no trained network yet; run train.py first")
    networks = load_networks(run, jobs)
    spec, stacking_spec = run.spec(number), run.recipe.stacking
    groups = fold_groups(stacking_spec.protocol, spec.folds) if stacked else []
    stacks = {folds: _load_stack(run, number, folds) for folds in groups}
    answer = final_predictor(stacking_spec.final_predictor, len(spec.blend))
    recipe = validate_recipe(networks[0][1]["recipe"], f"of {run.checkpoint(jobs[0])}")
    digests = [checkpoint.digest(run.checkpoint(job)) for job in jobs]
    return Ensemble(networks, digests, stacks, answer, run.class_names, recipe)


def load_networks(run: Run, jobs: list[Job]) -> list[tuple[Classifier, dict]]:
    """The networks of these very jobs, with what their checkpoints say of them. Raises InputError."""
    loaded = [classifier.load(run.checkpoint(job)) for job in jobs]
    problems = []
    for job, (_, metadata) in zip(jobs, loaded, strict=True):
        wanted = asdict(job) | {"pseudo_digest": run.pseudo_digest(job.round)}
        problems += _differences(run, run.checkpoint(job), metadata, wanted)
    if problems:
        raise InputError(problems)
    return loaded


def _load_stack(run: Run, number: int, folds: tuple[int, ...]) -> Stack:
    path, spec = run.stack_path(number, folds), run.spec(number)
    stack, metadata = load_stack(path)
    wanted = {"round": number, "folds": list(folds), "models": list(spec.backbones)}
    problems = _differences(run, path, metadata, wanted | {"pseudo_digest": run.pseudo_digest(number)})
    if (stack.num_models, stack.num_classes) != (len(spec.backbones), len(run.class_names)):
        problems.append(f"{path}: stacks other numbers of networks and classes")
    if stack.weights != spec.blend:
        problems.append(f"{path}: blends {stack.weights}, not {spec.blend}")
    if problems:
        raise InputError(problems)
    return stack


def _differences(run: Run, path: Path, metadata: dict, wanted: dict) -> list[str]:
    """What a checkpoint says of itself that its place in the run does not."""
    wanted = wanted | {"class_names": run.class_names, "recipe_digest": run.recipe.digest()}
    return [f"{path}: of another {key} than its run's" for key in wanted if metadata.get(key) != wanted[key]]
