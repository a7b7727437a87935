import functools

import numpy as np
import pytest
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

from melgpu.audio import fingerprint
from melgpu.audio.decode import decode
from melgpu.demo import corpus, synthesizer

RATE = synthesizer.SAMPLE_RATE
EXCERPT = round(fingerprint.EXCERPT_S * RATE)
MIN_FRAMES = int(np.ceil(fingerprint.MIN_OVERLAP_S / fingerprint.HOP_S))


def random_fingerprint(size: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 2**32, size, dtype=np.uint32)


def pair_indices(fingerprints) -> list[tuple[int, int]]:
    return [(i, j) for i, j, _ in fingerprint.similar_pairs(fingerprints)]


@functools.cache
def track(label: str) -> np.ndarray:
    """At least 13 s of music."""
    waves = (synthesizer.compose(label, np.random.default_rng([5, i])) for i in range(100))
    return next(wave for wave in waves if len(wave) > 13 * RATE).astype(np.float32)


@functools.cache
def unrelated() -> list[np.ndarray]:
    return [fingerprint.fingerprint(track(label)[:EXCERPT], RATE) for label in ("breakbeat", "chorale", "gamelan")]


TRANSFORMS = {
    "quieter": lambda wave: (wave / 4, RATE),
    "louder than full scale": lambda wave: (wave * 4, RATE),
    "8 kHz": lambda wave: (soxr.resample(wave, RATE, 8_000), 8_000),
    "48 kHz": lambda wave: (soxr.resample(wave, RATE, 48_000), 48_000),
    "first 1 s removed": lambda wave: (wave[RATE:], RATE),
    "first 3 s removed": lambda wave: (wave[3 * RATE + 123 :], RATE),
    "2 s of silence before": lambda wave: (np.concatenate([np.zeros(2 * RATE, np.float32), wave]), RATE),
    "noise": lambda wave: (wave + 0.05 * wave.std() * np.random.default_rng(0).standard_normal(len(wave)), RATE),
}


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("label", ["waltz", "house"])
def test_a_transformed_recording_is_found(label, transform):
    wave, rate = TRANSFORMS[transform](track(label))
    original = fingerprint.fingerprint(track(label)[:EXCERPT], RATE)
    transformed = fingerprint.fingerprint(wave[: round(fingerprint.EXCERPT_S * rate)], rate)
    assert pair_indices([original, *unrelated(), transformed]) == [(0, 4)]


@pytest.mark.parametrize("name", ["a.mp3", "a.ogg"])
@pytest.mark.parametrize("label", ["aria", "slide"])
def test_an_encoded_recording_is_found(tmp_path, label, name):
    corpus.write_audio(tmp_path / name, 0.5 * track(label)[RATE:], 44_100, stereo=True)
    original = fingerprint.fingerprint(track(label)[:EXCERPT], RATE)
    encoded = fingerprint.fingerprint(decode(tmp_path / name, RATE, fingerprint.EXCERPT_S), RATE)
    assert pair_indices([*unrelated(), encoded, original]) == [(3, 4)]


def test_different_recordings_are_not_paired():
    other = fingerprint.fingerprint(synthesizer.compose("breakbeat", np.random.default_rng(8))[:EXCERPT], RATE)
    assert fingerprint.similar_pairs([*unrelated(), other]) == []


@pytest.mark.parametrize(
    "wave",
    [
        np.empty(0),
        np.ones(100),
        np.zeros(EXCERPT),
        np.full(EXCERPT, 0.5),
        np.random.default_rng(0).standard_normal(EXCERPT) * 2**-16,  # the dither of 16-bit silence
        np.random.default_rng(0).standard_normal(2 * RATE),
    ],
    ids=["empty", "100 samples", "silence", "constant", "dither", "2 s"],
)
def test_short_or_silent_waves_have_no_pairs(wave):
    result = fingerprint.fingerprint(wave, RATE)
    assert fingerprint.similar_pairs([result, result, result]) == []


@pytest.mark.parametrize("level", [0, 1e-4])
def test_shape_and_quiet_frames(level):
    before = level * np.random.default_rng(0).standard_normal(2 * RATE)
    wave = np.concatenate([before, track("waltz")[: 4 * RATE]])
    result = fingerprint.fingerprint(wave, RATE)
    frames_s = np.arange(len(result)) * fingerprint.HOP_S
    assert result.dtype == np.uint32
    assert len(wave) / RATE - frames_s[-1] == pytest.approx(fingerprint.FRAME_S + fingerprint.LAG_S, abs=0.04)
    assert (result[frames_s < 2 - fingerprint.FRAME_S] == 0).all()
    assert (result[frames_s > 2] != 0).all()


def test_pairs_are_sorted_and_limited_by_the_bit_error_rate(monkeypatch):
    first, second = random_fingerprint(300, 1), random_fingerprint(300, 2)
    near = second.copy()
    near[::10] ^= 0xFFFF
    fingerprints = [second, first, random_fingerprint(300, 3), near, first]
    assert fingerprint.similar_pairs(fingerprints) == [(0, 3, pytest.approx(0.05)), (1, 4, 0.0)]
    monkeypatch.setattr(fingerprint, "MAX_BIT_ERROR_RATE", 0.04)
    assert fingerprint.similar_pairs(fingerprints) == [(1, 4, 0.0)]


def test_invalid_frames_are_ignored():
    valid_frames = random_fingerprint(200, 1), random_fingerprint(200, 2)
    for frames in valid_frames:
        frames[::20] = random_fingerprint(10)
    assert pair_indices([np.concatenate([np.zeros(2_000, np.uint32), frames]) for frames in valid_frames]) == []


def test_without_fingerprints_there_are_no_pairs():
    assert fingerprint.similar_pairs([]) == []
    assert fingerprint.similar_pairs([random_fingerprint(300)]) == []
    assert fingerprint.similar_pairs([np.empty(0, np.uint32), random_fingerprint(300)]) == []


def test_of_many_copies_each_is_paired():
    copies = 3 * fingerprint.MAX_NEIGHBOURS
    pairs = pair_indices([random_fingerprint(200)] * copies)
    assert pairs == sorted(set(pairs))
    assert set(np.ravel(pairs)) == set(range(copies))
    assert len(pairs) <= copies * fingerprint.MAX_NEIGHBOURS


@settings(max_examples=50)
@given(st.integers(0, 99), st.integers(0, 150), st.integers(MIN_FRAMES - 20, 300), st.integers(0, 8), st.booleans())
def test_any_offset_is_found_if_the_overlap_is_long_enough(seed, offset, overlap, flips, swapped):
    """The bit error rate is exact, whatever precedes or follows the overlap."""
    long, rng = random_fingerprint(overlap + offset, seed), np.random.default_rng(seed)
    short = long[offset:].copy()
    flipped = rng.choice(overlap, overlap // 2, replace=False)
    short[flipped] ^= np.uint32(2**flips - 1)
    short[short == 0] = long[offset:][short == 0]
    bit_error_rate = np.bitwise_count(short ^ long[offset:]).mean() / 32
    fingerprints = [long, random_fingerprint(400, 1000), short]
    if swapped:
        fingerprints.reverse()
    assert fingerprint.similar_pairs(fingerprints) == ([(0, 2, bit_error_rate)] if overlap >= MIN_FRAMES else [])
