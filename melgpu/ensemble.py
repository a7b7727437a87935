"""All networks of a run's best round, their stackers and the blend, as one judge of new music.

Feature settings come from the checkpoints, never from flags.
"""

from dataclasses import dataclass

import numpy as np

from melgpu import backbone, checkpoint, recipe, stacking
from melgpu.backbone import Classifier
from melgpu.errors import InputError
from melgpu.recipe import Recipe
from melgpu.run import Run
from melgpu.stacking import Stack


@dataclass(frozen=True)
class Ensemble:
    """K networks with what their checkpoints say of them, and each fold's stack (none before a round is stacked).

    `digests` are the checkpoints', shape (K,).
    """

    networks: list[tuple[Classifier, dict]]
    digests: list[str]
    stacks: dict[int, Stack]
    blend: dict[str, float]
    class_names: list[str]
    recipe: Recipe

    def combine(self, probs: np.ndarray) -> np.ndarray:
        """One answer for each track, shape (N, C), from its probabilities by each network, shape (K, N, C)."""
        if not self.stacks:
            return probs.mean(axis=0)
        folds = []
        for fold, stack in self.stacks.items():
            members = [k for k, (_, about) in enumerate(self.networks) if about["fold"] == fold]
            folds.append(stacking.blend(stack.predict(probs[members].swapaxes(0, 1)), self.blend))
        return np.mean(folds, axis=0)


def load(run: Run) -> Ensemble:
    """The latest stacked round, or else the trained networks of the first. Raises InputError where there are none."""
    stacked = [number for number in range(1, len(run.recipe.rounds) + 1) if run.is_stacked(number)]
    number = stacked[-1] if stacked else 1
    jobs = run.trained(number)
    if not jobs:
        raise InputError(f"{run.folder}: no trained network yet; run train.py first")
    loaded = [(run.checkpoint(job), *backbone.load(run.checkpoint(job))) for job in jobs]
    first = loaded[0][2]
    problems = [
        f"{path}: differs from {loaded[0][0]} in {key}"
        for path, _, about in loaded
        for key in ("class_names", "digest")
        if about[key] != first[key]
    ]
    if problems:
        raise InputError(problems)
    stacks = {}
    if stacked:
        stacks = {fold: stacking.load(run.stack_path(number, fold))[0] for fold in run.spec(number).folds}
    settings = recipe.validate(first["recipe"], f"of {loaded[0][0]}")
    networks, digests = [(model, about) for _, model, about in loaded], [checkpoint.digest(path) for path, *_ in loaded]
    return Ensemble(networks, digests, stacks, run.spec(number).blend, first["class_names"], settings)
