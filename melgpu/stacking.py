"""The three stackers and the blend: K models x C classes -> C.

Two small CNNs whose kernels run along the model axis, so that they learn how to weigh the models in the same way for
all classes, and LightGBM on the K x C values. Protocol of the original: the CNNs are fitted on the training-side matrix
(whose tracks the networks have seen: optimistic inputs), then fine-tuned on validation sub-folds; LightGBM sees
validation sub-folds alone. The out-of-fold probabilities of the sub-folds are what accuracy is reported on.

Matrices are (N, K, C) float64 track probabilities, labels (N,) class numbers.
"""

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import lightgbm
import numpy as np
import torch
import torch.nn.functional as F
from sklearn.model_selection import StratifiedKFold
from torch import Tensor, nn

from melgpu import checkpoint, claims, trees
from melgpu.errors import brief
from melgpu.recipe import StackingSpec

LIGHTGBM = {
    "objective": "multiclass",
    "boosting": "dart",
    "learning_rate": 0.05,
    "num_leaves": 128,
    "feature_fraction": 0.7,
    "bagging_fraction": 0.7,
    "bagging_freq": 1,  # without it LightGBM ignores bagging_fraction
    "lambda_l1": 0.0415,
    "lambda_l2": 0.0735,
    "min_gain_to_split": 0.0222,
    "deterministic": True,
    "force_row_wise": True,
    "num_threads": 1,
    "verbosity": -1,
}


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


@dataclass
class Stack:
    """The fitted stackers of one fold: for each, one member a sub-fold (a CNN, or a LightGBM model as text)."""

    num_models: int
    num_classes: int
    members: dict[str, list] = field(default_factory=dict)

    def predict(self, matrix: np.ndarray) -> dict[str, np.ndarray]:
        """Probabilities (N, C) by stacker: the mean over its members."""
        return {
            name: np.mean([_member_probs(member, matrix) for member in members], axis=0)
            for name, members in self.members.items()
        }


def _member_probs(member: nn.Module | str, matrix: np.ndarray) -> np.ndarray:
    if len(matrix) == 0:  # a run without test sets
        return np.zeros((0, matrix.shape[2]))
    if isinstance(member, str):
        return lightgbm.Booster(model_str=member).predict(matrix.reshape(len(matrix), -1), num_threads=1)
    member.eval()
    with torch.inference_mode():
        return member(_tensor(matrix)).softmax(1).double().numpy()


def blend(probs: dict[str, np.ndarray], weights: dict[str, float]) -> np.ndarray:
    """The weighted mean of stackers' probabilities (N, C); the weights need not sum to 1."""
    return sum(weight * probs[name] for name, weight in weights.items()) / sum(weights.values())


