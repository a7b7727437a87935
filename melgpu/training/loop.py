"""Optimizer steps and epochs as generators; they write no files and print nothing.

A step is a pure function of the weights, the optimizer's state, (seed, epoch, step, rank) and its batch: the global
random state is seeded at its start, so a training that is resumed at any step gives the same bits. Losses stay on the
device until their mean is read. Of several processes (see `distributed`) each trains on its own batches, with averaged
gradients.
"""

import itertools
import math
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from melgpu import distributed
from melgpu.data.batch import Batch
from melgpu.data.targets import Targets
from melgpu.errors import InputError
from melgpu.features.augment import augmented_pictures
from melgpu.models.classifier import use_bfloat16
from melgpu.models.inference import describe_nonfinite, window_probs
from melgpu.models.metadata import EpochRecord
from melgpu.recipe_schema import AugmentSpec, OptimSpec
from melgpu.training.optimizer import cosine_lr, get_lr, make_optimizer, set_lr
from melgpu.training.stage_timer import throughput
from melgpu.training.state import Training
from melgpu.training.step import train_step

MAX_DESCRIBED = 20  # non-finite windows named in an error


@dataclass(frozen=True)
class StepDone:
    """One optimizer step was taken, on a batch of so many windows of this process."""

    num_windows: int


@dataclass(frozen=True)
class ValidationBatch:
    """One batch of so many validation windows of this process was predicted."""

    num_windows: int


@dataclass(frozen=True)
class EpochDone:
    """An epoch has ended, and the progress, the log and the learning rate are those after it."""

    record: EpochRecord


Event = StepDone | ValidationBatch | EpochDone


@dataclass(frozen=True)
class TrainingData:
    """What a network is trained and validated on.

    train_batches : makes the batches of an epoch from one of its steps on
    valid_batches : makes the validation batches
    targets : of all tracks
    """

    train_batches: Callable[[int, int], Iterable[Batch]]
    valid_batches: Callable[[], Iterable[Batch]]
    targets: Targets


def step_seed(seed: int, epoch: int, step: int, rank: int = 0) -> int:
    """An independent seed for each step of each epoch of each process."""
    (state,) = np.random.SeedSequence([seed, epoch, step, rank]).generate_state(1, np.uint64)
    return int(state >> 1)  # 63 bits: not negative as a signed integer either


def train_epoch(
    training: Training,
    features: nn.Module,
    batches: Iterable[Batch],
    targets: Targets,
    spec: OptimSpec,
    augment_spec: AugmentSpec,
    seed: int,
) -> Generator[StepDone]:
    """One optimizer step per batch, from the current step of `training` on."""
    model = distributed.wrap_ddp(training.model)
    progress = training.progress
    timer = training.timer
    bfloat16 = use_bfloat16(spec.precision, training.metric_sums.device)
    model.train()
    timer.mark(None)  # what came before the first batch belongs to no stage
    for batch in batches:
        timer.mark("audio")
        # Seeded by its position, a step draws the same augmentation and dropout in a resumed training.
        torch.manual_seed(step_seed(seed, progress.epoch, progress.step, distributed.rank()))
        window_targets = targets.for_batch(batch, spec.label_smoothing)
        pictures, soft_targets = augmented_pictures(features, batch.waves, window_targets, augment_spec)
        # Divided here, the losses of micro-batches of any size add up to the mean over the batch's valid windows.
        num_valid = max(1, int(batch.valid.sum()))
        soft_targets = (soft_targets / num_valid).to(pictures.device, non_blocking=True)
        timer.mark("pictures")
        train_step(training, model, pictures, soft_targets, bfloat16, targets.temperature)
        timer.mark("network")
        yield StepDone(len(batch.tracks))
        timer.mark("other")


def update_batch_norm(
    model: nn.Module, features: nn.Module, batches: Iterable[Batch], num_batches: int, bfloat16: bool
) -> None:
    """Replace the running averages of batch norm by the statistics of `num_batches` batches under the current weights.

    Source: Wu and Johnson, "Rethinking 'Batch' in BatchNorm" (2021), section 3.
    """
    pictures = (features(batch.waves) for batch in itertools.islice(batches, num_batches))
    with torch.autocast(next(model.parameters()).device.type, torch.bfloat16, enabled=bfloat16):
        torch.optim.swa_utils.update_bn(pictures, model)
    averages = (buffer for buffer in model.buffers() if buffer.is_floating_point())  # not the counts of batches
    distributed.all_reduce_mean(averages)


