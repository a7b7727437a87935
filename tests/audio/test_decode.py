import os
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import soxr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from melgpu.audio.decode import (
    MIN_USABLE_S,
    STREAM_BLOCK_SAMPLES,
    DecodeError,
    conform,
    decode,
    read_audio,
    stream_audio,
)
from tests.helpers import odd_files, write_audio

RATE = 22_050


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from([".wav", ".flac", ".ogg"]), st.sampled_from([8_000, 22_050, 44_100, 48_000]), st.integers(1, 6),
    st.floats(0.05, 4),
)  # fmt: skip
def test_equals_reading_all_then_mean_then_resampling(tmp_path, suffix, rate, channels, seconds):
    path = write_audio(tmp_path / f"x{suffix}", seconds, rate, channels)
    whole, _ = soundfile.read(path, dtype="float32", always_2d=True)
    expected = soxr.resample(whole.mean(axis=1), rate, RATE) if rate != RATE else whole.mean(axis=1)
    wave = decode(path, RATE, max_s=60)
    assert wave.dtype == np.float32
    assert abs(len(wave) - seconds * RATE) <= 2
    np.testing.assert_allclose(wave, expected, atol=2e-6)


@pytest.mark.parametrize("suffix", [".mp3", ".ogg", ".opus", ".flac", ".wav"])
def test_a_cut_track_is_the_beginning_of_the_whole(tmp_path, suffix):
    path = write_audio(tmp_path / f"x{suffix}", 10, 48_000, 2)
    part, whole = decode(path, RATE, 4.0), decode(path, RATE, 60.0)
    assert len(part) == 4 * RATE
    np.testing.assert_allclose(part, whole[: len(part)], atol=2e-6)


def test_samples_beyond_full_scale_stay(tmp_path):
    soundfile.write(tmp_path / "loud.wav", np.full(RATE, 1.5, np.float32), RATE, subtype="FLOAT")
    assert decode(tmp_path / "loud.wav", RATE, 1).max() == 1.5


def test_any_name_will_do(tmp_path):
    path = write_audio(tmp_path / 'nhạc "số 1"\nmới, 100%.mp3', 1)
    assert len(decode(path, RATE, 5)) > 0


def test_every_odd_file_is_read_or_refused_with_its_reason(tmp_path, capfd):
    for name, expected in odd_files.write(tmp_path).items():
        sound = read_audio(tmp_path / name, RATE, 60)
        reason, seconds = expected if isinstance(expected, tuple) else (expected, 0)
        if isinstance(expected, float):
            assert sound.error is None, (name, sound.error)
            assert len(sound.wave) / RATE == pytest.approx(expected, abs=0.3), name
            continue
        assert reason in sound.error, (name, sound.error)
        assert len(sound.wave) / RATE == pytest.approx(seconds, abs=0.7), name
        with pytest.raises(DecodeError) as caught:
            decode(tmp_path / name, RATE, 60)
        assert str(caught.value) == f"{tmp_path / name}: {sound.error}"
    assert capfd.readouterr().err == ""  # nothing from the native decoders


@pytest.mark.parametrize("suffix", [".mp3", ".ogg", ".opus", ".flac", ".wav"])
@pytest.mark.parametrize(("rate", "channels"), [(8_000, 1), (24_000, 6), (48_000, 2)])
def test_a_stream_gives_the_same_samples(tmp_path, suffix, rate, channels):
    if suffix == ".mp3":
        channels = min(channels, 2)
    path = write_audio(tmp_path / f"x{suffix}", 12, rate, channels)
    for wanted in (RATE, rate):
        pieces = list(stream_audio(path, wanted))
        assert {piece.dtype for piece in pieces} == {np.dtype(np.float32)}
        np.testing.assert_allclose(np.concatenate(pieces), decode(path, wanted, 60), atol=2e-6)


def streamed(path) -> tuple[float, str | None]:
    """How many seconds a stream gives, and its flaw."""
    seconds = 0.0
    try:
        for piece in stream_audio(path, RATE):
            assert np.isfinite(piece).all()
            seconds += len(piece) / RATE
    except DecodeError as error:
        return seconds, str(error)
    return seconds, None


def test_a_stream_gives_what_is_good_of_every_odd_file_then_its_flaw(tmp_path, capfd):
    for name, expected in odd_files.write(tmp_path).items():
        if name == "three_hours.flac":
            continue
        seconds, problem = streamed(tmp_path / name)
        sound = read_audio(tmp_path / name, RATE, 60)
        assert problem == (sound.error and f"{tmp_path / name}: {sound.error}") or "broken after" in sound.error, name
        short = (
            0 if sound.error is None else max(MIN_USABLE_S, STREAM_BLOCK_SAMPLES / RATE)
        )  # a flaw takes its block along
        assert seconds == pytest.approx(len(sound.wave) / RATE, abs=short + 2 / RATE), name
        assert (problem is None) == isinstance(expected, float)
    assert capfd.readouterr().err == ""


