"""All networks of a run's latest stacked round, with their stackers, as one predictor of new music.

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
    """K networks with their checkpoints' metadata, and the stacks by folds (none before a round is stacked).

    `digests` are the checkpoints', shape (K,); `final_predictor` is the predictor whose classes are the result.
    """

    networks: list[tuple[Classifier, dict]]
    digests: list[str]
    stacks: dict[tuple[int, ...], Stack]
    final_predictor: str
    class_names: list[str]
    recipe: Recipe

    def combine(self, probs: np.ndarray) -> np.ndarray:
        """Final probabilities of each track, shape (N, C), from its probabilities by each network, shape (K, N, C)."""
        if not self.stacks or self.final_predictor == MEAN:
            return probs.mean(axis=0)
        fold_probs = []
        for folds, stack in self.stacks.items():
            for fold in folds:  # a stack takes the networks of one fold, also where it was fitted on several folds
                members = [k for k, (_, metadata) in enumerate(self.networks) if metadata["fold"] == fold]
                matrix = probs[members].swapaxes(0, 1)  # (N, K, C)
                fold_probs.append(stack.predict(matrix)[self.final_predictor])
        return np.mean(fold_probs, axis=0)


def load_ensemble(run: Run) -> Ensemble:
    """The latest stacked round, or else the trained networks of the first. Raises InputError where there are none."""
    stacked = [round_number for round_number in range(1, len(run.recipe.rounds) + 1) if run.is_stacked(round_number)]
    round_number = stacked[-1] if stacked else 1
    jobs = run.trained_jobs(round_number)
    if not jobs:
        raise InputError(f"{run.folder}: no trained network yet; run train.py first")
    networks = load_networks(run, jobs)
    spec = run.round_spec(round_number)
    stacking_spec = run.recipe.stacking
    groups = fold_groups(stacking_spec.protocol, spec.folds) if stacked else []
    stacks = {folds: _load_stack(run, round_number, folds) for folds in groups}
    predictor = final_predictor(stacking_spec.final_predictor, len(spec.blend))
    # The first checkpoint's recipe stands for all: `load_networks` has compared their digests with the run's.
    _, metadata = networks[0]
    recipe = validate_recipe(metadata["recipe"], f"of {run.checkpoint_path(jobs[0])}")
    digests = [checkpoint.digest(run.checkpoint_path(job)) for job in jobs]
    return Ensemble(networks, digests, stacks, predictor, run.class_names, recipe)


def load_networks(run: Run, jobs: list[Job]) -> list[tuple[Classifier, dict]]:
    """The networks of exactly these jobs, with their checkpoints' metadata. Raises InputError."""
    loaded = [classifier.load(run.checkpoint_path(job)) for job in jobs]
    problems = []  # of all checkpoints, so that one message names them all
    for job, (_, metadata) in zip(jobs, loaded, strict=True):
        expected = asdict(job) | {"pseudo_digest": run.pseudo_digest(job.round)}
        problems += _metadata_mismatches(run, run.checkpoint_path(job), metadata, expected)
    if problems:
        raise InputError(problems)
    return loaded


def _load_stack(run: Run, round_number: int, folds: tuple[int, ...]) -> Stack:
    path = run.stack_path(round_number, folds)
    spec = run.round_spec(round_number)
    stack, metadata = load_stack(path)
    expected = {"round": round_number, "folds": list(folds), "models": list(spec.backbones)}
    expected["pseudo_digest"] = run.pseudo_digest(round_number)
    problems = _metadata_mismatches(run, path, metadata, expected)
    if (stack.num_models, stack.num_classes) != (len(spec.backbones), len(run.class_names)):
        problems.append(f"{path}: was fitted for other numbers of networks and classes")
    if stack.weights != spec.blend:
        problems.append(f"{path}: blend weights {stack.weights}, not {spec.blend}")
    if problems:
        raise InputError(problems)
    return stack


def _metadata_mismatches(run: Run, path: Path, metadata: dict, expected: dict) -> list[str]:
    """One problem for each field of a checkpoint's metadata that differs from what its path in the run requires."""
    expected = expected | {"class_names": run.class_names, "recipe_digest": run.recipe.digest()}
    return [f"{path}: {key} does not match this run" for key in expected if metadata.get(key) != expected[key]]
