"""What a network is to answer for each window: shares of the classes, smoothed and weighed."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from melgpu.data.batch import Batch

UNKNOWN = -1  # the class number of a track without a label


@dataclass(frozen=True)
class Targets:
    """What is right: class numbers of the manifest's rows, shape (N,), and the weight of each class, shape (C,)."""

    classes: Tensor
    weights: Tensor

    def of(self, batch: Batch, smoothing: float) -> Tensor:
        """Shares of the classes, shape (B, C), on the CPU; each row sums to its weight, 0 where nothing was heard."""
        classes = torch.where(batch.valid, self.classes[batch.tracks], 0)
        hot = F.one_hot(classes, len(self.weights)) * (1 - smoothing) + smoothing / len(self.weights)
        return hot * (self.weights[classes] * batch.valid)[:, None]


def class_weights(classes: Tensor, num_classes: int) -> Tensor:
    """Weights, shape (C,), under which all classes among `classes`, shape (W,), count the same and W in all."""
    counts = torch.bincount(classes, minlength=num_classes)
    return len(classes) / (counts.clamp(min=1) * (counts > 0).sum())
