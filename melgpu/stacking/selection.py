"""Selects the final predictor by validation tracks, where the recipe has `final_predictor = "auto"`.

The mean of the networks, unless another predictor is more accurate beyond chance: by the sign test on the tracks that
only one of both classifies correctly (McNemar's exact test, two-sided), with Bonferroni's correction for the number of
candidates. Of those the most accurate is selected.

Predictions for validation tracks are out of fold. Still, the accuracy of what was selected by it would be too high. So
each sub-fold of each stack is predicted by the candidate that all other sub-folds select; the accuracy of these
predictions is the one that is reported. Test tracks and new music are predicted by the candidate that all sub-folds
select.
"""

from collections.abc import Mapping

import numpy as np

from melgpu.metrics import SIGNIFICANCE_LEVEL, gain_interval, sign_test
from melgpu.runs.formats.scores import Candidate, Selection
from melgpu.stacking.stack import MEAN


def select(correct: Mapping[str, np.ndarray]) -> str:
    """The predictor to take.

    correct (N,) bool by predictor, MEAN among them: whether a validation track is classified correctly
    """
    gains = _gains(correct)
    p_values = {name: _corrected_p_value(gain, len(gains)) for name, gain in gains.items()}
    better = [name for name, gain in gains.items() if gain.sum() > 0 and p_values[name] <= SIGNIFICANCE_LEVEL]
    return max(better, key=lambda name: gains[name].sum(), default=MEAN)  # of equal ones the first


def compare(correct: Mapping[str, np.ndarray]) -> list[Candidate]:
    """All other predictors in comparison with the mean; `correct` as in `select`."""
    gains = _gains(correct)
    return [
        Candidate(
            predictor=name,
            gain=float(gain.mean()),
            gain_interval=gain_interval(gain),
            p_value=_corrected_p_value(gain, len(gains)),
        )
        for name, gain in gains.items()
    ]


def _gains(correct: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """-1, 0 or 1 for each track, in comparison with the mean, shape (N,)."""
    return {name: is_correct.astype(float) - correct[MEAN] for name, is_correct in correct.items() if name != MEAN}


def _corrected_p_value(gain: np.ndarray, num_candidates: int) -> float:
    return min(1.0, num_candidates * sign_test(gain))


def select_nested(
    probs: Mapping[str, np.ndarray], labels: np.ndarray, groups: np.ndarray
) -> tuple[Selection, np.ndarray]:
    """The selection on all N validation tracks, and nested predictions for them, shape (N, C).

    probs (N, C) by candidate; labels (N,); groups (N,): the sub-fold of each track, unequal in unequal stacks
    """
    correct = {name: candidate_probs.argmax(axis=1) == labels for name, candidate_probs in probs.items()}
    nested_probs = np.empty_like(probs[MEAN])
    counts = dict.fromkeys(probs, 0)
    for group in np.unique(groups):
        is_left_out = groups == group
        name = select({name: is_correct[~is_left_out] for name, is_correct in correct.items()})
        nested_probs[is_left_out] = probs[name][is_left_out]
        counts[name] += int(is_left_out.sum())
    selection = Selection(
        predictor=select(correct),
        num_tracks=len(labels),
        candidates=tuple(compare(correct)),
        nested={name: count for name, count in counts.items() if count},
    )
    return selection, nested_probs