def validate_windows(
    model: nn.Module, features: nn.Module, batches: Iterable[Batch], classes: Tensor, bfloat16: bool
) -> Generator[ValidationBatch, None, float]:
    """Accuracy over the valid windows of all processes, without flips."""
    counts = torch.zeros(2, dtype=torch.int64)
    for batch, probs in window_probs([model], features, batches, flip=False, bfloat16=bfloat16):
        correct = (probs[0].argmax(1) == classes[batch.tracks]) & batch.valid
        counts += torch.stack([correct.sum(), batch.valid.sum()])
        yield ValidationBatch(len(batch.tracks))
    device = next(model.parameters()).device
    # Counts are summed rather than accuracies averaged: processes can have different numbers of valid windows.
    num_correct, num_valid = distributed.all_reduce_sum(counts.to(device)).tolist()
    return num_correct / max(1, num_valid)


def fit(
    training: Training, features: nn.Module, data: TrainingData, spec: OptimSpec, augment_spec: AugmentSpec, seed: int
) -> Generator[Event]:
    """Train to the end, from the current state of `training`; after each event it may be saved and resumed."""
    progress = training.progress
    while not progress.finished(spec):
        epoch = progress.epoch
        first_step = progress.step  # above 0 where a training resumes within an epoch
        _prepare_optimizer(training, spec)
        training.timer.restart()
        batches = data.train_batches(epoch, first_step)
        yield from train_epoch(training, features, batches, data.targets, spec, augment_spec, seed)
        sums = distributed.all_reduce_sum(training.metric_sums.clone())  # in place: of a copy
        loss, accuracy = (sums / distributed.world_size() / progress.step).tolist()
        if not math.isfinite(loss):
            raise InputError(diagnose_nonfinite(features, data.train_batches(epoch, 0), epoch))
        window_accuracy = yield from _validate(training, features, data, spec)
        record = EpochRecord(
            epoch=epoch + 1,
            lr=get_lr(training.optimizer),
            loss=loss,
            accuracy=accuracy,
            window_accuracy=window_accuracy,
            **throughput(training.timer, progress.step - first_step),
        )
        _end_epoch(training, record, spec)
        yield EpochDone(record)


def _prepare_optimizer(training: Training, spec: OptimSpec) -> None:
    """Let the body train once the warm-up is over, and set the cosine schedule's learning rate."""
    epoch = training.progress.epoch
    # Only before the epoch's first step: a training that resumes later in it has restored this optimizer.
    if epoch == spec.warmup_epochs > 0 == training.progress.step:
        training.optimizer = make_optimizer(training.model, spec, epoch)
    if spec.schedule == "cosine" and epoch >= spec.warmup_epochs:
        set_lr(training.optimizer, cosine_lr(spec, epoch))


def _validate(
    training: Training, features: nn.Module, data: TrainingData, spec: OptimSpec
) -> Generator[ValidationBatch, None, float]:
    """Update the batch norm of the evaluated network, and return its accuracy on validation windows."""
    model = training.evaluated_model
    epoch = training.progress.epoch
    bfloat16 = use_bfloat16(spec.precision, training.metric_sums.device)
    if spec.batch_norm_batches and epoch >= spec.warmup_epochs:  # a frozen body keeps its statistics
        update_batch_norm(model, features, data.train_batches(epoch, 0), spec.batch_norm_batches, bfloat16)
    distributed.broadcast(model.buffers())  # all processes validate the network that the main process saves
    accuracy = yield from validate_windows(model, features, data.valid_batches(), data.targets.classes, bfloat16)
    training.timer.mark("validation")
    return accuracy


def diagnose_nonfinite(features: nn.Module, batches: Iterable[Batch], epoch: int) -> list[str]:
    """The cause of a non-finite loss: windows whose pictures are not finite, or else a diverged training."""
    problems = []
    diverged = f"epoch {epoch + 1}: the loss is not finite, the training diverged; try a smaller optim.lr"
    for batch in batches:
        is_nan = features(batch.waves)[:, 0, 0, 0].isnan().cpu()  # one pixel will do: such a picture is NaN throughout
        problems += describe_nonfinite(batch, is_nan)
        if len(problems) >= MAX_DESCRIBED:
            break
    return problems[:MAX_DESCRIBED] or [diverged]


def _end_epoch(training: Training, record: EpochRecord, spec: OptimSpec) -> None:
    training.metric_sums.zero_()
    plateau = training.progress.record_epoch(record.window_accuracy, spec)
    if plateau and spec.schedule == "plateau":
        set_lr(training.optimizer, get_lr(training.optimizer) * spec.plateau_factor)
    training.log.append(record)
