"""The two small CNNs that stack, K models x C classes -> C, and how they learn.

Their kernels run along the model axis, so that they learn how to weigh the models in the same way for all classes.
Matrices are (N, K, C) float64 track probabilities, labels (N,) class numbers.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from melgpu.recipe import StackingSpec

LabelledMatrix = tuple[np.ndarray, np.ndarray]  # a matrix and its labels


class StackCNN(nn.Module):
    """Convolutions of 8, 16 and 32 channels with 2 x 1 kernels; padded, so that any number of models fits."""

    def __init__(self, num_models: int, num_classes: int, dropout: float):
        super().__init__()
        self.convs = nn.ModuleList(_conv(*channels, 2) for channels in ((1, 8), (8, 16), (16, 32)))
        self.dropout = nn.Dropout(dropout)
        self.head = _head(32 * num_models * num_classes, num_classes, dropout)

    def forward(self, matrix: Tensor) -> Tensor:
        """Logits (N, C) of a matrix (N, K, C)."""
        x = F.relu(self.convs[0](matrix.unsqueeze(1)))
        for conv in self.convs[1:]:
            x = self.dropout(F.relu(conv(x)))
        return self.head(x)


class StackSkipCNN(nn.Module):
    """Convolutions of 8 to 128 channels; from the third step on, a 3 x 1 convolution of the step before last joins."""

    WIDTHS = (8, 16, 32, 64, 128)

    def __init__(self, num_models: int, num_classes: int, dropout: float):
        super().__init__()
        outputs = [8, 16, *(2 * width for width in self.WIDTHS[2:])]  # channels after each step, skips included
        self.convs = nn.ModuleList(_conv(i, o, 2) for i, o in zip([1, *outputs[:-1]], self.WIDTHS, strict=True))
        self.skips = nn.ModuleList(_conv(i, o, 3) for i, o in zip(outputs[:3], self.WIDTHS[2:], strict=True))
        self.norm = nn.BatchNorm2d(8)
        self.head = _head(outputs[-1] * num_models * num_classes, num_classes, dropout)

    def forward(self, matrix: Tensor) -> Tensor:
        """Logits (N, C) of a matrix (N, K, C)."""
        before, x = None, self.norm(F.relu(self.convs[0](matrix.unsqueeze(1))))
        for step, conv in enumerate(self.convs[1:], start=1):
            new = F.relu(conv(x))
            if step >= 2:
                new = torch.cat([new, F.relu(self.skips[step - 2](before))], dim=1)
            before, x = x, new
        return self.head(x)


def _conv(inputs: int, outputs: int, models: int) -> nn.Sequential:
    """A convolution along the model axis that keeps its length."""
    padding = nn.ZeroPad2d((0, 0, (models - 1) // 2, models // 2))
    return nn.Sequential(padding, nn.Conv2d(inputs, outputs, (models, 1)))


def _head(inputs: int, num_classes: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(inputs, 256), nn.ReLU(), nn.Dropout(dropout), nn.Linear(256, num_classes)
    )


CNNS = {"cnn": StackCNN, "skip_cnn": StackSkipCNN}


@contextmanager
def single_thread() -> Iterator[None]:
    """Networks this small only wait for a second thread, for as long as another process keeps its core."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@single_thread()
def pretrain(
    name: str, train: LabelledMatrix | None, watched: LabelledMatrix, groups: np.ndarray, spec: StackingSpec
) -> list[nn.Module]:
    """A CNN for each of G groups of the `watched` rows, given as (G, N) booleans.

    It learnt from the training side for as long as it got better on its group. All learn alike, so it is done once.
    Without a training side they are as they begin.
    """
    torch.manual_seed(spec.seed)
    cnn = CNNS[name](watched[0].shape[1], watched[0].shape[2], spec.dropout)
    states = _fit(cnn, train, watched, groups, spec, spec.fit_patience) if train else [cnn.state_dict()] * len(groups)
    cnns = [copy.deepcopy(cnn) for _ in groups]
    for own, state in zip(cnns, states, strict=True):
        own.load_state_dict(state)
    return cnns


@single_thread()
def finetune(cnn: nn.Module, rows: LabelledMatrix, stop: LabelledMatrix, spec: StackingSpec) -> nn.Module:
    """The CNN itself, which goes on learning from `rows` for as long as it gets better on `stop`."""
    torch.manual_seed(spec.seed)
    (best,) = _fit(cnn, rows, stop, np.ones((1, len(stop[1])), bool), spec, spec.tune_patience)
    cnn.load_state_dict(best)
    return cnn.eval()


@dataclass
class EarlyStopping:
    """The weights that were best on a group of rows, and for how many epochs nothing was better."""

    score: tuple[float, float]
    weights: dict[str, Tensor]
    waited: int = 0

    def offer(self, score: tuple[float, float], weights: dict[str, Tensor], patience: int) -> None:
        """Take what is better; nothing any more once patience has run out."""
        if self.waited < patience and score > self.score:
            self.score, self.weights, self.waited = score, weights, 0
        else:
            self.waited += 1


def _fit(
    cnn: nn.Module, rows: LabelledMatrix, watched: LabelledMatrix, groups: np.ndarray, spec: StackingSpec, patience: int
) -> list[dict[str, Tensor]]:
    """Adam under a cyclic learning rate; for each group the weights that were best on it (accuracy, then loss)."""
    inputs, labels = _tensor(rows[0]), torch.from_numpy(rows[1])
    optimizer = torch.optim.Adam(cnn.parameters(), lr=spec.lr, fused=True)
    cycle = torch.optim.lr_scheduler.CyclicLR(
        optimizer, spec.lr, spec.max_lr, step_size_up=max(2, 4 * len(labels) // spec.batch_size), cycle_momentum=False
    )
    start = copy.deepcopy(cnn.state_dict())
    best = [EarlyStopping(score, start) for score in _scores(cnn, watched, groups)]
    for _ in range(spec.max_epochs):
        cnn.train()
        for batch in torch.randperm(len(labels)).split(spec.batch_size):
            if len(batch) < 2:
                continue  # batch norm needs two
            loss = F.cross_entropy(cnn(inputs[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            cycle.step()
        now = copy.deepcopy(cnn.state_dict())
        for one, score in zip(best, _scores(cnn, watched, groups), strict=True):
            one.offer(score, now, patience)
        if all(one.waited >= patience for one in best):
            break
    return [one.weights for one in best]


def _scores(cnn: nn.Module, rows: LabelledMatrix, groups: np.ndarray) -> list[tuple[float, float]]:
    """Accuracy and negative loss on each group of rows."""
    cnn.eval()
    with torch.inference_mode():
        logits, labels = cnn(_tensor(rows[0])), torch.from_numpy(rows[1])
        right, gain = (logits.argmax(1) == labels).double(), -F.cross_entropy(logits, labels, reduction="none").double()
        chosen = torch.from_numpy(groups)
        return [(float(right[own].mean()), float(gain[own].mean())) for own in chosen]


@single_thread()
def predict(cnn: nn.Module, matrix: np.ndarray) -> np.ndarray:
    """Probabilities (N, C) of a matrix (N, K, C)."""
    with torch.inference_mode():
        return cnn(_tensor(matrix)).softmax(1).double().numpy()


def _tensor(matrix: np.ndarray) -> Tensor:
    return torch.from_numpy(matrix).float()
