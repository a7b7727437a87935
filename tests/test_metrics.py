import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from melgpu.metrics import accuracy, wilson_interval


def test_accuracy():
    assert accuracy(np.array([[0.9, 0.1], [0.4, 0.6], [0.7, 0.3]]), np.array([0, 1, 1])) == pytest.approx(2 / 3)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_interval_equals_scipys(pair):
    right, count = pair
    theirs = binomtest(right, count).proportion_ci(0.95, method="wilson")
    assert wilson_interval(right / count, count) == pytest.approx((theirs.low, theirs.high), abs=1e-4)


def test_no_trials_no_interval():
    with pytest.raises(ValueError, match="count is 0"):
        wilson_interval(0.5, 0)
