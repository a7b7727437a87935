from dataclasses import asdict

import numpy as np
import pytest
from test_run import made  # noqa: F401

from melgpu import ensemble, stacking
from melgpu.ensemble import Ensemble
from melgpu.errors import InputError


class Chooser(stacking.Stack):
    """A stack that believes one of its models."""

    def predict(self, matrix):
        return {"cnn": matrix[:, self.num_models - 1], "lightgbm": matrix[:, 0]}


def judge(stacks, folds, small) -> Ensemble:
    networks, digests = [(None, {"fold": fold}) for fold in folds], ["" for _ in folds]
    return Ensemble(networks, digests, stacks, {"cnn": 3.0, "lightgbm": 1.0}, ["a", "b"], small)


def test_each_fold_stacks_its_own_networks_and_folds_are_averaged(small):
    probs = np.random.default_rng(0).dirichlet(np.ones(2), size=(4, 5))  # K, N, C
    stacks = {1: Chooser(2, 2), 2: Chooser(2, 2)}
    got = judge(stacks, [1, 1, 2, 2], small).combine(probs)
    expected = np.mean([0.75 * probs[1] + 0.25 * probs[0], 0.75 * probs[3] + 0.25 * probs[2]], axis=0)
    np.testing.assert_allclose(got, expected)


def test_without_stacks_networks_are_averaged(small):
    probs = np.random.default_rng(0).dirichlet(np.ones(2), size=(4, 5))
    np.testing.assert_allclose(judge({}, [0, 0, 1, 1], small).combine(probs), probs.mean(0))


def test_an_untrained_run_says_so(made):  # noqa: F811
    with pytest.raises(InputError, match="no trained network yet"):
        ensemble.load(made)


def test_checkpoints_of_another_job_or_run_are_refused(made, monkeypatch):  # noqa: F811
    jobs = made.jobs(1)
    own = [{**asdict(job), "class_names": made.class_names, "digest": made.recipe.digest()} for job in jobs]
    monkeypatch.setattr(ensemble.backbone, "load", lambda path: (None, own[jobs_at.index(path)]))
    jobs_at = [made.checkpoint(job) for job in jobs]
    assert [about for _, about in ensemble.load_networks(made, jobs)] == own
    for key, other in (
        ("class_names", ["b", "a"]),
        ("backbone", "xception"),
        ("digest", "0"),
        ("fold", 1),
        ("round", 2),
    ):
        before, own[1] = own[1], {**own[1], key: other}
        with pytest.raises(InputError, match=rf"{jobs_at[1]}: of another {key} than its run's"):
            ensemble.load_networks(made, jobs)
        own[1] = before


def test_stacks_of_another_fold_or_run_are_refused(made):  # noqa: F811
    path, models = made.stack_path(1, 0), list(made.spec(1).backbones)
    about = {"round": 1, "fold": 0, "models": models, "class_names": made.class_names, "digest": made.recipe.digest()}
    stack = stacking.Stack(2, 2, {"cnn": [stacking.StackCNN(2, 2, 0.0)]})
    stacking.save(stack, path, about)
    assert ensemble._load_stack(made, 1, 0).members.keys() == {"cnn"}
    for wrong, change, reason in (
        (stack, {"models": models[::-1]}, "of another models"),
        (stack, {"class_names": ["b", "a"]}, "of another class_names"),
        (stacking.Stack(3, 2, {"cnn": [stacking.StackCNN(3, 2, 0.0)]}), {}, "other numbers of networks and classes"),
        (stacking.Stack(2, 2), {}, "has the stackers , not cnn"),
    ):
        stacking.save(wrong, path, about | change)
        with pytest.raises(InputError, match=f"{path}: .*{reason}"):
            ensemble._load_stack(made, 1, 0)
