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
