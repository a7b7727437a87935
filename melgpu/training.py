"""Optimizer steps and epochs as generators; no files, no prints.

An epoch is a pure function of the weights, the optimizer's state, (seed, epoch) and the batches: the global random
state is seeded at its start. Losses stay on the device; reading one is the caller's choice.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from melgpu import checkpoint
from melgpu.augment import augment
from melgpu.backbone import Classifier, use_bfloat16
from melgpu.errors import InputError
from melgpu.inference import describe_broken, window_probs
from melgpu.recipe import AugmentSpec, OptimSpec
from melgpu.stream import Batch

UNKNOWN = -1  # the class number of a track without a label, or of a window that was not heard


@dataclass
class Progress:
    """Where a training stands after `epoch` epochs; plain numbers, so that JSON can keep it."""

    epoch: int = 0
    best_accuracy: float = -1.0
    epochs_since_best: int = 0
    epochs_since_drop: int = 0  # of the learning rate, or since the best

    def note(self, accuracy: float, spec: OptimSpec) -> bool:
        """Count one more epoch; True where the learning rate is to drop (Keras' ReduceLROnPlateau)."""
        self.epoch += 1
        if accuracy > self.best_accuracy:
            self.best_accuracy, self.epochs_since_best, self.epochs_since_drop = accuracy, 0, 0
            return False
        self.epochs_since_best += 1
        self.epochs_since_drop += 1
        drop = self.epochs_since_drop >= spec.plateau_patience
        if drop:
            self.epochs_since_drop = 0
        return drop

    @property
    def improved(self) -> bool:
        return self.epochs_since_best == 0

    def finished(self, spec: OptimSpec) -> bool:
        return self.epoch >= spec.max_epochs or self.epochs_since_best >= spec.stop_patience


def epoch_seed(seed: int, epoch: int) -> int:
    """A seed for each epoch, unrelated to its neighbours'."""
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0] >> 1)


def make_optimizer(model: Classifier, spec: OptimSpec, epoch: int) -> torch.optim.Adam:
    """Adam over what trains in this epoch: in warm-up the head alone."""
    warm_up = epoch < spec.warmup_epochs
    model.freeze_body(warm_up)
    parameters = model.head.parameters() if warm_up else model.parameters()
    return torch.optim.Adam(parameters, lr=spec.warmup_lr if warm_up else spec.lr, fused=True)


def train_epoch(
    model: nn.Module,
    features: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Iterable[Batch],
    labels: Tensor,
    augment_spec: AugmentSpec,
    seed: int,
    bfloat16: bool,
) -> Iterator[Tensor]:
    """One optimizer step a batch; yields each step's mean loss, a scalar that stays on the device.

    `labels`, shape (rows of the manifest,), class numbers on the CPU.
    """
    torch.manual_seed(seed)
    model.train()
    for batch in batches:
        device = batch.waves.device
        generator = torch.Generator(device).manual_seed(int(torch.randint(2**62, ())))
        images = augment(features(batch.waves), augment_spec, generator)
        with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
            logits = model(images)
        targets = torch.where(batch.heard, labels[batch.tracks], UNKNOWN).to(device, non_blocking=True)
        loss = F.cross_entropy(logits.float(), targets, ignore_index=UNKNOWN, reduction="sum")
        loss = loss / max(1, int(batch.heard.sum()))  # on the CPU: no wait for the device
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield loss.detach()


def refresh_batch_norm(
    model: nn.Module, features: nn.Module, batches: Iterable[Batch], num_batches: int, bfloat16: bool
) -> None:
    """Replace lagging running averages by the statistics of `num_batches` batches under the present weights.

    Source: Wu and Johnson, "Rethinking 'Batch' in BatchNorm" (2021), section 3.
    """
    if not num_batches:
        return
    images = (features(batch.waves) for batch in itertools.islice(batches, num_batches))
    with torch.autocast(next(model.parameters()).device.type, torch.bfloat16, enabled=bfloat16):
        torch.optim.swa_utils.update_bn(images, model)


def window_accuracy(
    model: nn.Module, features: nn.Module, batches: Iterable[Batch], labels: Tensor, bfloat16: bool
) -> float:
    """Share of windows whose likeliest class is right, without flips."""
    right = total = 0
    for batch, probs in window_probs([model], features, batches, flip=False, bfloat16=bfloat16):
        right += int(((probs[0].argmax(1) == labels[batch.tracks]) & batch.heard).sum())
        total += int(batch.heard.sum())
    return right / max(1, total)


