"""Logits and targets of windows to the loss and the number of correct windows; see `data.targets` for their weights."""

import torch
import torch.nn.functional as F
from torch import Tensor


def target_loss(logits: Tensor, targets: Tensor, temperature: float | None) -> Tensor:
    """The sum over a batch of the cross entropies of logits (B, C) with targets (B, C).

    With a temperature the targets are (B, 2C): the second half is compared with the probabilities at that temperature.
    """
    logits = logits.float()
    if temperature is None:
        return F.cross_entropy(logits, targets, reduction="sum")
    label_targets, teacher_targets = targets.chunk(2, dim=1)
    label_loss = F.cross_entropy(logits, label_targets, reduction="sum")
    return label_loss + F.cross_entropy(logits / temperature, teacher_targets, reduction="sum")


def count_correct(logits: Tensor, targets: Tensor) -> Tensor:
    """The number of windows whose most probable class by logits (B, C) is that of targets (B, C) or (B, 2C)."""
    class_targets = targets.unflatten(1, (-1, logits.shape[1])).sum(1)
    correct = (logits.argmax(1) == class_targets.argmax(1)) & (class_targets.sum(1) > 0)
    return torch.sum(correct)
