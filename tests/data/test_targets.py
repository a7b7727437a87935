import pytest
import torch

from melgpu.data.batch import Batch
from melgpu.data.targets import Targets, TeacherTargets, at_temperature, class_weights

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


def with_teacher(label_weights, temperature=1.0) -> Targets:
    """Targets of two tracks with windows at 0, 10 and 20 samples, whose distributions differ from window to window."""
    probs = torch.arange(1.0, 13).reshape(2, 3, 2)
    teacher = TeacherTargets(
        probs / probs.sum(-1, keepdim=True), torch.tensor([0, 10, 20]), torch.tensor(label_weights), temperature
    )
    return Targets(torch.tensor([1, 0]), torch.tensor([1.0, 3.0]), teacher=teacher)


def windows_at(tracks, starts, valid) -> Batch:
    return Batch(torch.zeros(len(tracks), 4), torch.tensor(tracks), torch.tensor(starts), torch.tensor(valid))


def test_a_student_has_the_teachers_distribution_of_each_window_beside_its_label():
    batch_of_two = windows_at([0, 1], [20, 0], [True, True])
    rows = with_teacher([0.25, 0.0]).for_batch(batch_of_two, 0.0)
    first = [0, 3 * 0.25, 3 * 0.75 * 5 / 11, 3 * 0.75 * 6 / 11]  # of class 1, whose weight is 3
    unlabelled = [0, 0, 7 / 15, 8 / 15]  # the teacher has all of its weight
    assert torch.allclose(rows, torch.tensor([first, unlabelled]))
    silent = with_teacher([0.25, 0.0]).for_batch(windows_at([0, 1], [20, 0], [True, False]), 0.0)
    assert silent[1].tolist() == [0, 0, 0, 0]
    assert torch.equal(silent[0], rows[0])


def test_the_teachers_weight_grows_with_the_square_of_the_temperature():
    batch_of_one = windows_at([0], [10], [True])
    rows = with_teacher([0.5, 0.0], temperature=4.0).for_batch(batch_of_one, 0.0)
    assert rows[0].reshape(2, 2).sum(1).tolist() == pytest.approx([3 * 0.5, 3 * 0.5 * 16])


def test_a_distribution_at_a_temperature_is_the_softmax_of_divided_logits():
    logits = torch.randn(5, 4, dtype=torch.float64)
    assert torch.allclose(at_temperature(logits.softmax(1), 3.0), (logits / 3).softmax(1))
    assert at_temperature(torch.tensor([0.0, 1.0]), 5.0).tolist() == [0, 1]
