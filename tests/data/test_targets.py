import pytest
import torch

from melgpu.data.batch import Batch
from melgpu.data.targets import Targets, class_weights

TARGETS = Targets(torch.tensor([2, 0, -1]), torch.tensor([1.0, 1.0, 3.0]))


def batch(valid):
    tracks = torch.tensor([0, 1, 1])
    return Batch(torch.zeros(3, 4), tracks, tracks, torch.tensor(valid))


def test_rows_are_smoothed_weighted_and_zero_where_not_valid():
    assert TARGETS.for_batch(batch([True] * 3), 0.0).tolist() == [[0, 0, 3], [1, 0, 0], [1, 0, 0]]
    smoothed = TARGETS.for_batch(batch([True, True, False]), 0.3)
    assert torch.allclose(smoothed, torch.tensor([[0.3, 0.3, 2.4], [0.8, 0.1, 0.1], [0, 0, 0]]))


def test_a_window_that_is_not_valid_needs_no_label():
    tracks = torch.tensor([2, 0])
    rows = TARGETS.for_batch(Batch(torch.zeros(2, 4), tracks, tracks, torch.tensor([False, True])), 0.1)
    assert rows.sum(1).tolist() == pytest.approx([0, 3])


def test_class_weights_balance_classes_and_ignore_absent_ones():
    classes = torch.tensor([0] * 6 + [1] * 2 + [3] * 1)
    weights = class_weights(torch.bincount(classes, minlength=4))
    assert torch.isfinite(weights).all()
    sums = torch.bincount(classes, weights[classes], minlength=4)
    assert sums.tolist() == pytest.approx([3, 3, 0, 3])


HARD = torch.tensor([[0.0, 0, 1], [1, 0, 0], [0, 0, 0]])  # the classes of TARGETS


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("valid", [[True] * 3, [False, True, False]])
def test_distributions_of_one_class_are_the_targets_of_classes(smoothing, valid):
    soft = Targets(TARGETS.classes, TARGETS.weights, HARD)
    assert torch.equal(soft.for_batch(batch(valid), smoothing), TARGETS.for_batch(batch(valid), smoothing))


def test_soft_targets_are_weighted_by_track_and_class_and_smoothed():
    distributions = torch.tensor([[0.0, 0, 1], [0.3, 0.1, 0.1], [0, 0, 0]])  # the second with a weight of 0.5
    soft = Targets(TARGETS.classes, TARGETS.weights, distributions)
    plain = torch.tensor([[0, 0, 3], [0.6, 0.2, 0.2]]) * torch.tensor([[1.0], [0.5 * (0.8 + 0.2 * 3)]])
    torch.testing.assert_close(soft.for_batch(batch([True, True, False]), 0.0)[:2], plain)
    smoothed = soft.for_batch(batch([True, True, False]), 0.3)
    torch.testing.assert_close(smoothed.sum(1), torch.tensor([3.0, 0.7, 0.0]))
    torch.testing.assert_close(smoothed[1] / 0.7, torch.tensor([0.52, 0.24, 0.24]))


def test_an_unlabelled_window_that_is_not_valid_is_zero_beside_soft_targets():
    tracks = torch.tensor([2, 0])
    soft = Targets(TARGETS.classes, TARGETS.weights, HARD)
    rows = soft.for_batch(Batch(torch.zeros(2, 4), tracks, tracks, torch.tensor([False, True])), 0.1)
    assert rows.sum(1).tolist() == pytest.approx([0, 3])
