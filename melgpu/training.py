"""Optimizer steps and epochs as generators; no files, no prints.

A step is a pure function of the weights, the optimizer's state, (seed, epoch, step) and its batch: the global random
state is seeded at its start, so a training resumed at any step goes on to the same bits. Losses stay on the device
until the epoch ends. Of several processes (see `ranks`) each trains on batches of its own, with averaged gradients.
"""

import itertools
import math
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import asdict, dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from melgpu import checkpoint, ranks
from melgpu.augment import augment
from melgpu.backbone import Classifier, use_bfloat16
from melgpu.batch import Batch
from melgpu.errors import InputError
from melgpu.inference import describe_broken, window_probs
from melgpu.recipe import AugmentSpec, MachineSpec, OptimSpec

UNKNOWN = -1  # the class number of a track without a label, or of a window that was not heard


@dataclass
class Progress:
    """Where a training stands: after `epoch` epochs and `step` steps; plain numbers, so that JSON can keep it."""

    epoch: int = 0
    step: int = 0
    best_accuracy: float = -1.0
    epochs_since_best: int = 0
    epochs_since_drop: int = 0  # of the learning rate, or since the best

    def note(self, accuracy: float, spec: OptimSpec) -> bool:
        """Count one more epoch; True where the learning rate is to drop (Keras' ReduceLROnPlateau)."""
        self.epoch, self.step = self.epoch + 1, 0
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


def step_seed(seed: int, epoch: int, step: int, rank: int = 0) -> int:
    """A seed for each step of each epoch of each process, unrelated to its neighbours'."""
    return int(np.random.SeedSequence([seed, epoch, step, rank]).generate_state(1, np.uint64)[0] >> 1)


def make_optimizer(model: Classifier, spec: OptimSpec, epoch: int) -> torch.optim.Adam:
    """Adam over what trains in this epoch: in warm-up the head alone."""
    warm_up = epoch < spec.warmup_epochs
    model.freeze_body(warm_up)
    parameters = model.head.parameters() if warm_up else model.parameters()
    return torch.optim.Adam(parameters, lr=spec.warmup_lr if warm_up else spec.lr, fused=True)


def train_epoch(
    training: "Training",
    features: nn.Module,
    batches: Iterable[Batch],
    labels: Tensor,
    augment_spec: AugmentSpec,
    seed: int,
    bfloat16: bool,
) -> Iterator[int]:
    """One optimizer step a batch, from the step where `training` stands; yields the number of windows of each.

    `labels`, shape (rows of the manifest,), class numbers on the CPU.
    """
    model, progress = ranks.shared(training.model), training.progress
    model.train()
    for batch in batches:
        torch.manual_seed(step_seed(seed, progress.epoch, progress.step, ranks.rank()))
        device = batch.waves.device
        generator = torch.Generator(device).manual_seed(int(torch.randint(2**62, ())))
        images = augment(features(batch.waves), augment_spec, generator)
        targets = torch.where(batch.heard, labels[batch.tracks], UNKNOWN).to(device, non_blocking=True)
        num_heard = max(1, int(batch.heard.sum()))  # on the CPU: no wait for the device
        while (loss := _backward(training, model, images, targets, num_heard, bfloat16)) is None:
            training.micro_batch = -(-min(training.micro_batch, len(images)) // 2)
        training.optimizer.step()
        training.loss_sum += loss
        progress.step += 1
        yield len(batch.tracks)


def _backward(
    training: "Training", model: nn.Module, images: Tensor, targets: Tensor, num_heard: int, bfloat16: bool
) -> Tensor | None:
    """Gradients of a batch, taken in micro-batches, and its mean loss; None where memory ran out and less may do."""
    training.optimizer.zero_grad()
    total, micro_batch = torch.zeros((), device=images.device), training.micro_batch
    pictures = images.detach().requires_grad_(images.requires_grad)  # where a front end learns, it waits for all parts
    try:
        for own, wanted in zip(pictures.split(micro_batch), targets.split(micro_batch), strict=True):
            with torch.autocast(images.device.type, torch.bfloat16, enabled=bfloat16):
                logits = model(own)
            loss = F.cross_entropy(logits.float(), wanted, ignore_index=UNKNOWN, reduction="sum") / num_heard
            loss.backward()
            total += loss.detach()
        if images.requires_grad:
            images.backward(pictures.grad)
    except torch.OutOfMemoryError:
        if ranks.count() > 1 or min(training.micro_batch, len(images)) == 1:
            raise InputError("the device's memory runs out: set a smaller machine.micro_batch") from None
        return None
    return total


def refresh_batch_norm(
    model: nn.Module, features: nn.Module, batches: Iterable[Batch], num_batches: int, bfloat16: bool
) -> None:
    """Replace lagging running averages by the statistics of `num_batches` batches under the present weights.

    Source: Wu and Johnson, "Rethinking 'Batch' in BatchNorm" (2021), section 3.
    """
    images = (features(batch.waves) for batch in itertools.islice(batches, num_batches))
    with torch.autocast(next(model.parameters()).device.type, torch.bfloat16, enabled=bfloat16):
        torch.optim.swa_utils.update_bn(images, model)
    ranks.average(buffer for buffer in model.buffers() if buffer.is_floating_point())


def window_accuracy(
    model: nn.Module, features: nn.Module, batches: Iterable[Batch], labels: Tensor, bfloat16: bool
) -> Generator[int, None, float]:
    """Share of windows (of all ranks) whose likeliest class is right, without flips; yields 0 after each batch."""
    counts = torch.zeros(2, dtype=torch.int64)
    for batch, probs in window_probs([model], features, batches, flip=False, bfloat16=bfloat16):
        right = (probs[0].argmax(1) == labels[batch.tracks]) & batch.heard
        counts += torch.stack([right.sum(), batch.heard.sum()])
        yield 0
    device = next(model.parameters()).device
    right, heard = ranks.total(counts.to(device)).tolist()
    return right / max(1, heard)


@dataclass
class Training:
    """All that an interrupted training needs to go on: a network, its optimizer, where it stands, what it logged."""

    model: Classifier
    optimizer: torch.optim.Optimizer
    progress: Progress
    log: list[dict]
    loss_sum: Tensor  # over the steps of the epoch, a scalar that stays on the device
    micro_batch: int  # windows that go through the network at once; halved when memory runs out

    def state(self) -> tuple[dict[str, Tensor], dict]:
        """Named tensors and JSON data."""
        optimizer, groups = checkpoint.pack_optimizer(self.optimizer)
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        tensors |= {f"optimizer.{name}": value for name, value in optimizer.items()}
        tensors["loss.sum"] = self.loss_sum
        about = {"groups": groups, "progress": asdict(self.progress), "log": self.log}
        return tensors, about | {"micro_batch": self.micro_batch, "ranks": ranks.count()}

    def restore(self, tensors: dict[str, Tensor], about: dict, spec: OptimSpec) -> None:
        """The inverse of `state`; with another number of processes the step is that of as many windows.

        Raises KeyError, TypeError, ValueError or RuntimeError where tensors are not this training's.
        """
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "optimizer": {}, "loss": {}}
        for name, value in tensors.items():
            part, key = name.split(".", 1)
            parts[part][key] = value
        self.model.load_state_dict(parts["model"])
        self.progress, self.log = Progress(**about["progress"]), about["log"]
        epoch = self.progress.epoch if self.progress.step else max(0, self.progress.epoch - 1)
        self.optimizer = make_optimizer(self.model, spec, epoch)
        self.loss_sum.copy_(parts["loss"]["sum"] * about["ranks"] / ranks.count())
        self.progress.step = self.progress.step * about["ranks"] // ranks.count()
        self.micro_batch = min(self.micro_batch, about["micro_batch"])
        checkpoint.unpack_optimizer(self.optimizer, parts["optimizer"], about["groups"])


