"""Weights of a mixture of predictors, by the likelihoods that each gives the true classes of tracks."""

import numpy as np

EM_STEPS = 200


def fit_weights(likelihoods: np.ndarray) -> np.ndarray:
    """The maximum-likelihood weights, of sum 1, of S predictors; likelihoods (S, N) of the labels of N tracks.

    Mixture weights by expectation maximisation: Dempster et al., "Maximum likelihood from incomplete data via the EM
    algorithm", JRSS B 39 (1977). The log-likelihood is concave in the weights, so it converges to the maximum.
    """
    likelihoods = likelihoods.clip(1e-12)  # against 0 / 0 where all predictors give a track's class no probability
    weights = np.full(len(likelihoods), 1 / len(likelihoods))
    for _ in range(EM_STEPS):
        joint = weights[:, None] * likelihoods
        weights = (joint / joint.sum(axis=0)).mean(axis=1)
    return weights
