"""Multinomial logistic regression on log-probabilities as a stacker, for few tracks: K x C values to C probabilities.

Its answer is a mixture of the regression and the mean of the networks. The share of the regression is the most likely
one by cross-validation on the rows that it is fitted on: few tracks leave the mean. scikit-learn fits the regression;
what is saved are numbers, by which numpy predicts.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from melgpu.models import checkpoint
from melgpu.stacking import mixture

MIN_PROBABILITY = 1e-4  # below it a logarithm says more of a network's temperature than of the track
REGULARISATION = 0.05  # scikit-learn's C; of 0.01 to 0.1 the best on synthetic matrices of 16 to 600 tracks (LOG.md)
MAX_STEPS = 1000  # of L-BFGS
NUM_PARTS = 3  # of the rows, to fit the share by cross-validation


@dataclass(frozen=True)
class Regression:
    """A linear map of a track's K * C features to the logits of the fitted classes, and its share in the answer.

    coefficients (C, K * C), intercepts (C,) float64; fitted (C,) bool: the classes that occurred in the fitted rows.
    Others have the probability that the mean of the networks gives them, and no coefficients. share () float64
    """

    coefficients: np.ndarray
    intercepts: np.ndarray
    fitted: np.ndarray
    share: np.ndarray


def fit(matrix: np.ndarray, labels: np.ndarray) -> Regression:
    """A regression of labels (N,) on a matrix (N, K, C), N >= 1, and its share."""
    rows = np.arange(len(labels))
    parts = np.empty(len(labels), np.int64)
    parts[np.argsort(labels, kind="stable")] = rows % NUM_PARTS  # in order of class: each has its part of each class
    likelihoods = np.zeros((2, len(labels)))  # of the regression without the row's part, and of the mean
    likelihoods[1] = matrix.mean(axis=1)[rows, labels]
    for part in range(min(NUM_PARTS, len(labels) - 1)):
        is_out = parts == part
        without_part = _fit_regression(matrix[~is_out], labels[~is_out])
        likelihoods[0, is_out] = predict(without_part, matrix[is_out])[np.arange(is_out.sum()), labels[is_out]]
    share = mixture.fit_weights(likelihoods)[0]
    return replace(_fit_regression(matrix, labels), share=share)


def _fit_regression(matrix: np.ndarray, labels: np.ndarray) -> Regression:
    """The regression alone."""
    num_classes = matrix.shape[2]
    features = _features(matrix)
    coefficients = np.zeros((num_classes, features.shape[1]))
    intercepts = np.zeros(num_classes)
    present = np.unique(labels)
    if len(present) > 1:  # else there is nothing to tell apart
        regression = LogisticRegression(C=REGULARISATION, max_iter=MAX_STEPS).fit(features, labels)
        # Of two classes there is one row, the logit of the second.
        rows = present[1:] if len(present) == 2 else present
        coefficients[rows] = regression.coef_
        intercepts[rows] = regression.intercept_
    return Regression(coefficients, intercepts, np.isin(np.arange(num_classes), present), np.array(1.0))


def predict(regression: Regression, matrix: np.ndarray) -> np.ndarray:
    """Probabilities (N, C) of a matrix (N, K, C)."""
    mean = matrix.mean(axis=1)
    fitted = regression.fitted
    logits = _features(matrix) @ regression.coefficients[fitted].T + regression.intercepts[fitted]
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    of_fitted_classes = mean[:, fitted].sum(axis=1, keepdims=True)  # 1, unless a class is not fitted
    probs = mean.copy()
    probs[:, fitted] = of_fitted_classes * exponentials / exponentials.sum(axis=1, keepdims=True)
    return regression.share * probs + (1 - regression.share) * mean


def _features(matrix: np.ndarray) -> np.ndarray:
    """Log-probabilities of each network, centred over the classes, shape (N, K * C)."""
    logs = np.log(np.maximum(matrix, MIN_PROBABILITY))
    return (logs - logs.mean(axis=2, keepdims=True)).reshape(len(matrix), -1)


def to_tensors(regression: Regression) -> dict[str, Tensor]:
    """What is saved of a regression, by name."""
    return {name: torch.tensor(array) for name, array in vars(regression).items()}


def from_tensors(tensors: dict[str, Tensor], num_models: int, num_classes: int) -> Regression:
    """A regression of tensors of unknown origin. Raises ValueError where they are not of one."""
    expected = {
        "coefficients": (torch.float64, (num_classes, num_models * num_classes)),
        "intercepts": (torch.float64, (num_classes,)),
        "fitted": (torch.bool, (num_classes,)),
        "share": (torch.float64, ()),
    }
    if tensors.keys() != expected.keys():
        raise ValueError(f"tensors {', '.join(sorted(tensors))} instead of {', '.join(sorted(expected))}")
    for name, (dtype, shape) in expected.items():
        tensor = tensors[name]
        if (tensor.dtype, tuple(tensor.shape)) != (dtype, shape):
            raise ValueError(f"{name} is {tuple(tensor.shape)} of {tensor.dtype} instead of {shape} of {dtype}")
        checkpoint.check_dense(name, tensor)
        if not tensor.isfinite().all():
            raise ValueError(f"{name} contains NaN or infinity")
    if not tensors["fitted"].any():
        raise ValueError("no class is fitted")
    if not 0 <= tensors["share"] <= 1:
        raise ValueError("a share outside [0, 1]")
    return Regression(*(tensors[name].numpy() for name in expected))
