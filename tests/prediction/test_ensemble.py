from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from melgpu.errors import InputError
from melgpu.models.classifier import LoadedNetwork
from melgpu.prediction.ensemble import Ensemble, _load_stack, classifier, load_ensemble, load_networks
from melgpu.stacking import stack_cnn
from melgpu.stacking.stack import Stack, SubfoldStackers
from melgpu.stacking.stack_file import StackMetadata, save_stack


class LastModelStack(Stack):
    """A stack whose blend is its last model."""

    def predict(self, matrix):
        return {"blend": matrix[:, self.num_models - 1], "fitted blend": matrix[:, 0]}


def ensemble(stacks, folds, small_recipe) -> Ensemble:
    networks = [LoadedNetwork(None, SimpleNamespace(provenance=SimpleNamespace(fold=fold))) for fold in folds]
    digests = ["" for _ in folds]
    return Ensemble(networks, 6, digests, stacks, "blend", ["a", "b"], small_recipe)


def test_each_fold_stacks_its_own_networks_and_folds_are_averaged(small_recipe):
    probs = np.random.default_rng(0).dirichlet(np.ones(2), size=(4, 5))  # K, N, C
    by_fold = {(1,): LastModelStack(2, 2, {}), (2,): LastModelStack(2, 2, {})}
    for stacks in (by_fold, {(1, 2): LastModelStack(2, 2, {})}):
        combined = ensemble(stacks, [1, 1, 2, 2], small_recipe).combine(probs)
        np.testing.assert_allclose(combined, (probs[1] + probs[3]) / 2)


def test_the_result_for_a_track_does_not_depend_on_the_others(small_recipe):
    rng = np.random.default_rng(0)
    cnns = {"cnn": stack_cnn.StackCNN(2, 2, 0.0).eval(), "skip_cnn": stack_cnn.StackSkipCNN(2, 2, 0.0).eval()}
    stack = Stack(2, 2, {"cnn": 0.5, "skip_cnn": 0.5}, [SubfoldStackers(cnns, {"cnn": 0.5, "skip_cnn": 0.5})])
    predictor = ensemble({(1,): stack}, [1, 1], small_recipe)
    probs = rng.dirichlet(np.ones(2), size=(2, 150))
    together = predictor.combine(probs)
    assert np.ptp(together) > 0
    for rows in (slice(0, 1), slice(60, 70), slice(149, 150), slice(3, 150)):
        np.testing.assert_array_equal(predictor.combine(probs[:, rows]), together[rows])
    assert predictor.combine(probs[:, :0]).shape == (0, 2)


def test_without_stacks_networks_are_averaged(small_recipe):
    probs = np.random.default_rng(0).dirichlet(np.ones(2), size=(4, 5))
    np.testing.assert_allclose(ensemble({}, [0, 0, 1, 1], small_recipe).combine(probs), probs.mean(0))
    stacked = ensemble({(0, 1): LastModelStack(2, 2, {})}, [0, 0, 1, 1], small_recipe)
    np.testing.assert_allclose(replace(stacked, final_predictor="mean").combine(probs), probs.mean(0))


def test_the_description_counts_networks_and_says_whether_they_are_stacked(small_recipe):
    incomplete = ensemble({}, [0, 0], small_recipe)
    assert incomplete.description == "2 of 6 networks, not stacked"
    stacked = replace(incomplete, num_expected=2, stacks={(0,): LastModelStack(2, 2, {})})
    assert stacked.description == "2 networks, stacked"
    assert replace(stacked, final_predictor="mean").description == "2 networks, not stacked"
    assert ensemble({}, [0], small_recipe).description == "1 of 6 networks, not stacked"
    assert replace(ensemble({}, [0], small_recipe), num_expected=1).description == "1 network, not stacked"


def test_an_untrained_run_is_rejected(made):
    with pytest.raises(InputError, match="no trained network yet"):
        load_ensemble(made)


def test_checkpoints_of_another_job_or_run_are_rejected(made, monkeypatch):
    jobs = made.jobs(1)
    paths = [made.paths.checkpoint(job) for job in jobs]
    metadata = [SimpleNamespace(provenance=made.job_provenance(job), class_names=made.class_names) for job in jobs]
    monkeypatch.setattr(classifier, "load", lambda path: LoadedNetwork(None, metadata[paths.index(path)]))
    assert [network.metadata for network in load_networks(made, jobs)] == metadata
    provenance = metadata[1].provenance
    for changes, reason in (
        ({"backbone": "xception"}, "made with backbone xception, not inception_v3"),
        ({"recipe_digest": "0"}, f"made with recipe 0, not {made.recipe.digest()}"),
        ({"fold": 1}, "made with fold 1, not 0"),
        ({"round": 2}, "made with round 2, not 1"),
        ({"pseudo_digest": "0a"}, "made with pseudo labels 0a, not none"),
    ):
        metadata[1].provenance = provenance.model_copy(update=changes)
        with pytest.raises(InputError, match=f"{paths[1]}: {reason}"):
            load_networks(made, jobs)
    metadata[1].provenance = provenance
    metadata[1].class_names = ["b", "a"]
    with pytest.raises(InputError, match=f"{paths[1]}: made for other classes than this run's"):
        load_networks(made, jobs)


def test_stacks_of_another_fold_or_run_are_rejected(made):
    path = made.paths.stack(1, (0,))
    stackers = {"cnn": stack_cnn.StackCNN(2, 2, 0.0)}
    stack = Stack(2, 2, {"cnn": 1.0}, [SubfoldStackers(stackers, {"cnn": 1.0})])
    metadata = StackMetadata(
        provenance=made.stack_provenance(1),
        final_predictor="blend",
        folds=(0,),
        backbones=made.round_spec(1).backbones,
        class_names=made.class_names,
        weights={"cnn": 1.0},
        fitted_weights=[{"cnn": 1.0}],
    )
    other_labels = metadata.provenance.model_copy(update={"pseudo_digest": "0a"})
    save_stack(stack, metadata, path)
    assert _load_stack(made, 1, (0,))[0].weights == {"cnn": 1.0}
    for changes, reason in (
        ({"backbones": metadata.backbones[::-1]}, "fitted for other folds or networks"),
        ({"class_names": ["b", "a"]}, "made for other classes than this run's"),
        ({"folds": (1,)}, "fitted for other folds or networks"),
        ({"provenance": other_labels}, "made with pseudo labels 0a, not none"),
        ({"weights": {"cnn": 0.5}}, "blend weights {'cnn': 0.5}, not {'cnn': 1.0}"),
    ):
        save_stack(stack, metadata.model_copy(update=changes), path)
        with pytest.raises(InputError, match=f"{path}: .*{reason}"):
            _load_stack(made, 1, (0,))
