from dataclasses import replace

import numpy as np
import pytest
import torch

from melgpu.recipe import load_recipe
from melgpu.runs import run, sampling
from tests.helpers.runs import mark_stacked, pseudo_label


def with_settings(made, **tables):
    """The run with some settings of its recipe replaced: table={key: value}."""
    changes = {name: getattr(made.recipe, name).model_copy(update=update) for name, update in tables.items()}
    return replace(made, recipe=made.recipe.model_copy(update=changes))


def test_an_epoch_counts_the_training_windows(made):
    job = made.jobs(1)[0]
    assert len(sampling.training_windows(made, job)) == 8 * 3
    assert sampling.windows_per_epoch(made, job) == 24
    assert len(sampling.prediction_windows(made, np.array([0, 12]))) == 6


def test_zalo2019_prediction_windows_follow_the_protocol(made):
    zalo = run.Run(made.folder, load_recipe([]), made.manifest)
    index = sampling.prediction_windows(zalo, np.array([0, 12]))
    assert np.bincount(index.tracks)[[0, 12]].tolist() == [11, 21]


def test_an_epoch_has_the_training_windows_in_whole_batches(made):
    job = made.jobs(1)[0]
    index, epoch = sampling.training_windows(made, job), sampling.epoch_windows(made, job, 3, 0, 1)
    assert sorted(zip(epoch.tracks, epoch.starts, strict=True)) == list(zip(index.tracks, index.starts, strict=True))
    shards = [sampling.epoch_windows(made, job, 3, rank, 2) for rank in (0, 1)]
    assert not set(shards[0].tracks) & set(shards[1].tracks)
    assert {len(shard) for shard in shards} == {12}


def test_random_starts_are_new_in_every_epoch_and_stay_inside_the_track(made):
    random, job = with_settings(made, windows={"random_starts": True}), made.jobs(1)[0]
    first, second = (sampling.epoch_windows(random, job, epoch, 0, 1) for epoch in (0, 1))
    assert np.bincount(first.tracks).tolist() == np.bincount(second.tracks).tolist()
    assert len(set(first.starts) | set(second.starts)) > 40
    assert min(first.starts) >= 0
    assert max(first.starts) <= 12 * 11025
    assert sampling.epoch_windows(random, job, 0, 0, 1).starts.tolist() == first.starts.tolist()


def test_sampling_and_weights_balance_the_classes(made):
    labels = np.array(["a"] * 9 + ["b"] * 3 + [None] * 2, object)
    imbalanced = replace(made, manifest=replace(made.manifest, labels=tuple(labels)))
    job = imbalanced.jobs(1)[0]
    classes = sampling.round_class_indices(imbalanced, job)
    counts = np.bincount(classes[sampling.training_windows(imbalanced, job).tracks])
    assert counts[0] > 2 * counts[1]
    balanced = sampling.epoch_windows(with_settings(imbalanced, optim={"balance": "sampling"}), job, 0, 0, 1)
    assert np.bincount(classes[balanced.tracks]).tolist() == [12, 12]
    weights = sampling.training_targets(with_settings(imbalanced, optim={"balance": "weights"}), job).weights
    assert (weights * torch.from_numpy(counts)).tolist() == pytest.approx([12, 12])
    assert sampling.training_targets(imbalanced, job).weights.tolist() == [1, 1]


def test_targets_include_the_pseudo_labels_of_the_previous_round(made):
    mark_stacked(made, 1, [pseudo_label("y.wav", "b")])
    assert sampling.training_targets(made, made.jobs(1)[0]).classes[13] == -1
    assert sampling.training_targets(made, made.jobs(2)[0]).classes[13] == 1
    assert sampling.training_targets(made, made.jobs(2)[0]).distributions is None


def test_soft_pseudo_labels_are_targets_and_counted_by_class_weights(made):
    soft = with_settings(made, pseudo={"kind": "soft"}, optim={"balance": "weights"})
    mark_stacked(soft, 1, [pseudo_label("y.wav", "b", (0.25, 0.75))])
    first, second = (sampling.training_targets(soft, soft.jobs(round_number)[0]) for round_number in (1, 2))
    assert first.distributions is None
    assert second.classes[13] == 1
    expected = torch.zeros(14, 2)
    expected[range(12), second.classes[:12]] = 1
    expected[13] = torch.tensor([0.9 * 0.25, 0.9 * 0.75])
    torch.testing.assert_close(second.distributions, expected)  # that of the unlabelled x.wav is 0
    window_targets = expected[sampling.training_windows(soft, soft.jobs(2)[0]).tracks]
    by_class = (window_targets * second.weights).sum(0)
    torch.testing.assert_close(by_class, window_targets.sum().expand(2) / 2)  # each class has half of the total
