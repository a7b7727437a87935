"""One optimizer step: pictures and targets of a batch to gradients, in micro-batches that fit the device's memory.

See `data.targets` for the weights of the targets; those of a student are twice as wide.
"""

import contextlib

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from melgpu import distributed
from melgpu.errors import InputError, is_out_of_memory
from melgpu.training.state import Training


def train_step(
    training: Training,
    model: nn.Module,
    pictures: Tensor,
    soft_targets: Tensor,
    bfloat16: bool,
    temperature: float | None,
) -> None:
    """One optimizer step; the micro-batch is halved, for all later steps too, until it fits the device's memory."""
    sums = accumulate_gradients(training, model, pictures, soft_targets, bfloat16, temperature)
    while sums is None:  # out of memory
        micro_batch = min(training.micro_batch, len(pictures))  # a micro-batch is no larger than the batch
        training.micro_batch = -(-micro_batch // 2)  # rounded up
        sums = accumulate_gradients(training, model, pictures, soft_targets, bfloat16, temperature)
    training.step(sums)


def accumulate_gradients(
    training: Training,
    model: nn.Module,
    pictures: Tensor,
    soft_targets: Tensor,
    bfloat16: bool,
    temperature: float | None,
) -> Tensor | None:
    """Accumulate a batch's gradients over micro-batches; returns its mean loss and accuracy, shape (2,).

    Of several processes the gradients are averaged once, in the last micro-batch.

    `soft_targets`, shape (B, C) or a student's (B, 2C), are divided by the number of valid windows; rows of 0 are
    windows that are not valid. None where the device is out of memory and a smaller micro-batch is possible.
    """
    training.optimizer.zero_grad()  # also of an attempt that ran out of memory
    sums = torch.zeros_like(training.metric_sums)
    num_valid = (soft_targets.sum(1) > 0).sum().clamp(min=1)  # on the device: reading it would synchronize
    micro_batches = zip(pictures.split(training.micro_batch), soft_targets.split(training.micro_batch), strict=True)
    num_left = len(pictures)
    try:
        for micro_pictures, micro_targets in micro_batches:
            num_left -= len(micro_pictures)
            with distributed.skip_gradient_sync(model) if num_left else contextlib.nullcontext():
                with torch.autocast(pictures.device.type, torch.bfloat16, enabled=bfloat16):
                    logits = model(micro_pictures)
                loss = target_loss(logits, micro_targets, temperature)
                loss.backward()
            sums += torch.stack([loss.detach(), count_correct(logits, micro_targets) / num_valid])
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        # Of several processes the others would not repeat the step: their collectives would no longer match.
        if distributed.world_size() > 1 or min(training.micro_batch, len(pictures)) == 1:
            raise InputError("the device is out of memory: set a smaller machine.micro_batch") from None
        return None
    return sums


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
