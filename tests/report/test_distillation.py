"""A student beside its teacher: figures and sentences, without networks."""

import numpy as np
import pytest

from melgpu.metrics import wilson_interval
from melgpu.report import distillation


def test_the_gap_of_few_tracks_that_are_all_correct_has_a_width():
    probs = np.tile([0.9, 0.1], (5, 1))
    calibrated = distillation._calibrated(probs, np.zeros(5, int))
    low, high = wilson_interval(5, 5)
    assert calibrated.gap == pytest.approx(-0.1)
    assert calibrated.gap_interval == pytest.approx((0.9 - high, 0.9 - low))
    assert calibrated.gap_interval[0] <= calibrated.gap < 0 < calibrated.gap_interval[1]
