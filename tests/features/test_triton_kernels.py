"""The Triton kernels, on a GPU where there is one, else in Triton's interpreter."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from melgpu.features import triton_kernels
from melgpu.features.log_mel import LogMel
from melgpu.recipe import load_recipe

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SPEC = load_recipe([]).mel.model_copy(update={"n_fft": 512, "hop_length": 128, "n_mels": 75, "image_size": 96})
RATE = 8_000


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 12), st.integers(1, 30), st.integers(0, 2**31))
def test_the_banded_form_reproduces_the_matrix(rows, columns, seed):
    rng = np.random.default_rng(seed)
    matrix = np.zeros((rows, columns), np.float32)
    for row in range(rows):
        first = rng.integers(columns)
        matrix[row, first : first + rng.integers(1, 5)] = 1 + rng.random()
    first, weights = triton_kernels.to_banded(torch.from_numpy(matrix))
    reproduced = np.zeros((rows, columns + len(weights)), np.float32)
    for row in range(rows):
        reproduced[row, first[row] : first[row] + len(weights)] = weights[:, row]
    np.testing.assert_array_equal(reproduced[:, :columns], matrix)
    assert not reproduced[:, columns:].any()


def waves() -> torch.Tensor:
    """Loud noise, quiet noise, silence, a steep spectrum, a click: slightly less than three seconds."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(5, 23_900, generator=generator)
    noise[1] *= 1e-3
    noise[2] = 0
    noise[3] = noise[3].cumsum(0) / 100
    noise[4, :12_000] = noise[4, 12_001:] = 0
    return noise.to(DEVICE)


def pictures(engine: str, samples: torch.Tensor, **changes) -> torch.Tensor:
    return LogMel(SPEC.model_copy(update={"engine": engine, **changes}), RATE).to(DEVICE)(samples)


@pytest.mark.parametrize("changes", [{}, {"image_size": 75}, {"n_mels": 40}, {"hop_length": 300}, {"top_db": 40.0}])
def test_fused_pictures_are_those_of_fft(changes):
    expected, actual = pictures("fft", waves(), **changes), pictures("fused", waves(), **changes)
    assert actual.shape == expected.shape
    assert (actual - expected).abs().max() <= 0.05 / SPEC.top_db
    assert (actual - expected).abs().mean() <= 0.001 / SPEC.top_db


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_nonfinite_window_gives_nan_and_leaves_the_others_unchanged(bad):
    nonfinite = waves()
    nonfinite[1, 5_000] = bad
    actual = pictures("fused", nonfinite)
    assert actual[1].isnan().all()
    assert torch.equal(actual[[0, 2, 3, 4]], pictures("fused", waves())[[0, 2, 3, 4]])


def test_silence_is_0():
    assert not pictures("fused", waves())[2].any()
