"""Training targets of windows: class probabilities with label smoothing, class weights, and weights of tracks.

A student's rows are twice as wide, (B, 2C): what its probabilities aim at, and what its probabilities at the teacher's
temperature do.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from melgpu.data.batch import Batch


@dataclass(frozen=True)
class TeacherTargets:
    """A teacher's distributions over the windows that all tracks have, and the weight of true labels beside them.

    probs : shape (N, V, C), at the temperature
    starts : of the V windows of each track, in samples, ascending
    label_weights : shape (N,), 0 for tracks without a true label
    """

    probs: Tensor
    starts: Tensor
    label_weights: Tensor
    temperature: float

    def beside(self, label_targets: Tensor, row_weights: Tensor, batch: Batch) -> Tensor:
        """Targets (B, 2C) of a batch: of labels, (B, C), and of the teacher; they divide a row's weight, (B,).

        Gradients of a cross entropy at temperature T are smaller by T^2 or so, which its weight makes up for: then a
        change of T changes what is learned, and not how much labels count. Source: Hinton, Vinyals and Dean,
        "Distilling the Knowledge in a Neural Network" (2015), section 2.
        """
        label_weights = self.label_weights[batch.tracks]
        teacher_weights = (1 - label_weights) * row_weights * self.temperature**2
        windows = torch.searchsorted(self.starts, batch.starts)
        teacher_targets = self.probs[batch.tracks, windows] * teacher_weights[:, None]
        return torch.cat([label_targets * label_weights[:, None], teacher_targets], dim=1)


def at_temperature(probs: Tensor, temperature: float) -> Tensor:
    """Probabilities (..., C) as a softmax at a temperature would give them: powers, which sum to 1 again."""
    powers = probs ** (1 / temperature)
    return powers / powers.sum(-1, keepdim=True)


@dataclass(frozen=True)
class Targets:
    """Class indices of the manifest's rows, shape (N,), -1 without a label; the weight of each class, shape (C,).

    distributions : where some labels are soft, those of all rows, shape (N, C); a row sums to its track's weight
    teacher : whose distributions a student learns
    """

    classes: Tensor
    weights: Tensor
    distributions: Tensor | None = None
    teacher: TeacherTargets | None = None

    @property
    def temperature(self) -> float | None:
        """That of the teacher's distributions; None without a teacher."""
        return self.teacher.temperature if self.teacher else None

    def for_batch(self, batch: Batch, smoothing: float) -> Tensor:
        """Class probabilities, shape (B, C), on the CPU; a row sums to its weight, to 0 if it is not valid.

        That is its class weight; of a soft label the track's weight times the mean class weight of the distribution.
        Those of a student are (B, 2C), see `TeacherTargets.beside`.
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
        row_weights = weights * batch.valid
        label_targets = smoothed * row_weights[:, None]
        return self.teacher.beside(label_targets, row_weights, batch) if self.teacher else label_targets


def class_weights(counts: Tensor) -> Tensor:
    """Weights, shape (C,), inverse to class frequency: each class has equal total weight, as much in all as windows.

    counts, shape (C,), are windows by class, of soft labels their probabilities. A class without windows gets a finite
    weight that is never used.
    """
    return float(counts.sum()) / (counts.clamp(min=1) * (counts > 0).sum())