@dataclass
class Training:
    """All that an interrupted training needs to go on: a network, its optimizer, where it stands, what it logged."""

    model: Classifier
    optimizer: torch.optim.Optimizer
    progress: Progress
    log: list[dict]

    def state(self) -> tuple[dict[str, Tensor], dict]:
        """Named tensors and JSON data."""
        optimizer, groups = checkpoint.pack_optimizer(self.optimizer)
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        tensors |= {f"optimizer.{name}": value for name, value in optimizer.items()}
        return tensors, {"groups": groups, "progress": asdict(self.progress), "log": self.log}

    def restore(self, tensors: dict[str, Tensor], about: dict, spec: OptimSpec) -> None:
        """The inverse of `state`."""
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "optimizer": {}}
        for name, value in tensors.items():
            part, key = name.split(".", 1)
            parts[part][key] = value
        self.model.load_state_dict(parts["model"])
        self.progress, self.log = Progress(**about["progress"]), about["log"]
        self.optimizer = make_optimizer(self.model, spec, max(0, self.progress.epoch - 1))
        checkpoint.unpack_optimizer(self.optimizer, parts["optimizer"], about["groups"])


def start(model: Classifier, spec: OptimSpec) -> Training:
    """A training before its first epoch."""
    return Training(model, make_optimizer(model, spec, 0), Progress(), [])


def fit(
    training: Training,
    features: nn.Module,
    train_batches: Callable[[int], Iterable[Batch]],
    valid_batches: Callable[[], Iterable[Batch]],
    labels: Tensor,
    spec: OptimSpec,
    augment_spec: AugmentSpec,
    seed: int,
) -> Iterator[dict | None]:
    """Train to the end: yields None after each step, and the epoch's log record once `training` stands after it.

    `train_batches` makes the batches of an epoch; `labels`, shape (rows of the manifest,), class numbers on the CPU.
    """
    model = training.model
    bfloat16 = use_bfloat16(spec.precision, next(model.parameters()).device)
    while not training.progress.finished(spec):
        epoch, losses = training.progress.epoch, []
        if epoch == spec.warmup_epochs > 0:
            training.optimizer = make_optimizer(model, spec, epoch)
        if spec.schedule == "cosine" and epoch >= spec.warmup_epochs:
            _set_lr(training.optimizer, spec.lr * (1 + math.cos(math.pi * epoch / spec.max_epochs)) / 2)
        steps = train_epoch(
            model,
            features,
            training.optimizer,
            train_batches(epoch),
            labels,
            augment_spec,
            epoch_seed(seed, epoch),
            bfloat16,
        )
        for loss in steps:
            losses.append(loss)
            yield None
        loss = float(torch.stack(losses).mean())
        if not math.isfinite(loss):
            raise InputError(_explain(features, train_batches(epoch), epoch))
        refresh = 0 if epoch < spec.warmup_epochs else spec.refresh_batches  # a frozen body keeps its statistics
        refresh_batch_norm(model, features, train_batches(epoch), refresh, bfloat16)
        accuracy = window_accuracy(model, features, valid_batches(), labels, bfloat16)
        yield _end_epoch(training, loss, accuracy, spec)


def _explain(features: nn.Module, batches: Iterable[Batch], epoch: int) -> list[str]:
    """Why a loss is not a number: the windows of the epoch whose pictures are not, or too large steps."""
    problems = []
    for batch in batches:
        broken = features(batch.waves)[:, 0, 0, 0].isnan().cpu()
        problems += describe_broken(batch, broken)
    return problems or [f"epoch {epoch + 1}: the loss is no longer a number; try a smaller optim.lr"]


def _end_epoch(training: Training, loss: float, accuracy: float, spec: OptimSpec) -> dict:
    lr = training.optimizer.param_groups[0]["lr"]
    plateau = training.progress.note(accuracy, spec)
    if plateau and spec.schedule == "plateau":
        _set_lr(training.optimizer, lr * spec.plateau_factor)
    training.log.append({"epoch": training.progress.epoch, "lr": lr, "loss": loss, "window_accuracy": accuracy})
    return training.log[-1]


def _set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr
