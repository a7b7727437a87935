"""Base predictions to stack that are made up."""

import numpy as np

from melgpu.recipe import load_recipe

SPEC = load_recipe(["demo"], ["stacking.max_epochs=15", "stacking.num_trees=15"]).stacking


def votes(count: int, seed: int, num_models: int = 3, num_classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and models of which the first is good and the last knows nothing."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(count) % num_classes)
    logits = rng.standard_normal((count, num_models, num_classes))
    skill = np.linspace(3, 0, num_models)
    logits[np.arange(count)[:, None], np.arange(num_models), labels[:, None]] += skill
    odds = np.exp(2 * logits)
    return odds / odds.sum(-1, keepdims=True), labels