def test_between_the_pieces_of_a_stream_errors_are_seen(tmp_path, capfd):
    pieces = stream_audio(write_audio(tmp_path / "x.mp3", 5), RATE)
    next(pieces)
    os.write(2, b"heard")
    assert capfd.readouterr().err == "heard"


def test_a_file_cut_off_in_the_middle_is_an_error(tmp_path):
    data = write_audio(tmp_path / "x.flac", 30).read_bytes()
    (tmp_path / "cut.flac").write_bytes(data[: len(data) // 2])
    assert len(decode(tmp_path / "cut.flac", RATE, 2)) == 2 * RATE  # its beginning is well
    with pytest.raises(DecodeError, match=r"cut\.flac"):
        decode(tmp_path / "cut.flac", RATE, 60)


def test_what_was_good_before_a_flaw_is_saved(tmp_path):
    path = write_audio(tmp_path / "x.flac", 30)
    whole, data = decode(path, 8_000, 60), path.read_bytes()
    path.write_bytes(data[: len(data) // 3])
    saved = read_audio(path, 8_000, 60)
    assert saved.error
    assert 8.5 < len(saved.wave) / 8_000 < 10.5
    np.testing.assert_allclose(saved.wave[:-4000], whole[: len(saved.wave) - 4000], atol=2e-6)  # but the end effect
    path.write_bytes(data[: len(data) // 40])  # less than is worth it
    assert len(data) / 40 < len(data) * MIN_USABLE_S / 30
    assert len(read_audio(path, 8_000, 60).wave) == 0


def test_a_wave_is_saved_up_to_its_first_absurd_sample(tmp_path):
    for absurd in (np.nan, np.inf, -1e9):
        wave = np.full(3 * RATE, 0.5, np.float32)
        wave[2 * RATE] = absurd
        soundfile.write(tmp_path / "x.wav", wave, RATE, subtype="FLOAT")
        saved = read_audio(tmp_path / "x.wav", RATE, 60)
        assert "absurdly large" in saved.error
        assert len(saved.wave) == 2 * RATE


@pytest.mark.parametrize("rate", [8_000, 11_025, 32_000, 96_000, 192_000])
@pytest.mark.parametrize("channels", [1, 8])
def test_any_rate_and_number_of_channels(tmp_path, rate, channels):
    tone = np.sin(2 * np.pi * 440 * np.arange(2 * rate) / rate).astype(np.float32)
    soundfile.write(tmp_path / "x.wav", np.stack([tone] * channels, axis=1), rate, subtype="FLOAT")
    wave = decode(tmp_path / "x.wav", RATE, 60)
    assert len(wave) == 2 * RATE
    expected = np.sin(2 * np.pi * 440 * np.arange(2 * RATE) / RATE)
    np.testing.assert_allclose(wave[500:-500], expected[500:-500], atol=1e-3)


def test_a_lying_sample_rate_is_refused(tmp_path):
    data = bytearray(write_audio(tmp_path / "x.wav", 3).read_bytes())
    for lie in (1, 4_000_000_000):
        data[24:28] = lie.to_bytes(4, "little")
        (tmp_path / "x.wav").write_bytes(data)
        with pytest.raises(DecodeError):
            decode(tmp_path / "x.wav", RATE, 60)


@given(st.integers(1, 50), st.integers(1, 200))
def test_short_waves_are_repeated_and_long_ones_cut(length, wanted):
    wave = np.arange(length, dtype=np.float32)
    conformed = conform(wave, wanted)
    assert conformed.shape == (wanted,)
    assert (conformed == wave[np.arange(wanted) % length]).all()


@pytest.mark.parametrize("seconds", [7, 61, 119.98, 120, 300])
def test_tracks_of_any_length_become_two_minutes(seconds):
    assert conform(np.zeros(round(seconds * RATE), np.float32), 120 * RATE).shape == (2_646_000,)


def test_nothing_cannot_be_repeated():
    with pytest.raises(ValueError, match="empty"):
        conform(np.empty(0, np.float32), 5)


def test_memory_is_bounded_by_what_is_asked_for(tmp_path):
    path = tmp_path / "long.flac"
    with soundfile.SoundFile(path, "w", 48_000, 2) as file:
        for _ in range(60 * 30):
            file.write(np.zeros((48_000, 2), np.int16))  # half an hour, 691 MB as float32
    code = (
        "import resource, sys; from pathlib import Path; from melgpu.audio.decode import decode\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "assert len(decode(Path(sys.argv[1]), 22050, 120)) == 120 * 22050\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    grown = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    assert int(grown.stdout) < 200_000  # KiB