def start(model: Classifier, spec: OptimSpec, machine: MachineSpec) -> Training:
    """A training before its first epoch."""
    if machine.compile:
        model.body.compile()
    loss_sum = torch.zeros((), dtype=torch.float64, device=next(model.parameters()).device)
    return Training(model, make_optimizer(model, spec, 0), Progress(), [], loss_sum, machine.micro_batch)


def fit(
    training: Training,
    features: nn.Module,
    train_batches: Callable[[int, int], Iterable[Batch]],
    valid_batches: Callable[[], Iterable[Batch]],
    labels: Tensor,
    spec: OptimSpec,
    augment_spec: AugmentSpec,
    seed: int,
) -> Iterator[int | dict]:
    """Train to the end, from wherever `training` stands; after each yield it may be kept and resumed.

    Yields the number of windows after each step, 0 after each batch of validation, and the epoch's log record once
    `training` stands after it. `train_batches` makes the batches of an epoch from one of its steps on; `labels`, shape
    (rows of the manifest,), class numbers on the CPU.
    """
    model, progress = training.model, training.progress
    bfloat16 = use_bfloat16(spec.precision, next(model.parameters()).device)
    while not progress.finished(spec):
        epoch = progress.epoch
        if epoch == spec.warmup_epochs > 0 == progress.step:
            training.optimizer = make_optimizer(model, spec, epoch)
        if spec.schedule == "cosine" and epoch >= spec.warmup_epochs:
            _set_lr(training.optimizer, spec.lr * (1 + math.cos(math.pi * epoch / spec.max_epochs)) / 2)
        batches = train_batches(epoch, progress.step)
        yield from train_epoch(training, features, batches, labels, augment_spec, seed, bfloat16)
        loss = float(ranks.total(training.loss_sum.clone())) / ranks.count() / progress.step
        if not math.isfinite(loss):
            raise InputError(_explain(features, train_batches(epoch, 0), epoch))
        refresh = 0 if epoch < spec.warmup_epochs else spec.refresh_batches  # a frozen body keeps its statistics
        if refresh:
            refresh_batch_norm(model, features, train_batches(epoch, 0), refresh, bfloat16)
        ranks.spread(model.buffers())
        accuracy = yield from window_accuracy(model, features, valid_batches(), labels, bfloat16)
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
    training.loss_sum.zero_()
    plateau = training.progress.note(accuracy, spec)
    if plateau and spec.schedule == "plateau":
        _set_lr(training.optimizer, lr * spec.plateau_factor)
    training.log.append({"epoch": training.progress.epoch, "lr": lr, "loss": loss, "window_accuracy": accuracy})
    return training.log[-1]


def _set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr
