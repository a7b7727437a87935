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
    weights = class_weights(classes, 4)
    assert torch.isfinite(weights).all()
    sums = torch.bincount(classes, weights[classes], minlength=4)
    assert sums.tolist() == pytest.approx([3, 3, 0, 3])
