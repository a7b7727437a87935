"""Optimizer steps and epochs as generators; no files, no prints.

A step is a pure function of the weights, the optimizer's state, (seed, epoch, step) and its batch: the global random
state is seeded at its start, so a training resumed at any step goes on to the same bits. Losses stay on the device
until somebody asks for their mean. Of several processes (see `ranks`) each trains on batches of its own, with averaged
gradients.
"""

import itertools
import math
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor, nn

from melgpu import distributed
from melgpu.data.batch import Batch
from melgpu.data.targets import Targets
from melgpu.errors import InputError
from melgpu.features.augment import augment, mixup
from melgpu.models import checkpoint, classifier
from melgpu.models.classifier import Classifier, use_bfloat16
from melgpu.models.inference import describe_nonfinite, window_probs
from melgpu.recipe import AugmentSpec, MachineSpec, OptimSpec
from melgpu.training.optimizer import Progress, cosine_lr, get_lr, make_optimizer, set_lr
from melgpu.training.stage_timer import StageTimer

MAX_DESCRIBED = 20  # windows named where many have no picture
STAGES = ("audio", "pictures", "network", "rest", "validation")  # audio: waiting for it; rest: what the caller does


def step_seed(seed: int, epoch: int, step: int, rank: int = 0) -> int:
    """A seed for each step of each epoch of each process, unrelated to its neighbours'."""
    return int(np.random.SeedSequence([seed, epoch, step, rank]).generate_state(1, np.uint64)[0] >> 1)


