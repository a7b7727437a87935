"""All networks of a run's latest stacked round, with their stackers, as one predictor of new music.

Feature settings come from the checkpoints, never from flags.
"""

import hashlib
from dataclasses import dataclass

import numpy as np

from melgpu.errors import InputError
from melgpu.models import checkpoint, classifier
from melgpu.models.classifier import LoadedNetwork
from melgpu.prediction.table import RunDigests
from melgpu.recipe import Recipe
from melgpu.runs.job import Job
from melgpu.runs.run import Run
from melgpu.stacking.stack import MEAN, Stack
from melgpu.stacking.stack_file import StackMetadata, load_stack

STACK_ROWS = 64  # tracks that a stack predicts together


@dataclass(frozen=True)
class Ensemble:
    """K of a round's `num_expected` networks, and the stacks by folds (none before the round is stacked).

    `digests` are the checkpoints', shape (K,); `final_predictor` is the predictor whose classes are the result.
    """

    networks: list[LoadedNetwork]
    num_expected: int
    digests: list[str]
    stacks: dict[tuple[int, ...], Stack]
    final_predictor: str
    class_names: list[str]
    recipe: Recipe

    @property
    def is_stacked(self) -> bool:
        """Whether stacks give the final probabilities, rather than the mean of the networks."""
        return bool(self.stacks) and self.final_predictor != MEAN

    @property
    def description(self) -> str:
        """Which networks predict, and whether they are stacked: `2 of 6 networks, not stacked`."""
        count = len(self.networks)
        of_expected = f" of {self.num_expected}" if count < self.num_expected else ""
        plural = "" if self.num_expected == 1 else "s"
        return f"{count}{of_expected} network{plural}, {'stacked' if self.is_stacked else 'not stacked'}"

    def combine(self, probs: np.ndarray) -> np.ndarray:
        """Final probabilities of each track, shape (N, C), from its probabilities by each network, shape (K, N, C)."""
        if not self.is_stacked:
            return probs.mean(axis=0)
        num_tracks = probs.shape[1]
        combined = [self._stacked(probs[:, start : start + STACK_ROWS]) for start in range(0, num_tracks, STACK_ROWS)]
        return np.concatenate(combined) if combined else np.zeros((0, len(self.class_names)))

    def _stacked(self, probs: np.ndarray) -> np.ndarray:
        """Final probabilities of `STACK_ROWS` tracks at most."""
        count = probs.shape[1]
        # Always of as many rows: else the result for a track would depend, by rounding, on how many others there are.
        probs = np.pad(probs, ((0, 0), (0, STACK_ROWS - count), (0, 0)), mode="edge")
        fold_probs = []
        for folds, stack in self.stacks.items():
            for fold in folds:  # a stack takes the networks of one fold, also where it was fitted on several folds
                members = [k for k, network in enumerate(self.networks) if network.metadata.provenance.fold == fold]
                matrix = probs[members].swapaxes(0, 1)  # (N, K, C)
                fold_probs.append(stack.predict(matrix)[self.final_predictor])
        return np.mean(fold_probs, axis=0)[:count]


def load_ensemble(run: Run) -> Ensemble:
    """The latest stacked round, or else the trained networks of the first. Raises InputError where there are none."""
    round_number, jobs, groups = _choose_round(run)
    networks = load_networks(run, jobs)
    loaded = {folds: _load_stack(run, round_number, folds) for folds in groups}
    stacks = {folds: stack for folds, (stack, _) in loaded.items()}
    predictors = {metadata.final_predictor for _, metadata in loaded.values()}
    if len(predictors) > 1:  # it was chosen once for all stacks
        raise InputError(
            f"{run.paths.stack_folder(round_number)}: stacks with different final predictors: {predictors}"
        )
    predictor = predictors.pop() if predictors else MEAN
    # The first checkpoint's recipe stands for all: `load_networks` has compared their digests with the run's.
    recipe = networks[0].metadata.recipe
    digests = [checkpoint.digest(run.paths.checkpoint(job)) for job in jobs]
    num_expected = len(run.jobs(round_number))
    return Ensemble(networks, num_expected, digests, stacks, predictor, run.class_names, recipe)


def predicting_round(run: Run) -> int:
    """The round that predicts new music: the latest stacked one, or else the first."""
    stacked = [round_number for round_number in range(1, len(run.recipe.rounds) + 1) if run.is_stacked(round_number)]
    return stacked[-1] if stacked else 1


def _choose_round(run: Run) -> tuple[int, list[Job], list[tuple[int, ...]]]:
    """The round that predicts new music, its trained jobs and the folds of each of its stacks."""
    round_number = predicting_round(run)
    jobs = run.trained_jobs(round_number)
    if not jobs:
        raise InputError(f"{run.folder}: no trained network yet; run train.py first")
    has_stacks = bool(run.is_stacked(round_number) and run.round_spec(round_number).blend)
    return round_number, jobs, run.stacking_recipe(round_number).fold_groups(round_number) if has_stacks else []


def run_digests(run: Run) -> RunDigests:
    """The digests of what `load_ensemble` would load, without loading it."""
    round_number, jobs, groups = _choose_round(run)
    recipe = run.stacking_recipe(round_number).digest()
    checkpoints = tuple(checkpoint.digest(run.paths.checkpoint(job)) for job in jobs)
    stacks = tuple(checkpoint.digest(run.paths.stack(round_number, folds)) for folds in groups)
    together = hashlib.sha256(" ".join([recipe, *checkpoints, "stacks", *stacks]).encode()).hexdigest()[:16]
    return RunDigests(run=together, recipe=recipe, checkpoints=checkpoints, stacks=stacks)


def load_networks(run: Run, jobs: list[Job]) -> list[LoadedNetwork]:
    """The networks of exactly these jobs. Raises InputError with every checkpoint that is not this run's."""
    networks = [classifier.load(run.paths.checkpoint(job)) for job in jobs]
    problems = []
    for job, network in zip(jobs, networks, strict=True):
        differences = network.metadata.provenance.differences(run.job_provenance(job))
        differences += _class_differences(run, network.metadata.class_names)
        problems += [f"{run.paths.checkpoint(job)}: {difference}" for difference in differences]
    if problems:
        raise InputError(problems)
    return networks


def _load_stack(run: Run, round_number: int, folds: tuple[int, ...]) -> tuple[Stack, StackMetadata]:
    path = run.paths.stack(round_number, folds)
    spec = run.round_spec(round_number)
    stack, metadata = load_stack(path)
    differences = metadata.provenance.differences(run.stack_provenance(round_number))
    differences += _class_differences(run, metadata.class_names)
    if (metadata.folds, metadata.backbones) != (folds, spec.backbones):
        differences.append("fitted for other folds or networks")
    if metadata.weights != spec.blend:
        differences.append(f"blend weights {metadata.weights}, not {spec.blend}")
    if differences:
        raise InputError(f"{path}: {difference}" for difference in differences)
    return stack, metadata


def _class_differences(run: Run, class_names: list[str]) -> list[str]:
    return [] if class_names == run.class_names else ["made for other classes than this run's"]
