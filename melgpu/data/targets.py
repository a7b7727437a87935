"""Training targets of windows: class probabilities with label smoothing and class weights."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from melgpu.data.batch import Batch


@dataclass(frozen=True)
class Targets:
    """Class indices of the manifest's rows, shape (N,), -1 without a label; the weight of each class, shape (C,)."""

    classes: Tensor
    weights: Tensor

    def for_batch(self, batch: Batch, smoothing: float) -> Tensor:
        """Class probabilities, shape (B, C), on the CPU; a row sums to its class weight, to 0 if it is not valid."""
        # Class 0 is only an index that exists: rows that are not valid are multiplied by 0 below.
        classes = torch.where(batch.valid, self.classes[batch.tracks], 0)
        one_hot = F.one_hot(classes, len(self.weights)) * (1 - smoothing) + smoothing / len(self.weights)
        return one_hot * (self.weights[classes] * batch.valid)[:, None]


def class_weights(classes: Tensor, num_classes: int) -> Tensor:
    """Weights, shape (C,), inverse to class frequency: each class of `classes`, (W,), has equal total weight, W in all.

    A class without windows gets a finite weight that is never used.
    """
    counts = torch.bincount(classes, minlength=num_classes)
    return len(classes) / (counts.clamp(min=1) * (counts > 0).sum())