def train_epoch(
    training: "Training",
    features: nn.Module,
    batches: Iterable[Batch],
    targets: Targets,
    spec: OptimSpec,
    augment_spec: AugmentSpec,
    seed: int,
) -> Iterator[int]:
    """One optimizer step a batch, from the step where `training` stands; yields the number of windows of each."""
    model, progress, clock = distributed.wrap_ddp(training.model), training.progress, training.timer
    bfloat16 = use_bfloat16(spec.precision, training.sums.device)
    model.train()
    clock.mark(None)
    for batch in batches:
        clock.mark("audio")
        torch.manual_seed(step_seed(seed, progress.epoch, progress.step, distributed.rank()))
        images, wanted = augment(features(batch.waves), augment_spec), targets.of(batch, spec.label_smoothing)
        if augment_spec.mixup_alpha:
            images, wanted = mixup(images, wanted, augment_spec.mixup_alpha)
        wanted = (wanted / max(1, int(batch.valid.sum()))).to(images.device, non_blocking=True)
        clock.mark("pictures")
        while (sums := _backward(training, model, images, wanted, bfloat16)) is None:
            training.micro_batch = -(-min(training.micro_batch, len(images)) // 2)
        training.step(sums)
        clock.mark("network")
        yield len(batch.tracks)
        clock.mark("rest")


def _backward(training: "Training", model: nn.Module, images: Tensor, wanted: Tensor, bfloat16: bool) -> Tensor | None:
    """Gradients of a batch, taken in micro-batches; its mean loss and share of right answers, shape (2,).

    `wanted`, shape (B, C), are the targets over the number of windows heard; rows of 0 were not. None where memory ran
    out and less at once may do.
    """
    training.optimizer.zero_grad()
    sums, heard = torch.zeros_like(training.sums), (wanted.sum(1) > 0).sum().clamp(min=1)
    pictures = images.detach().requires_grad_(images.requires_grad)  # where a front end learns, it waits for all parts
    try:
        for own, right in zip(pictures.split(training.micro_batch), wanted.split(training.micro_batch), strict=True):
            with torch.autocast(images.device.type, torch.bfloat16, enabled=bfloat16):
                logits = model(own)
            loss = -(right * logits.float().log_softmax(1)).sum()
            loss.backward()
            hits = (logits.argmax(1) == right.argmax(1)) & (right.sum(1) > 0)
            sums += torch.stack([loss.detach(), hits.sum() / heard])
        if images.requires_grad:
            images.backward(pictures.grad)
    except torch.OutOfMemoryError:
        if distributed.world_size() > 1 or min(training.micro_batch, len(images)) == 1:
            raise InputError("the device's memory runs out: set a smaller machine.micro_batch") from None
        return None
    return sums


def update_batch_norm(
    model: nn.Module, features: nn.Module, batches: Iterable[Batch], num_batches: int, bfloat16: bool
) -> None:
    """Replace lagging running averages by the statistics of `num_batches` batches under the present weights.

    Source: Wu and Johnson, "Rethinking 'Batch' in BatchNorm" (2021), section 3.
    """
    images = (features(batch.waves) for batch in itertools.islice(batches, num_batches))
    with torch.autocast(next(model.parameters()).device.type, torch.bfloat16, enabled=bfloat16):
        torch.optim.swa_utils.update_bn(images, model)
    distributed.all_reduce_mean(buffer for buffer in model.buffers() if buffer.is_floating_point())


def window_accuracy(
    model: nn.Module, features: nn.Module, batches: Iterable[Batch], classes: Tensor, bfloat16: bool
) -> Generator[int, None, float]:
    """Share of windows (of all ranks) whose likeliest class is right, without flips; yields 0 after each batch."""
    counts = torch.zeros(2, dtype=torch.int64)
    for batch, probs in window_probs([model], features, batches, flip=False, bfloat16=bfloat16):
        right = (probs[0].argmax(1) == classes[batch.tracks]) & batch.valid
        counts += torch.stack([right.sum(), batch.valid.sum()])
        yield 0
    device = next(model.parameters()).device
    right, heard = distributed.all_reduce_sum(counts.to(device)).tolist()
    return right / max(1, heard)


@dataclass
class Training:
    """All that an interrupted training needs to go on: a network, its optimizer, where it stands, what it logged."""

    model: Classifier
    optimizer: torch.optim.Optimizer
    progress: Progress
    log: list[dict]
    sums: Tensor  # over the epoch's steps: loss and share of right answers, shape (2,), float64; stays on the device
    micro_batch: int  # windows that go through the network at once; halved when memory runs out
    ema: nn.Module | None  # of the weights after each step, where the recipe wants one
    timer: StageTimer

    @property
    def evaluated_model(self) -> nn.Module:
        """The network that is validated and kept."""
        return self.ema.module if self.ema else self.model

    def step(self, sums: Tensor) -> None:
        """Change the weights by the gradients that lie there."""
        self.optimizer.step()
        self.sums += sums
        self.progress.step += 1
        self.progress.updates += 1
        if self.ema:
            self.ema.update(self.model, self.progress.updates)

    def means(self) -> tuple[float, float]:
        """Loss and share of right answers of the epoch so far, of this process; waits for the device."""
        loss, accuracy = (self.sums / max(1, self.progress.step)).tolist()
        return loss, accuracy

    def state(self) -> tuple[dict[str, Tensor], dict]:
        """Named tensors and JSON data."""
        optimizer, groups = checkpoint.pack_optimizer(self.optimizer)
        modules = {"model": self.model} | ({"average": self.ema.module} if self.ema else {})
        parts = {name: module.state_dict() for name, module in modules.items()}
        parts |= {"optimizer": optimizer, "epoch": {"sums": self.sums}}
        tensors = {f"{part}.{name}": value for part, values in parts.items() for name, value in values.items()}
        metadata = {"groups": groups, "progress": asdict(self.progress), "log": self.log}
        return tensors, metadata | {"micro_batch": self.micro_batch, "ranks": distributed.world_size()}

    def restore(self, tensors: dict[str, Tensor], metadata: dict, spec: OptimSpec) -> None:
        """The inverse of `state`; with another number of processes the step is that of as many windows.

        Raises KeyError, TypeError, ValueError or RuntimeError where tensors are not this training's.
        """
        parts: dict[str, dict[str, Tensor]] = {"optimizer": {}}
        for name, value in tensors.items():
            part, key = name.split(".", 1)
            parts.setdefault(part, {})[key] = value
        self.model.load_state_dict(parts["model"])
        if self.ema:
            self.ema.module.load_state_dict(parts["average"])
        self.progress, self.log = Progress(**metadata["progress"]), metadata["log"]
        epoch = self.progress.epoch if self.progress.step else max(0, self.progress.epoch - 1)
        self.optimizer = make_optimizer(self.model, spec, epoch)
        self.sums.copy_(parts["epoch"]["sums"] * metadata["ranks"] / distributed.world_size())
        self.progress.step = self.progress.step * metadata["ranks"] // distributed.world_size()
        self.micro_batch = min(self.micro_batch, metadata["micro_batch"])
        checkpoint.unpack_optimizer(self.optimizer, parts["optimizer"], metadata["groups"])


def start(model: Classifier, spec: OptimSpec, machine: MachineSpec) -> Training:
    """A training before its first epoch."""
    device = next(model.parameters()).device
    average = classifier.make_ema(model, spec.ema_decay) if spec.ema_decay else None
    if machine.compile:
        torch.compiler.reset()  # what other networks were compiled to counts against this one's limit
        model.body.compile()
    sums = torch.zeros(2, dtype=torch.float64, device=device)
    optimizer = make_optimizer(model, spec, 0)
    return Training(model, optimizer, Progress(), [], sums, machine.micro_batch, average, StageTimer(device))


def fit(
    training: Training,
    features: nn.Module,
    train_batches: Callable[[int, int], Iterable[Batch]],
    valid_batches: Callable[[], Iterable[Batch]],
    targets: Targets,
    spec: OptimSpec,
    augment_spec: AugmentSpec,
    seed: int,
) -> Iterator[int | dict]:
    """Train to the end, from wherever `training` stands; after each yield it may be kept and resumed.

    Yields the number of windows after each step, 0 after each batch of validation, and the epoch's log record once
    `training` stands after it. `train_batches` makes the batches of an epoch from one of its steps on.
    """
    progress = training.progress
    while not progress.finished(spec):
        epoch, begun = progress.epoch, progress.step
        if epoch == spec.warmup_epochs > 0 == progress.step:
            training.optimizer = make_optimizer(training.model, spec, epoch)
        if spec.schedule == "cosine" and epoch >= spec.warmup_epochs:
            set_lr(training.optimizer, cosine_lr(spec, epoch))
        training.timer.restart()
        batches = train_batches(epoch, progress.step)
        yield from train_epoch(training, features, batches, targets, spec, augment_spec, seed)
        loss, accuracy = (
            distributed.all_reduce_sum(training.sums.clone()) / distributed.world_size() / progress.step
        ).tolist()
        if not math.isfinite(loss):
            raise InputError(diagnose_nonfinite(training.model, features, train_batches(epoch, 0), epoch))
        record = {"epoch": epoch + 1, "lr": get_lr(training.optimizer), "loss": loss, "accuracy": accuracy}
        accuracy = yield from _validate(training, features, train_batches, valid_batches, targets, spec)
        record["window_accuracy"] = accuracy
        yield _end_epoch(training, record | throughput(training.timer, progress.step - begun), spec)


def _validate(
    training: Training,
    features: nn.Module,
    train_batches: Callable[[int, int], Iterable[Batch]],
    valid_batches: Callable[[], Iterable[Batch]],
    targets: Targets,
    spec: OptimSpec,
) -> Generator[int, None, float]:
    """Bring the judged network's batch norm up to date, and return its accuracy on validation windows."""
    model, epoch = training.evaluated_model, training.progress.epoch
    features = getattr(model, "front_end", None) or features
    bfloat16 = use_bfloat16(spec.precision, training.sums.device)
    if spec.batch_norm_batches and epoch >= spec.warmup_epochs:  # a frozen body keeps its statistics
        update_batch_norm(model, features, train_batches(epoch, 0), spec.batch_norm_batches, bfloat16)
    distributed.broadcast(model.buffers())
    accuracy = yield from window_accuracy(model, features, valid_batches(), targets.classes, bfloat16)
    training.timer.mark("validation")
    return accuracy


def throughput(clock: StageTimer, steps: int) -> dict[str, float]:
    """How fast the epoch went, and the seconds of each stage."""
    seconds = clock.seconds(wait=True)
    trained = sum(own for stage, own in seconds.items() if stage != "validation")
    rounded = {f"{stage}_s": round(seconds.get(stage, 0.0), 3) for stage in STAGES}
    return {"steps_per_s": round(steps / max(trained, 1e-9), 3)} | rounded


def diagnose_nonfinite(model: nn.Module, features: nn.Module, batches: Iterable[Batch], epoch: int) -> list[str]:
    """Why a loss is not a number: some of the windows whose pictures are not, or too large steps."""
    problems, diverged = [], f"epoch {epoch + 1}: the loss is no longer a number; try a smaller optim.lr"
    front_end = getattr(model, "front_end", None)
    if front_end and not all(bool(own.isfinite().all()) for own in front_end.parameters()):
        return [diverged]
    for batch in batches:
        problems += describe_nonfinite(batch, features(batch.waves)[:, 0, 0, 0].isnan().cpu())
        if len(problems) >= MAX_DESCRIBED:
            break
    return problems[:MAX_DESCRIBED] or [diverged]


def _end_epoch(training: Training, record: dict, spec: OptimSpec) -> dict:
    training.sums.zero_()
    plateau = training.progress.record_epoch(record["window_accuracy"], spec)
    if plateau and spec.schedule == "plateau":
        set_lr(training.optimizer, get_lr(training.optimizer) * spec.plateau_factor)
    training.log.append(record)
    return record
