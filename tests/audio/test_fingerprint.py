import functools

import numpy as np
import pytest
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

from melgpu.audio import fingerprint
from melgpu.audio.decode import decode
from melgpu.demo import corpus, song

RATE = song.RATE
LISTEN = round(fingerprint.EXCERPT_S * RATE)
MIN_FRAMES = int(np.ceil(fingerprint.MIN_OVERLAP_S / fingerprint.HOP_S))


def words(size: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 2**32, size, dtype=np.uint32)


def indices(prints) -> list[tuple[int, int]]:
    return [(i, j) for i, j, _ in fingerprint.similar_pairs(prints)]


@functools.cache
def piece(label: str) -> np.ndarray:
    """At least 13 s of music."""
    waves = (song.compose(label, np.random.default_rng([5, i])) for i in range(100))
    return next(wave for wave in waves if len(wave) > 13 * RATE).astype(np.float32)


@functools.cache
def strangers() -> list[np.ndarray]:
    return [fingerprint.fingerprint(piece(label)[:LISTEN], RATE) for label in ("breakbeat", "chorale", "gamelan")]


CHANGES = {
    "quieter": lambda wave: (wave / 4, RATE),
    "louder than full scale": lambda wave: (wave * 4, RATE),
    "8 kHz": lambda wave: (soxr.resample(wave, RATE, 8_000), 8_000),
    "48 kHz": lambda wave: (soxr.resample(wave, RATE, 48_000), 48_000),
    "1 s cut": lambda wave: (wave[RATE:], RATE),
    "3 s cut": lambda wave: (wave[3 * RATE + 123 :], RATE),
    "2 s of silence before": lambda wave: (np.concatenate([np.zeros(2 * RATE, np.float32), wave]), RATE),
    "noise": lambda wave: (wave + 0.05 * wave.std() * np.random.default_rng(0).standard_normal(len(wave)), RATE),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("label", ["waltz", "house"])
def test_a_changed_recording_is_found(label, change):
    wave, rate = CHANGES[change](piece(label))
    original = fingerprint.fingerprint(piece(label)[:LISTEN], RATE)
    changed = fingerprint.fingerprint(wave[: round(fingerprint.EXCERPT_S * rate)], rate)
    assert indices([original, *strangers(), changed]) == [(0, 4)]


@pytest.mark.parametrize("name", ["a.mp3", "a.ogg"])
@pytest.mark.parametrize("label", ["aria", "slide"])
def test_an_encoded_recording_is_found(tmp_path, label, name):
    corpus.write_audio(tmp_path / name, 0.5 * piece(label)[RATE:], 44_100, stereo=True)
    original = fingerprint.fingerprint(piece(label)[:LISTEN], RATE)
    encoded = fingerprint.fingerprint(decode(tmp_path / name, RATE, fingerprint.EXCERPT_S), RATE)
    assert indices([*strangers(), encoded, original]) == [(3, 4)]


def test_different_pieces_are_not_found():
    other = fingerprint.fingerprint(song.compose("breakbeat", np.random.default_rng(8))[:LISTEN], RATE)
    assert fingerprint.similar_pairs([*strangers(), other]) == []


@pytest.mark.parametrize(
    "wave",
    [
        np.empty(0),
        np.ones(100),
        np.zeros(LISTEN),
        np.full(LISTEN, 0.5),
        np.random.default_rng(0).standard_normal(LISTEN) * 2**-16,  # the dither of 16-bit silence
        np.random.default_rng(0).standard_normal(2 * RATE),
    ],
    ids=["empty", "100 samples", "silence", "constant", "dither", "2 s"],
)
def test_nothing_to_hear_is_like_nothing(wave):
    made = fingerprint.fingerprint(wave, RATE)
    assert fingerprint.similar_pairs([made, made, made]) == []


@pytest.mark.parametrize("level", [0, 1e-4])
def test_shape_and_quiet_frames(level):
    before = level * np.random.default_rng(0).standard_normal(2 * RATE)
    wave = np.concatenate([before, piece("waltz")[: 4 * RATE]])
    made = fingerprint.fingerprint(wave, RATE)
    frames_s = np.arange(len(made)) * fingerprint.HOP_S
    assert made.dtype == np.uint32
    assert len(wave) / RATE - frames_s[-1] == pytest.approx(fingerprint.FRAME_S + fingerprint.LAG_S, abs=0.04)
    assert (made[frames_s < 2 - fingerprint.FRAME_S] == 0).all()
    assert (made[frames_s > 2] != 0).all()


def test_pairs_are_sorted_and_judged_by_the_bound():
    first, second = words(300, 1), words(300, 2)
    near = second.copy()
    near[::10] ^= 0xFFFF
    prints = [second, first, words(300, 3), near, first]
    assert fingerprint.similar_pairs(prints) == [(0, 3, pytest.approx(0.05)), (1, 4, 0.0)]
    assert fingerprint.similar_pairs(prints, max_bit_error=0.04) == [(1, 4, 0.0)]


def test_frames_that_do_not_count_prove_nothing():
    heard = words(200, 1), words(200, 2)
    for other in heard:
        other[::20] = words(10)
    assert indices([np.concatenate([np.zeros(2_000, np.uint32), other]) for other in heard]) == []


def test_without_prints_there_are_no_pairs():
    assert fingerprint.similar_pairs([]) == []
    assert fingerprint.similar_pairs([words(300)]) == []
    assert fingerprint.similar_pairs([np.empty(0, np.uint32), words(300)]) == []


def test_of_many_copies_each_is_paired():
    copies = 3 * fingerprint.MAX_NEIGHBOURS
    pairs = indices([words(200)] * copies)
    assert pairs == sorted(set(pairs))
    assert set(np.ravel(pairs)) == set(range(copies))
    assert len(pairs) <= copies * fingerprint.MAX_NEIGHBOURS


@settings(max_examples=50)
@given(st.integers(0, 99), st.integers(0, 150), st.integers(MIN_FRAMES - 20, 300), st.integers(0, 8), st.booleans())
def test_any_shift_is_found_where_enough_lies_over_each_other(seed, shift, overlap, flips, swapped):
    """The bits that differ are counted exactly, whatever lies before or behind."""
    long, rng = words(overlap + shift, seed), np.random.default_rng(seed)
    short = long[shift:].copy()
    touched = rng.choice(overlap, overlap // 2, replace=False)
    short[touched] ^= np.uint32(2**flips - 1)
    short[short == 0] = long[shift:][short == 0]
    error = np.bitwise_count(short ^ long[shift:]).mean() / 32
    prints = [short, words(400, 1000), long] if swapped else [long, words(400, 1000), short]
    assert fingerprint.similar_pairs(prints) == ([(0, 2, error)] if overlap >= MIN_FRAMES else [])
