"""Training targets of windows: class probabilities with label smoothing, class weights, and weights of tracks."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from melgpu.data.batch import Batch


@dataclass(frozen=True)
class Targets:
    """Class indices of the manifest's rows, shape (N,), -1 without a label; the weight of each class, shape (C,).

    distributions : where some labels are soft, those of all rows, shape (N, C); a row sums to its track's weight
    """

    classes: Tensor
    weights: Tensor
    distributions: Tensor | None = None

    def for_batch(self, batch: Batch, smoothing: float) -> Tensor:
        """Class probabilities, shape (B, C), on the CPU; a row sums to its weight, to 0 if it is not valid.

        That is its class weight; of a soft label the track's weight times the mean class weight of the distribution.
        """
        num_classes = len(self.weights)
        if self.distributions is None:
            # Class 0 is only an index that exists: rows that are not valid are multiplied by 0 below.
            classes = torch.where(batch.valid, self.classes[batch.tracks], 0)
            probs = F.one_hot(classes, num_classes)
            weights = self.weights[classes]
        else:
            distributions = self.distributions[batch.tracks]
            probs = F.normalize(distributions, p=1, dim=1)
            weights = distributions @ self.weights
        smoothed = probs * (1 - smoothing) + smoothing / num_classes
        return smoothed * (weights * batch.valid)[:, None]


def class_weights(counts: Tensor) -> Tensor:
    """Weights, shape (C,), inverse to class frequency: each class has equal total weight, as much in all as windows.

    counts, shape (C,), are windows by class, of soft labels their probabilities. A class without windows gets a finite
    weight that is never used.
    """
    return float(counts.sum()) / (counts.clamp(min=1) * (counts > 0).sum())
