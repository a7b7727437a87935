from dataclasses import asdict, replace

import numpy as np
import pytest

from melgpu.errors import InputError
from melgpu.prediction.ensemble import Ensemble, _load_stack, classifier, load_ensemble, load_networks
from melgpu.stacking import stack_cnn
from melgpu.stacking.stack import Stack, Subfold, save_stack


class Chooser(Stack):
    """A stack that believes its last model."""

    def predict(self, matrix):
        return {"blend": matrix[:, self.num_models - 1], "fitted blend": matrix[:, 0]}


def judge(stacks, folds, small) -> Ensemble:
    networks, digests = [(None, {"fold": fold}) for fold in folds], ["" for _ in folds]
    return Ensemble(networks, digests, stacks, "blend", ["a", "b"], small)


def test_each_fold_stacks_its_own_networks_and_folds_are_averaged(small):
    probs = np.random.default_rng(0).dirichlet(np.ones(2), size=(4, 5))  # K, N, C
    for stacks in ({(1,): Chooser(2, 2, {}), (2,): Chooser(2, 2, {})}, {(1, 2): Chooser(2, 2, {})}):
        got = judge(stacks, [1, 1, 2, 2], small).combine(probs)
        np.testing.assert_allclose(got, (probs[1] + probs[3]) / 2)


def test_without_stacks_networks_are_averaged(small):
    probs = np.random.default_rng(0).dirichlet(np.ones(2), size=(4, 5))
    np.testing.assert_allclose(judge({}, [0, 0, 1, 1], small).combine(probs), probs.mean(0))
    stacked = judge({(0, 1): Chooser(2, 2, {})}, [0, 0, 1, 1], small)
    np.testing.assert_allclose(replace(stacked, final_predictor="mean").combine(probs), probs.mean(0))


def test_an_untrained_run_says_so(made):
    with pytest.raises(InputError, match="no trained network yet"):
        load_ensemble(made)


def test_checkpoints_of_another_job_or_run_are_refused(made, monkeypatch):
    jobs = made.jobs(1)
    said = {"class_names": made.class_names, "recipe_digest": made.recipe.digest(), "pseudo_digest": "none"}
    own = [{**asdict(job), **said} for job in jobs]
    monkeypatch.setattr(classifier, "load", lambda path: (None, own[jobs_at.index(path)]))
    jobs_at = [made.checkpoint(job) for job in jobs]
    assert [metadata for _, metadata in load_networks(made, jobs)] == own
    for key, other in (
        ("class_names", ["b", "a"]),
        ("backbone", "xception"),
        ("recipe_digest", "0"),
        ("fold", 1),
        ("round", 2),
        ("pseudo_digest", "0a"),
    ):
        before, own[1] = own[1], {**own[1], key: other}
        with pytest.raises(InputError, match=rf"{jobs_at[1]}: of another {key} than its run's"):
            load_networks(made, jobs)
        own[1] = before


def cnn_stack(num_models: int, weights: dict[str, float]) -> Stack:
    part = Subfold({name: stack_cnn.StackCNN(num_models, 2, 0.0) for name in weights}, dict.fromkeys(weights, 1.0))
    return Stack(num_models, 2, weights, [part])


def test_stacks_of_another_fold_or_run_are_refused(made):
    path, stack = made.stack_path(1, (0,)), cnn_stack(2, {"cnn": 1.0})
    metadata = {"round": 1, "folds": [0], "models": list(made.spec(1).backbones), "class_names": made.class_names}
    metadata |= {"recipe_digest": made.recipe.digest(), "pseudo_digest": "none"}
    save_stack(stack, path, metadata)
    assert _load_stack(made, 1, (0,)).weights == {"cnn": 1.0}
    for wrong, change, reason in (
        (stack, {"models": metadata["models"][::-1]}, "of another models"),
        (stack, {"class_names": ["b", "a"]}, "of another class_names"),
        (stack, {"folds": [1]}, "of another folds"),
        (stack, {"pseudo_digest": "0a"}, "of another pseudo"),
        (cnn_stack(3, {"cnn": 1.0}), {}, "other numbers of networks and classes"),
        (cnn_stack(2, {"cnn": 0.5}), {}, "blends {'cnn': 0.5}, not {'cnn': 1.0}"),
    ):
        save_stack(wrong, path, metadata | change)
        with pytest.raises(InputError, match=f"{path}: .*{reason}"):
            _load_stack(made, 1, (0,))
