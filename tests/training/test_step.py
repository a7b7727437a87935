import pytest
import torch

from melgpu.training.step import count_correct, target_loss


def test_without_a_teacher_it_is_the_cross_entropy():
    logits, targets = torch.randn(6, 4), torch.rand(6, 4)
    expected = -(targets * logits.log_softmax(1)).sum()
    assert target_loss(logits, targets, None).item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_student_has_the_cross_entropy_with_labels_and_with_its_teacher_at_the_temperature():
    logits, targets = torch.randn(6, 4), torch.rand(6, 8)
    labels, teacher = targets[:, :4], targets[:, 4:]
    expected = -(labels * logits.log_softmax(1) + teacher * (logits / 2.5).log_softmax(1)).sum()
    assert target_loss(logits, targets, 2.5).item() == pytest.approx(expected.item(), rel=1e-5)


def test_at_high_temperature_gradients_are_differences_of_logits():
    """Hinton et al. (2015), equation 4: with a weight of T^2, those of zero mean differ by their N classes only."""
    temperature = 1000.0
    student, teacher = (x - x.mean(1, keepdim=True) for x in torch.randn(2, 5, 4))
    student.requires_grad_()
    targets = torch.cat([torch.zeros(5, 4), temperature**2 * (teacher / temperature).softmax(1)], dim=1)
    target_loss(student, targets, temperature).backward()
    assert torch.allclose(student.grad, (student - teacher).detach() / 4, atol=0.02)


def test_windows_are_correct_by_their_labels_and_teacher_together():
    logits = torch.tensor([[2.0, 1.0], [2.0, 1.0], [2.0, 1.0]])
    targets = torch.tensor([[0.4, 0.0, 0.0, 0.6], [0.7, 0.0, 0.0, 0.3], [0.0, 0.0, 0.0, 0.0]])  # the last is not valid
    assert count_correct(logits, targets).item() == 1
    assert count_correct(logits, targets[:, :2]).item() == 2