@contextmanager
def _one_thread() -> Iterator[None]:
    """Networks this small only wait for a second thread, for as long as another process keeps its core."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@_one_thread()
def fit(
    name: str, train: tuple[np.ndarray, np.ndarray], valid: tuple[np.ndarray, np.ndarray], spec: StackingSpec
) -> tuple[list[nn.Module | str], np.ndarray]:
    """Fit one stacker of one fold on (matrix, labels) of both sides.

    Returns its members, one a sub-fold, and the out-of-fold probabilities (N, C) of the validation tracks.
    """
    matrix, labels = valid
    base = _fit_base(CNNS[name], train, valid, spec) if name in CNNS else None
    most = int(np.bincount(labels).max())  # tracks of the largest class: more sub-folds than that cannot be
    splitter = StratifiedKFold(max(2, min(spec.num_subfolds, most)), shuffle=True, random_state=spec.seed)
    with warnings.catch_warnings(action="ignore"):  # a class rarer than the sub-folds is no problem here
        subfolds = list(splitter.split(matrix, labels))
    members, out_of_fold = [], np.zeros((len(labels), matrix.shape[2]))
    for inside, outside in subfolds:
        inner, outer = (matrix[inside], labels[inside]), (matrix[outside], labels[outside])
        member = _boost(*inner, spec) if base is None else _tune(base, inner, outer, spec)
        members.append(member)
        out_of_fold[outside] = _member_probs(member, matrix[outside])
    return members, out_of_fold


def _fit_base(kind: type[nn.Module], train: tuple, valid: tuple, spec: StackingSpec) -> nn.Module:
    torch.manual_seed(spec.seed)
    cnn = kind(valid[0].shape[1], valid[0].shape[2], spec.dropout)
    return _fit_cnn(cnn, train, valid, spec, spec.fit_patience)


def _tune(base: nn.Module, inner: tuple, outer: tuple, spec: StackingSpec) -> nn.Module:
    torch.manual_seed(spec.seed)
    return _fit_cnn(copy.deepcopy(base), inner, outer, spec, spec.tune_patience)


def _fit_cnn(cnn: nn.Module, train: tuple, valid: tuple, spec: StackingSpec, patience: int) -> nn.Module:
    """Adam under a cyclic learning rate; ends with the weights that were best on `valid` (accuracy, then loss)."""
    inputs, labels = _tensor(train[0]), torch.from_numpy(train[1])
    optimizer = torch.optim.Adam(cnn.parameters(), lr=spec.lr)
    cycle = torch.optim.lr_scheduler.CyclicLR(
        optimizer, spec.lr, spec.max_lr, step_size_up=max(2, 4 * len(labels) // spec.batch_size), cycle_momentum=False
    )
    best, best_score, waited = copy.deepcopy(cnn.state_dict()), _score(cnn, valid), 0
    for _ in range(spec.max_epochs):
        cnn.train()
        for rows in torch.randperm(len(labels)).split(spec.batch_size):
            if len(rows) < 2:
                continue  # batch norm needs two
            loss = F.cross_entropy(cnn(inputs[rows]), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            cycle.step()
        score, waited = _score(cnn, valid), waited + 1
        if score > best_score:
            best, best_score, waited = copy.deepcopy(cnn.state_dict()), score, 0
        if waited >= patience:
            break
    cnn.load_state_dict(best)
    return cnn


def _score(cnn: nn.Module, valid: tuple) -> tuple[float, float]:
    cnn.eval()
    with torch.inference_mode():
        logits, labels = cnn(_tensor(valid[0])), torch.from_numpy(valid[1])
        return float((logits.argmax(1) == labels).float().mean()), -float(F.cross_entropy(logits, labels))


def _boost(matrix: np.ndarray, labels: np.ndarray, spec: StackingSpec) -> str:
    counts = np.bincount(labels, minlength=matrix.shape[2])
    balanced = len(labels) / (np.count_nonzero(counts) * np.maximum(counts, 1))
    data = lightgbm.Dataset(matrix.reshape(len(matrix), -1), labels, weight=balanced[labels])
    settings = {
        **LIGHTGBM,
        "num_class": matrix.shape[2],
        "seed": spec.seed,
        "min_data_in_leaf": spec.min_child_samples,
        "min_sum_hessian_in_leaf": spec.min_child_weight,
    }
    return lightgbm.train(settings, data, num_boost_round=spec.num_trees).model_to_string()


def _tensor(matrix: np.ndarray) -> Tensor:
    return torch.from_numpy(matrix).float()


def save(stack: Stack, path: Path, about: dict) -> None:
    """One checkpoint a fold; LightGBM's text travels as bytes."""
    tensors = {}
    for name, members in stack.members.items():
        for number, member in enumerate(members):
            if isinstance(member, str):
                tensors[f"{name}.{number}"] = torch.frombuffer(bytearray(member.encode()), dtype=torch.uint8)
            else:
                tensors.update({f"{name}.{number}.{key}": value for key, value in member.state_dict().items()})
    sizes = {name: len(members) for name, members in stack.members.items()}
    shape = {"num_models": stack.num_models, "num_classes": stack.num_classes, "members": sizes}
    checkpoint.save(path, tensors, {**about, "stack": shape})


def load(path: Path) -> tuple[Stack, dict]:
    """A stack and what was said about it. Raises CheckpointError."""
    tensors, about = checkpoint.load(path)
    claims.check(claims.Stack, about, path)
    shape = about["stack"]
    stack = Stack(shape["num_models"], shape["num_classes"])
    for name, size in shape["members"].items():
        stack.members[name] = [_load_member(name, number, stack, tensors, path) for number in range(size)]
    return stack, about


def _load_member(name: str, number: int, stack: Stack, tensors: dict[str, Tensor], path: Path) -> nn.Module | str:
    prefix = f"{name}.{number}"
    if name not in CNNS:
        return _load_trees(prefix, stack, tensors, path)
    with torch.device("meta"):
        cnn = CNNS[name](stack.num_models, stack.num_classes, dropout=0.0)
    own = {key.removeprefix(prefix + "."): value for key, value in tensors.items() if key.startswith(prefix + ".")}
    checkpoint.load_into(cnn, own, path, assign=True)
    return cnn


def _load_trees(name: str, stack: Stack, tensors: dict[str, Tensor], path: Path) -> str:
    try:
        text = tensors[name].numpy().tobytes().decode()
        return trees.vetted(text, stack.num_models * stack.num_classes, stack.num_classes)
    except (KeyError, TypeError, ValueError) as error:
        raise checkpoint.CheckpointError(f"{path}: {name} is no model of LightGBM's ({brief(error)})") from None
