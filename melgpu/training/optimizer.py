"""The optimizer, its learning rates and their schedule, and early stopping."""

import math

import torch
from torch import Tensor

from melgpu.models import checkpoint, classifier
from melgpu.models.classifier import Classifier
from melgpu.models.schema import NonNegative, Schema
from melgpu.recipe_schema import OptimSpec


class Progress(Schema, frozen=False):
    """The progress of a training, which changes: `epoch` complete epochs and `step` steps of the next."""

    epoch: NonNegative = 0
    step: NonNegative = 0
    updates: NonNegative = 0  # of the weights, over all epochs
    best_accuracy: float = -1.0  # of all epochs; below any accuracy, so that the first is the best so far
    best_epoch: NonNegative = 0  # complete epochs at that time
    # Patience begins after the warm-up; the best epoch after it is what later ones have to exceed.
    best_accuracy_after_warmup: float = -1.0
    epochs_since_best: NonNegative = 0
    epochs_since_lr_reduction: NonNegative = (
        0  # since the learning rate was lowered, or since the best epoch if that is later
    )

    def record_epoch(self, accuracy: float, spec: OptimSpec) -> bool:
        """Count one more epoch; True where the learning rate is to be lowered (as by Keras' ReduceLROnPlateau)."""
        self.epoch += 1
        self.step = 0
        if accuracy > self.best_accuracy:
            self.best_accuracy = accuracy
            self.best_epoch = self.epoch
        if self.epoch <= spec.warmup_epochs:
            return False
        if accuracy > self.best_accuracy_after_warmup:
            self.best_accuracy_after_warmup = accuracy
            self.epochs_since_best = 0
            self.epochs_since_lr_reduction = 0
            return False
        self.epochs_since_best += 1
        self.epochs_since_lr_reduction += 1
        drop = self.epochs_since_lr_reduction >= spec.plateau_patience
        if drop:
            self.epochs_since_lr_reduction = 0  # the new learning rate gets the full patience
        return drop

    @property
    def improved(self) -> bool:
        """Whether the last epoch is the best of all, those of the warm-up included."""
        return self.best_epoch == self.epoch

    def finished(self, spec: OptimSpec) -> bool:
        return self.epoch >= spec.total_epochs or self.epochs_since_best >= spec.stop_patience


def make_optimizer(model: Classifier, spec: OptimSpec, epoch: int) -> torch.optim.AdamW:
    """AdamW over the parameters that train in this epoch: in warm-up the head alone."""
    warm_up = epoch < spec.warmup_epochs
    model.freeze_body(warm_up)
    groups = classifier.parameter_groups(model, warm_up, spec.weight_decay)
    optimizer = torch.optim.AdamW(groups, fused=True)
    set_lr(optimizer, spec.warmup_lr if warm_up else spec.lr)
    return optimizer


def cosine_lr(spec: OptimSpec, epoch: int) -> float:
    """The learning rate in an epoch of the cosine schedule, which starts after the warm-up."""
    fraction = (epoch - spec.warmup_epochs) / spec.max_epochs
    return spec.lr * (1 + math.cos(math.pi * fraction)) / 2


def get_lr(optimizer: torch.optim.Optimizer) -> float:
    """The learning rate, which all parameter groups share."""
    return optimizer.param_groups[0]["lr"]


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of all parameter groups."""
    for group in optimizer.param_groups:
        group["lr"] = lr


class OptimizerState(Schema, arbitrary_types_allowed=True):
    """The state dict of an optimizer: tensors by parameter, and the settings of each parameter group."""

    state: dict[int, dict[str, Tensor]]
    param_groups: list[dict[str, object]]


def restore_optimizer(optimizer: torch.optim.Optimizer, saved: OptimizerState) -> None:
    """Restore the state of Adam over the same parameters. Raises ValueError where the saved state is of others."""
    if _fixed_settings(saved.param_groups) != _fixed_settings(optimizer.state_dict()["param_groups"]):
        raise ValueError("an optimizer state of other parameters or settings")
    indices = {index for group in optimizer.state_dict()["param_groups"] for index in group["params"]}
    if not saved.state.keys() <= indices:  # fewer: parameters without a gradient so far have no state
        raise ValueError("an optimizer state of other parameters")
    for group in saved.param_groups:
        lr = group.get("lr")
        if not isinstance(lr, float) or not 0 < lr < math.inf:
            raise ValueError(f"a learning rate of {lr}")
    for index, tensors in saved.state.items():
        for name, value in tensors.items():
            checkpoint.check_dense(f"{name} of parameter {index}", value)
    optimizer.load_state_dict(saved.model_dump())
    for parameter, values in optimizer.state.items():
        shapes = {name: value.shape for name, value in values.items()}
        if shapes != {"step": torch.Size(), "exp_avg": parameter.shape, "exp_avg_sq": parameter.shape}:
            raise ValueError("an optimizer state that is not Adam's")
        # The memory format of the network may have changed since: beside weights of another layout fused Adam would
        # pair the wrong elements silently.
        for name in ("exp_avg", "exp_avg_sq"):
            values[name] = torch.empty_like(parameter).copy_(values[name])
        values["step"] = values["step"].clone()  # counted on its own, even if a file shares one among parameters


def _fixed_settings(param_groups: list[dict[str, object]]) -> list[dict[str, object]]:
    """The settings of parameter groups that never change in training."""
    return [{name: value for name, value in group.items() if name != "lr"} for group in param_groups]
