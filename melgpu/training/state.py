"""The state of a training: all that it needs to resume after an interruption, to the same bits."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from melgpu import distributed
from melgpu.models import checkpoint, classifier
from melgpu.models.classifier import Classifier, MovingAverage
from melgpu.models.metadata import EpochRecord, NetworkProvenance
from melgpu.models.schema import Count, Schema
from melgpu.recipe_schema import EngineName, MachineSpec, OptimSpec
from melgpu.training.optimizer import OptimizerState, Progress, make_optimizer, restore_optimizer
from melgpu.training.stage_timer import StageTimer


class TrainingState(Schema, arbitrary_types_allowed=True):
    """The resumable state of a training, the content of last.pt: state dicts, progress, log, and metric sums (2,)."""

    provenance: NetworkProvenance
    engine: EngineName
    progress: Progress
    log: list[EpochRecord]
    micro_batch: Count
    world_size: Count
    metric_sums: Tensor
    model: dict[str, Tensor]
    ema: dict[str, Tensor] | None
    optimizer: OptimizerState


@dataclass
class Training:
    """A network, its optimizer, its progress and its log."""

    model: Classifier
    optimizer: torch.optim.Optimizer
    progress: Progress
    log: list[EpochRecord]
    metric_sums: Tensor  # of loss and accuracy over the epoch's steps, shape (2,), float64; stays on the device
    micro_batch: int  # windows per forward pass; halved when the device is out of memory
    ema: MovingAverage | None  # of the weights after each step, where the recipe has `ema_decay`
    timer: StageTimer
    engine: EngineName = "auto"  # of the pictures; once chosen it stays, also where the training resumes

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

    def state(self, provenance: NetworkProvenance) -> TrainingState:
        """The current state; its tensors are those of the training itself, which change with the next step."""
        return TrainingState(
            provenance=provenance,
            engine=self.engine,
            progress=self.progress.model_copy(),
            log=list(self.log),
            micro_batch=self.micro_batch,
            world_size=distributed.world_size(),
            metric_sums=self.metric_sums,
            model=self.model.state_dict(),
            ema=self.ema.module.state_dict() if self.ema else None,
            optimizer=OptimizerState(**self.optimizer.state_dict()),
        )

    def restore(self, state: TrainingState, spec: OptimSpec) -> None:
        """The inverse of `state`; with another world size the step becomes that of the same number of windows.

        Raises ValueError where the state does not fit this training.
        """
        # The log has one record for each finished epoch.
        progress = state.progress
        if not max(progress.best_epoch, progress.epochs_since_best) <= progress.epoch == len(state.log):
            raise ValueError(f"{progress.epoch} epochs with a log of {len(state.log)}")
        if (self.ema is None) != (state.ema is None):
            raise ValueError("one of them has a moving average, the other has not")
        if (state.metric_sums.shape, state.metric_sums.dtype) != (self.metric_sums.shape, self.metric_sums.dtype):
            raise ValueError("metric sums of another shape or type")
        checkpoint.load_state_dict(self.model, state.model)
        if self.ema and state.ema:
            checkpoint.load_state_dict(self.ema.module, state.ema)
        self.engine = state.engine
        self.progress = state.progress
        self.log = state.log
        # Between two epochs the saved optimizer is that of the epoch before; `fit` makes a new one after the warm-up.
        epoch = self.progress.epoch if self.progress.step else max(0, self.progress.epoch - 1)
        self.optimizer = make_optimizer(self.model, spec, epoch)
        restore_optimizer(self.optimizer, state.optimizer)
        # Sums and steps are scaled by the same factor, so that the means over the epoch stay.
        self.metric_sums.copy_(state.metric_sums * state.world_size / distributed.world_size())
        self.progress.step = self.progress.step * state.world_size // distributed.world_size()
        self.micro_batch = min(self.micro_batch, state.micro_batch)  # the saved one may have been halved


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
