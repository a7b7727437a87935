"""The optimizer, its learning rates and their schedule, and early stopping."""

import math
from dataclasses import dataclass

import torch

from melgpu.models import classifier
from melgpu.models.classifier import Classifier
from melgpu.recipe_schema import OptimSpec


@dataclass
class Progress:
    """The progress of a training: `epoch` complete epochs and `step` steps of the next; JSON data."""

    epoch: int = 0
    step: int = 0
    updates: int = 0  # of the weights, over all epochs
    best_accuracy: float = -1.0  # below any accuracy, so that the first epoch is the best so far
    epochs_since_best: int = 0
    epochs_since_drop: int = 0  # since the learning rate was lowered, or since the best epoch if that is later

    def record_epoch(self, accuracy: float, spec: OptimSpec) -> bool:
        """Count one more epoch; True where the learning rate is to be lowered (as by Keras' ReduceLROnPlateau)."""
        self.epoch += 1
        self.step = 0
        if accuracy > self.best_accuracy:
            self.best_accuracy = accuracy
            self.epochs_since_best = 0
            self.epochs_since_drop = 0
            return False
        self.epochs_since_best += 1
        self.epochs_since_drop += 1
        drop = self.epochs_since_drop >= spec.plateau_patience
        if drop:
            self.epochs_since_drop = 0  # the new learning rate gets the full patience
        return drop

    @property
    def improved(self) -> bool:
        return self.epochs_since_best == 0

    def finished(self, spec: OptimSpec) -> bool:
        return self.epoch >= spec.max_epochs or self.epochs_since_best >= spec.stop_patience


def make_optimizer(model: Classifier, spec: OptimSpec, epoch: int) -> torch.optim.AdamW:
    """AdamW over the parameters that train in this epoch: in warm-up the head alone."""
    warm_up = epoch < spec.warmup_epochs
    model.freeze_body(warm_up)
    groups = classifier.parameter_groups(model, warm_up, spec.weight_decay, spec.first_layer_lr_scale)
    optimizer = torch.optim.AdamW(groups, fused=True)
    set_lr(optimizer, spec.warmup_lr if warm_up else spec.lr)
    return optimizer


def cosine_lr(spec: OptimSpec, epoch: int) -> float:
    """The head's learning rate in an epoch of the cosine schedule."""
    return spec.lr * (1 + math.cos(math.pi * epoch / spec.max_epochs)) / 2


def get_lr(optimizer: torch.optim.Optimizer) -> float:
    """The head's learning rate."""
    return optimizer.param_groups[-1]["lr"]  # the head is in the last group, whose `lr_scale` is 1


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the head's learning rate; each parameter group gets `lr` times its `lr_scale`."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]
