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
    """Loud noise, quiet noise, silence, a steep spectrum, a click: slightly less than a second."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(5, 7_900, generator=generator)
    noise[1] *= 1e-3
    noise[2] = 0
    noise[3] = noise[3].cumsum(0) / 100
    noise[4, :4_000] = noise[4, 4_001:] = 0
    return noise.to(DEVICE)


def pictures(engine: str, samples: torch.Tensor, **changes) -> torch.Tensor:
    return LogMel(SPEC.model_copy(update={"engine": engine, **changes}), RATE).to(DEVICE)(samples)


@pytest.mark.parametrize("changes", [{}, {"image_size": 75}, {"n_mels": 40}, {"hop_length": 300}, {"top_db": 40.0}])
def test_fused_pictures_are_those_of_fft(changes):
    expected, actual = pictures("fft", waves(), **changes), pictures("fused", waves(), **changes)
    assert actual.shape == expected.shape
    assert (actual - expected).abs().max() <= 0.05 / SPEC.top_db
    assert (actual - expected).abs().mean() <= 0.001 / SPEC.top_db


@pytest.fixture(scope="module")
def front_end() -> LogMel:
    return LogMel(SPEC.changed(engine="fused"), RATE).to(DEVICE)


@pytest.fixture(scope="module")
def finite_pictures(front_end) -> torch.Tensor:
    return front_end(waves())


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_nonfinite_window_gives_nan_and_leaves_the_others_unchanged(front_end, finite_pictures, bad):
    nonfinite = waves()
    nonfinite[1, 5_000] = bad
    actual = front_end(nonfinite)
    assert actual[1].isnan().all()
    assert torch.equal(actual[[0, 2, 3, 4]], finite_pictures[[0, 2, 3, 4]])


def test_silence_is_0(finite_pictures):
    assert not finite_pictures[2].any()


def test_decibels_of_windows_that_are_not_finite_or_silent(front_end):
    samples = waves()[1:4]
    samples[0, 5_000] = float("nan")
    decibels = front_end.exact_decibels(samples)
    assert decibels[0].isnan().all()
    assert (decibels[1] == -SPEC.top_db).all()
    assert decibels[2].isfinite().all()


def test_the_loudest_pixel_is_1_and_levels_are_those_of_the_power():
    as_many_pixels_as_frames = {"hop_length": 100, "image_size": 80}
    spec = SPEC.changed(**as_many_pixels_as_frames)
    samples = waves()[[0, 3]]
    front_end = LogMel(spec.changed(engine="fused"), RATE).to(DEVICE)
    assert front_end.fused.pixels(samples).amax((1, 2)).tolist() == [1.0, 1.0]
    levels, peak = front_end.fused.levels(samples)
    power = LogMel(spec.changed(engine="fft"), RATE).to(DEVICE).power(samples)
    torch.testing.assert_close(levels.mT.exp2(), power.clamp(min=1e-10), rtol=1e-5, atol=0)
    torch.testing.assert_close(peak, power.amax((1, 2)), rtol=1e-6, atol=0)


@pytest.mark.parametrize("n_fft", [75, 512])
@pytest.mark.parametrize("num_samples", [1, 74, 1_000, 1_001])
def test_spectra_are_those_of_stft(n_fft, num_samples):
    samples = torch.randn(3, 2_000, generator=torch.Generator().manual_seed(0)).to(DEVICE)[:, ::2]
    samples = samples.repeat(1, 2)[:, 1 : 1 + num_samples]  # not contiguous
    taper = torch.hann_window(n_fft, device=DEVICE)
    frames = triton_kernels.cut_frames(samples, taper, 37)
    expected = torch.stft(samples, n_fft, 37, window=taper, pad_mode="constant", return_complex=True).mT
    torch.testing.assert_close(torch.fft.rfft(frames), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shift", [1, 3])
def test_memory_need_not_be_aligned(front_end, shift):
    spectra = front_end.fused.spectra(waves()[:2])
    storage = torch.empty(spectra.numel() + shift, dtype=spectra.dtype, device=DEVICE)
    shifted = storage[shift:].view_as(spectra).copy_(spectra)
    banded = (front_end.fused.first_bin, front_end.fused.band_weights, front_end.fused.block_taps)
    expected, actual = (triton_kernels.mel_levels(part, *banded, 1e-10) for part in (spectra, shifted))
    assert torch.equal(actual[0], expected[0])
    assert torch.equal(actual[1], expected[1])
