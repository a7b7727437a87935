"""A student beside its teacher: figures and sentences, without networks."""

import numpy as np
import pytest

from melgpu.data.manifest import Split
from melgpu.metrics import wilson_interval
from melgpu.report import distillation
from melgpu.report.distillation import Comparison
from melgpu.runs.formats.scores import compute_score


def comparison(split: Split, num_taught: int, is_labelled: bool = True) -> Comparison:
    """Of 10 tracks, 5 of them labelled."""
    is_taught = np.arange(5) < num_taught
    score = compute_score(np.ones(5, bool), np.ones(5, bool), is_taught) if is_labelled else None
    return Comparison(split, 9, 10, 0, score, (0.0, 1.0), None, None)


def test_the_headline_prefers_tracks_that_the_student_did_not_learn_from():
    valid, public = comparison(Split.VALID, 0), comparison(Split.PUBLIC, 3)
    assert "on 5 validation tracks" in distillation.sentence([valid, public])
    assert "on 5 private test tracks" in distillation.sentence([valid, public, comparison(Split.PRIVATE, 0)])
    sentence = distillation.sentence([comparison(Split.VALID, 0, is_labelled=False), public])
    assert "on 5 public test tracks" in sentence
    assert sentence.endswith("they agree on 90\N{NO-BREAK SPACE}% of 10, labelled or not.")
    assert distillation.sentence([comparison(Split.VALID, 0, is_labelled=False)]).startswith("No labels")


def test_the_gap_of_few_tracks_that_are_all_correct_has_a_width():
    probs = np.tile([0.9, 0.1], (5, 1))
    calibrated = distillation._calibrated(probs, np.zeros(5, int))
    low, high = wilson_interval(5, 5)
    assert calibrated.gap == pytest.approx(-0.1)
    assert calibrated.gap_interval == pytest.approx((0.9 - high, 0.9 - low))
    assert calibrated.gap_interval[0] <= calibrated.gap < 0 < calibrated.gap_interval[1]
