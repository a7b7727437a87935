from dataclasses import asdict, replace

import numpy as np
import pytest

from melgpu.errors import InputError
from melgpu.prediction.ensemble import Ensemble, _load_stack, classifier, load_ensemble, load_networks
from melgpu.stacking import stack_cnn
from melgpu.stacking.stack import Stack, SubfoldStackers, save_stack


class LastModelStack(Stack):
    """A stack whose blend is its last model."""

    def predict(self, matrix):
        return {"blend": matrix[:, self.num_models - 1], "fitted blend": matrix[:, 0]}


def ensemble(stacks, folds, small_recipe) -> Ensemble:
    networks, digests = [(None, {"fold": fold}) for fold in folds], ["" for _ in folds]
    return Ensemble(networks, digests, stacks, "blend", ["a", "b"], small_recipe)


def test_each_fold_stacks_its_own_networks_and_folds_are_averaged(small_recipe):
    probs = np.random.default_rng(0).dirichlet(np.ones(2), size=(4, 5))  # K, N, C
    by_fold = {(1,): LastModelStack(2, 2, {}), (2,): LastModelStack(2, 2, {})}
    for stacks in (by_fold, {(1, 2): LastModelStack(2, 2, {})}):
        combined = ensemble(stacks, [1, 1, 2, 2], small_recipe).combine(probs)
        np.testing.assert_allclose(combined, (probs[1] + probs[3]) / 2)


def test_without_stacks_networks_are_averaged(small_recipe):
    probs = np.random.default_rng(0).dirichlet(np.ones(2), size=(4, 5))
    np.testing.assert_allclose(ensemble({}, [0, 0, 1, 1], small_recipe).combine(probs), probs.mean(0))
    stacked = ensemble({(0, 1): LastModelStack(2, 2, {})}, [0, 0, 1, 1], small_recipe)
    np.testing.assert_allclose(replace(stacked, final_predictor="mean").combine(probs), probs.mean(0))


def test_an_untrained_run_is_rejected(made):
    with pytest.raises(InputError, match="no trained network yet"):
        load_ensemble(made)


def test_checkpoints_of_another_job_or_run_are_rejected(made, monkeypatch):
    jobs = made.jobs(1)
    common = {"class_names": made.class_names, "recipe_digest": made.recipe.digest(), "pseudo_digest": "none"}
    metadata = [{**asdict(job), **common} for job in jobs]
    paths = [made.checkpoint_path(job) for job in jobs]
    monkeypatch.setattr(classifier, "load", lambda path: (None, metadata[paths.index(path)]))
    assert [loaded for _, loaded in load_networks(made, jobs)] == metadata
    for key, value in (
        ("class_names", ["b", "a"]),
        ("backbone", "xception"),
        ("recipe_digest", "0"),
        ("fold", 1),
        ("round", 2),
        ("pseudo_digest", "0a"),
    ):
        original, metadata[1] = metadata[1], {**metadata[1], key: value}
        with pytest.raises(InputError, match=rf"{paths[1]}: {key} does not match this run"):
            load_networks(made, jobs)
        metadata[1] = original


def cnn_stack(num_models: int, weights: dict[str, float]) -> Stack:
    stackers = {name: stack_cnn.StackCNN(num_models, 2, 0.0) for name in weights}
    return Stack(num_models, 2, weights, [SubfoldStackers(stackers, dict.fromkeys(weights, 1.0))])


def test_stacks_of_another_fold_or_run_are_rejected(made):
    path, stack = made.stack_path(1, (0,)), cnn_stack(2, {"cnn": 1.0})
    metadata = {"round": 1, "folds": [0], "models": list(made.round_spec(1).backbones), "class_names": made.class_names}
    metadata |= {"recipe_digest": made.recipe.digest(), "pseudo_digest": "none"}
    save_stack(stack, path, metadata)
    assert _load_stack(made, 1, (0,)).weights == {"cnn": 1.0}
    for wrong_stack, change, reason in (
        (stack, {"models": metadata["models"][::-1]}, "models does not match this run"),
        (stack, {"class_names": ["b", "a"]}, "class_names does not match this run"),
        (stack, {"folds": [1]}, "folds does not match this run"),
        (stack, {"pseudo_digest": "0a"}, "pseudo_digest does not match this run"),
        (cnn_stack(3, {"cnn": 1.0}), {}, "other numbers of networks and classes"),
        (cnn_stack(2, {"cnn": 0.5}), {}, "blend weights {'cnn': 0.5}, not {'cnn': 1.0}"),
    ):
        save_stack(wrong_stack, path, metadata | change)
        with pytest.raises(InputError, match=f"{path}: .*{reason}"):
            _load_stack(made, 1, (0,))
