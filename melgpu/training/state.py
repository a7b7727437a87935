"""The state of a training: all that it needs to resume after an interruption, to the same bits."""

from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from melgpu import distributed
from melgpu.models import checkpoint, classifier
from melgpu.models.classifier import Classifier
from melgpu.recipe_schema import MachineSpec, OptimSpec
from melgpu.training.optimizer import Progress, make_optimizer
from melgpu.training.stage_timer import StageTimer


@dataclass
class Training:
    """A network, its optimizer, its progress and its log."""

    model: Classifier
    optimizer: torch.optim.Optimizer
    progress: Progress
    log: list[dict]
    metric_sums: Tensor  # of loss and accuracy over the epoch's steps, shape (2,), float64; stays on the device
    micro_batch: int  # windows per forward pass; halved when the device is out of memory
    ema: nn.Module | None  # of the weights after each step, where the recipe has `ema_decay`
    timer: StageTimer

    @property
    def evaluated_model(self) -> nn.Module:
        """The network that is validated and saved: the moving average of the weights where there is one."""
        return self.ema.module if self.ema else self.model

    def step(self, sums: Tensor) -> None:
        """Update the weights by their gradients; `sums`, shape (2,), are the step's loss and accuracy."""
        self.optimizer.step()
        self.metric_sums += sums
        self.progress.step += 1
        self.progress.updates += 1
        if self.ema:
            self.ema.update(self.model, self.progress.updates)

    def means(self) -> tuple[float, float]:
        """Mean loss and accuracy of this process over the epoch so far; synchronizes with the device."""
        loss, accuracy = (self.metric_sums / max(1, self.progress.step)).tolist()
        return loss, accuracy

    def state(self) -> tuple[dict[str, Tensor], dict]:
        """Named tensors and JSON data."""
        optimizer, groups = checkpoint.pack_optimizer(self.optimizer)
        parts = {"model": self.model.state_dict()}
        if self.ema:
            parts["ema"] = self.ema.module.state_dict()
        parts |= {"optimizer": optimizer, "epoch": {"sums": self.metric_sums}}
        tensors = {f"{part}.{name}": value for part, values in parts.items() for name, value in values.items()}
        metadata = {"groups": groups, "progress": asdict(self.progress), "log": self.log}
        return tensors, metadata | {"micro_batch": self.micro_batch, "ranks": distributed.world_size()}

    def restore(self, tensors: dict[str, Tensor], metadata: dict, spec: OptimSpec) -> None:
        """The inverse of `state`; with another world size the step becomes that of the same number of windows.

        Raises KeyError, TypeError, ValueError or RuntimeError where the tensors do not fit this training.
        """
        parts: dict[str, dict[str, Tensor]] = {"optimizer": {}}  # which has no tensors before its first step
        for name, value in tensors.items():
            part, key = name.split(".", 1)
            parts.setdefault(part, {})[key] = value
        self.model.load_state_dict(parts["model"])
        if self.ema:
            self.ema.module.load_state_dict(parts["ema"])
        self.progress = Progress(**metadata["progress"])
        self.log = metadata["log"]
        # Between two epochs the saved optimizer is that of the epoch before; `fit` makes a new one after the warm-up.
        epoch = self.progress.epoch if self.progress.step else max(0, self.progress.epoch - 1)
        self.optimizer = make_optimizer(self.model, spec, epoch)
        # Sums and steps are scaled by the same factor, so that the means over the epoch stay.
        self.metric_sums.copy_(parts["epoch"]["sums"] * metadata["ranks"] / distributed.world_size())
        self.progress.step = self.progress.step * metadata["ranks"] // distributed.world_size()
        self.micro_batch = min(self.micro_batch, metadata["micro_batch"])  # the saved one may have been halved
        checkpoint.unpack_optimizer(self.optimizer, parts["optimizer"], metadata["groups"])


def start_training(model: Classifier, spec: OptimSpec, machine: MachineSpec) -> Training:
    """A training before its first epoch."""
    device = next(model.parameters()).device
    ema = classifier.make_ema(model, spec.ema_decay) if spec.ema_decay else None
    if machine.compile:
        torch.compiler.reset()  # graphs compiled for other networks count towards the recompile limit
        model.body.compile()
    sums = torch.zeros(2, dtype=torch.float64, device=device)
    optimizer = make_optimizer(model, spec, 0)
    return Training(model, optimizer, Progress(), [], sums, machine.micro_batch, ema, StageTimer(device))
