"""Synthetic base predictions to stack."""

import numpy as np

from melgpu.recipe import load_recipe
from melgpu.stacking.stack_cnn import LabelledMatrix
from tests.helpers import ROOT

STACKING_OF_2019 = ROOT / "examples" / "stacking-2019.toml"
SPEC = load_recipe(["demo"], ["stacking.max_epochs=15", "stacking.num_trees=15"]).stacking


def labelled_matrix(count: int, seed: int, num_models: int = 3, num_classes: int = 4) -> LabelledMatrix:
    """A matrix (N, K, C) and labels (N,): the first model is accurate, the last is at chance level."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(count) % num_classes)
    logits = rng.standard_normal((count, num_models, num_classes))
    skill = np.linspace(3, 0, num_models)
    logits[np.arange(count)[:, None], np.arange(num_models), labels[:, None]] += skill
    unnormalized = np.exp(2 * logits)
    return LabelledMatrix(unnormalized / unnormalized.sum(-1, keepdims=True), labels)


def accuracy(probs: np.ndarray, labels: np.ndarray) -> float:
    return float((probs.argmax(1) == labels).mean())
