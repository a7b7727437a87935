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


def test_each_block_has_the_taps_of_its_widest_band():
    weights = torch.zeros(7, 2 * triton_kernels.BLOCK_BANDS + 5)
    weights[:2] = 1.0
    weights[:5, triton_kernels.BLOCK_BANDS + 3] = 1.0
    weights[:7, -1] = 1.0
    assert triton_kernels.block_taps(weights).tolist() == [2, 5, 7]


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


def front_end_decibels(samples: torch.Tensor) -> torch.Tensor:
    return LogMel(SPEC.changed(engine="fused"), RATE).to(DEVICE).exact_decibels(samples)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_nonfinite_window_gives_nan_and_leaves_the_others_unchanged(bad):
    nonfinite = waves()
    nonfinite[1, 5_000] = bad
    actual = pictures("fused", nonfinite)
    assert actual[1].isnan().all()
    assert front_end_decibels(nonfinite)[1].isnan().all()
    assert torch.equal(actual[[0, 2, 3, 4]], pictures("fused", waves())[[0, 2, 3, 4]])


def test_silence_is_0():
    assert not pictures("fused", waves())[2].any()
    assert (front_end_decibels(waves())[2] == -SPEC.top_db).all()


def test_the_loudest_pixel_is_1_and_levels_are_those_of_the_power():
    front_end = LogMel(SPEC.changed(engine="fused", image_size=187), RATE).to(DEVICE)  # as many pixels as frames
    samples = waves()
    assert front_end.fused.pixels(front_end._spectra(samples))[[0, 1, 3, 4]].amax((1, 2)).tolist() == [1.0] * 4
    levels, peak = front_end.fused.levels(front_end._spectra(samples))
    power = LogMel(SPEC.changed(engine="fft"), RATE).to(DEVICE).power(samples)
    torch.testing.assert_close(levels.mT.exp2(), power.clamp(min=1e-10), rtol=1e-5, atol=0)
    torch.testing.assert_close(peak, power.amax((1, 2)), rtol=1e-6, atol=0)


@pytest.mark.parametrize("shift", [1, 3])
def test_memory_need_not_be_aligned(shift):
    front_end = LogMel(SPEC.changed(engine="fused"), RATE).to(DEVICE)
    spectra = front_end._spectra(waves()).mT.contiguous()
    storage = torch.empty(spectra.numel() + shift, dtype=spectra.dtype, device=DEVICE)
    shifted = storage[shift:].view_as(spectra).copy_(spectra)
    expected, actual = (front_end.fused.levels(part.mT) for part in (spectra, shifted))
    assert torch.equal(actual[0], expected[0])
    assert torch.equal(actual[1], expected[1])
