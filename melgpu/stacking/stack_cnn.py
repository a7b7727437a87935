"""The two stacking CNNs, K models x C classes -> C, and their training.

Their kernels run along the model axis, so that the weights of the models are shared by all classes.
Matrices are (N, K, C) float64 track probabilities, labels (N,) class indices.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import CyclicLR

from melgpu.recipe_schema import StackCNNName, StackCNNTrainingSpec, StackingSpec

AUTO_HALF_CYCLE = 4  # epochs


class LabelledMatrix(NamedTuple):
    """A matrix (N, K, C) and its labels (N,)."""

    matrix: np.ndarray
    labels: np.ndarray

    def select(self, mask: np.ndarray) -> "LabelledMatrix":
        """The rows of a mask (N,) bool."""
        return LabelledMatrix(self.matrix[mask], self.labels[mask])


class StackCNN(nn.Module):
    """Convolutions of 8, 16 and 32 channels with 2 x 1 kernels."""

    MIN_MODELS = 4  # of which the convolutions leave one row; fewer are padded with zeros

    def __init__(self, num_models: int, num_classes: int, dropout: float):
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(*channels, (2, 1)) for channels in ((1, 8), (8, 16), (16, 32)))
        self.dropout = nn.Dropout(dropout)
        num_rows = max(num_models, self.MIN_MODELS) - 3
        self.head = _head(32 * num_rows * num_classes, num_classes, dropout)

    def forward(self, matrix: Tensor) -> Tensor:
        """Logits (N, C) of a matrix (N, K, C)."""
        x = F.relu(self.convs[0](_padded(matrix, self.MIN_MODELS)))
        for conv in self.convs[1:]:
            x = self.dropout(F.relu(conv(x)))  # as in the original, not after the first layer
        return self.head(x)


class StackSkipCNN(nn.Module):
    """Convolutions of 8 to 128 channels, the last three with a 3 x 1 skip that spans two of them."""

    MIN_MODELS = 6
    WIDTHS = (8, 16, 32, 64, 128)
    SKIP_WIDTHS = (16, 32, 64)  # beside the last three

    def __init__(self, num_models: int, num_classes: int, dropout: float):
        super().__init__()
        skip_widths = (0, 0, *self.SKIP_WIDTHS)
        outputs = [width + skip_width for width, skip_width in zip(self.WIDTHS, skip_widths, strict=True)]
        conv_channels = zip([1, *outputs[:-1]], self.WIDTHS, strict=True)
        skip_channels = zip(outputs[:3], self.SKIP_WIDTHS, strict=True)
        self.convs = nn.ModuleList(nn.Conv2d(*channels, (2, 1)) for channels in conv_channels)
        self.skips = nn.ModuleList(nn.Conv2d(*channels, (3, 1)) for channels in skip_channels)
        self.norm = nn.BatchNorm2d(8)
        self.dropout = nn.Dropout(dropout)
        num_rows = max(num_models, self.MIN_MODELS) - 5
        self.head = _head(outputs[-1] * num_rows * num_classes, num_classes, dropout)

    def forward(self, matrix: Tensor) -> Tensor:
        """Logits (N, C) of a matrix (N, K, C)."""
        before = F.relu(self.norm(self.convs[0](_padded(matrix, self.MIN_MODELS))))  # the original has no dropout here
        x = self.dropout(F.relu(self.convs[1](before)))
        for conv, skip_conv in zip(self.convs[2:], self.skips, strict=True):
            skip = self.dropout(F.relu(skip_conv(before)))
            before = x
            x = self.dropout(F.relu(torch.cat([conv(x), skip], dim=1)))
        return self.head(x)


def _padded(matrix: Tensor, min_models: int) -> Tensor:
    """A matrix (N, K, C) as (N, 1, K', C), with rows of zeros after those of fewer models than a CNN needs."""
    missing = max(0, min_models - matrix.shape[1])
    return F.pad(matrix, (0, 0, 0, missing)).unsqueeze(1)


def _head(inputs: int, num_classes: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(inputs, 256), nn.ReLU(), nn.Dropout(dropout), nn.Linear(256, num_classes)
    )


CNNS: dict[StackCNNName, type[nn.Module]] = {"cnn": StackCNN, "skip_cnn": StackSkipCNN}


@contextmanager
def single_thread() -> Iterator[None]:
    """Run torch on one thread: networks this small gain nothing from a second, and wait for it on a busy core."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@single_thread()
def pretrain(
    name: StackCNNName, train: LabelledMatrix | None, valid: LabelledMatrix, groups: np.ndarray, spec: StackingSpec
) -> list[nn.Module]:
    """A CNN for each of G groups of the validation rows; `groups`, shape (G, N), are boolean masks.

    Each is pretrained on the training rows with early stopping on its group. As all groups share the same steps, they
    are trained once. Without training rows the CNNs have their initial weights.
    """
    torch.manual_seed(spec.seed)  # of the initial weights, the order of the rows and dropout
    _, num_models, num_classes = valid.matrix.shape
    cnn = CNNS[name](num_models, num_classes, spec.dropout)
    states = [cnn.state_dict()] * len(groups)
    if train:
        states = _fit(name, cnn, train, valid, groups, spec, spec.pretrain)
    cnns = [copy.deepcopy(cnn) for _ in groups]
    for group_cnn, state in zip(cnns, states, strict=True):
        group_cnn.load_state_dict(state)
    return cnns


@single_thread()
def finetune(
    name: StackCNNName, cnn: nn.Module, rows: LabelledMatrix, stop: LabelledMatrix, spec: StackingSpec
) -> nn.Module:
    """Train the CNN in place on `rows`, with early stopping on `stop`."""
    torch.manual_seed(spec.seed)  # so that the result does not depend on what was fitted before
    all_rows = np.ones((1, len(stop.labels)), bool)  # as a single group
    (best,) = _fit(name, cnn, rows, stop, all_rows, spec, spec.finetune)
    cnn.load_state_dict(best)
    return cnn.eval()


@dataclass
class EarlyStopping:
    """The best weights on a group of rows, and the number of epochs since then."""

    score: tuple[float, float]
    weights: dict[str, Tensor]
    epochs_since_best: int = 0

    def update(self, score: tuple[float, float], weights: dict[str, Tensor], patience: int) -> None:
        """Count an epoch: keep its weights where they are the best, unless training has stopped for this group."""
        # Once out of patience a group keeps its weights, even if others train on and its score becomes better.
        if self.epochs_since_best < patience and score > self.score:
            self.score = score
            self.weights = weights
            self.epochs_since_best = 0
        else:
            self.epochs_since_best += 1


def _fit(
    name: StackCNNName,
    cnn: nn.Module,
    rows: LabelledMatrix,
    valid: LabelledMatrix,
    groups: np.ndarray,
    spec: StackingSpec,
    training: StackCNNTrainingSpec,
) -> list[dict[str, Tensor]]:
    """Adam with a cyclic learning rate; returns the best weights on each group (by accuracy, then loss)."""
    inputs = _tensor(rows.matrix)
    labels = torch.from_numpy(rows.labels)
    patience = training.patience[name]
    optimizer = torch.optim.Adam(cnn.parameters(), fused=True)  # the schedule sets its learning rate
    schedule = cyclic_schedule(optimizer, training, name, len(labels) / spec.batch_size)
    initial = copy.deepcopy(cnn.state_dict())  # a state dict shares its memory with the weights, which change
    stopping = [EarlyStopping(score, initial) for score in _scores(cnn, valid, groups)]
    for _ in range(spec.max_epochs):
        cnn.train()
        for batch in torch.randperm(len(labels)).split(spec.batch_size):
            if len(batch) < 2:
                continue  # batch norm needs two
            loss = F.cross_entropy(cnn(inputs[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        weights = copy.deepcopy(cnn.state_dict())  # one copy for all groups
        for group, score in zip(stopping, _scores(cnn, valid, groups), strict=True):
            group.update(score, weights, patience)
        if all(group.epochs_since_best >= patience for group in stopping):
            break
    return [group.weights for group in stopping]


def cyclic_schedule(
    optimizer: torch.optim.Optimizer, training: StackCNNTrainingSpec, name: StackCNNName, epoch_steps: float
) -> CyclicLR:
    """Triangles between two learning rates, whose height above the lower one shrinks by gamma in each step.

    Smith, "Cyclical learning rates for training neural networks", WACV 2017: "exp_range", with gamma 1 "triangular".
    """
    auto_half_cycle = max(2, int(AUTO_HALF_CYCLE * epoch_steps))
    half_cycle = auto_half_cycle if training.half_cycle == "auto" else training.half_cycle
    return CyclicLR(
        optimizer,
        training.lr,
        training.max_lr[name],
        step_size_up=half_cycle,
        mode="exp_range",
        gamma=training.gamma,
        cycle_momentum=False,
    )


def _scores(cnn: nn.Module, rows: LabelledMatrix, groups: np.ndarray) -> list[tuple[float, float]]:
    """Accuracy and negative loss on each group of rows."""
    cnn.eval()
    with torch.inference_mode():
        logits = cnn(_tensor(rows.matrix))
        labels = torch.from_numpy(rows.labels)
        correct = (logits.argmax(1) == labels).double()
        losses = F.cross_entropy(logits, labels, reduction="none").double()
        masks = torch.from_numpy(groups)
        return [(float(correct[mask].mean()), -float(losses[mask].mean())) for mask in masks]


@single_thread()
def predict(cnn: nn.Module, matrix: np.ndarray) -> np.ndarray:
    """Probabilities (N, C) of a matrix (N, K, C)."""
    with torch.inference_mode():
        return cnn(_tensor(matrix)).softmax(1).double().numpy()


def _tensor(matrix: np.ndarray) -> Tensor:
    return torch.from_numpy(matrix).float()
