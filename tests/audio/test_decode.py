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
from tests.helpers import malformed_files, write_audio

RATE = 22_050


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from([".wav", ".flac", ".ogg"]), st.sampled_from([8_000, 22_050, 44_100, 48_000]), st.integers(1, 6),
    st.floats(0.05, 4),
)  # fmt: skip
def test_equals_reading_the_file_then_mean_then_resampling(tmp_path, suffix, rate, channels, seconds):
    path = write_audio(tmp_path / f"x{suffix}", seconds, rate, channels)
    samples, _ = soundfile.read(path, dtype="float32", always_2d=True)
    expected = soxr.resample(samples.mean(axis=1), rate, RATE) if rate != RATE else samples.mean(axis=1)
    wave = decode(path, RATE, max_s=60)
    assert wave.dtype == np.float32
    assert abs(len(wave) - seconds * RATE) <= 2
    np.testing.assert_allclose(wave, expected, atol=2e-6)


@pytest.mark.parametrize("suffix", [".mp3", ".ogg", ".opus", ".flac", ".wav"])
def test_a_trimmed_track_is_the_beginning_of_the_full_track(tmp_path, suffix):
    path = write_audio(tmp_path / f"x{suffix}", 10, 48_000, 2)
    trimmed, full = decode(path, RATE, 4.0), decode(path, RATE, 60.0)
    assert len(trimmed) == 4 * RATE
    np.testing.assert_allclose(trimmed, full[: len(trimmed)], atol=2e-6)


def test_samples_beyond_full_scale_are_not_clipped(tmp_path):
    soundfile.write(tmp_path / "loud.wav", np.full(RATE, 1.5, np.float32), RATE, subtype="FLOAT")
    assert decode(tmp_path / "loud.wav", RATE, 1).max() == 1.5


def test_any_file_name_is_supported(tmp_path):
    path = write_audio(tmp_path / 'nhạc "số 1"\nmới, 100%.mp3', 1)
    assert len(decode(path, RATE, 5)) > 0


def test_every_malformed_file_is_decoded_or_rejected_with_its_reason(tmp_path, capfd):
    for name, expected in malformed_files.write_malformed_files(tmp_path).items():
        audio = read_audio(tmp_path / name, RATE, 60)
        reason, usable_s = expected if isinstance(expected, tuple) else (expected, 0)
        if isinstance(expected, float):
            assert audio.error is None, (name, audio.error)
            assert len(audio.wave) / RATE == pytest.approx(expected, abs=0.3), name
            continue
        assert reason in audio.error, (name, audio.error)
        assert len(audio.wave) / RATE == pytest.approx(usable_s, abs=0.7), name
        with pytest.raises(DecodeError) as caught:
            decode(tmp_path / name, RATE, 60)
        assert str(caught.value) == f"{tmp_path / name}: {audio.error}"
    assert capfd.readouterr().err == ""  # nothing from the native decoders


@pytest.mark.parametrize("suffix", [".mp3", ".ogg", ".opus", ".flac", ".wav"])
@pytest.mark.parametrize(("rate", "channels"), [(8_000, 1), (24_000, 6), (48_000, 2)])
def test_streaming_returns_the_same_samples(tmp_path, suffix, rate, channels):
    if suffix == ".mp3":
        channels = min(channels, 2)
    path = write_audio(tmp_path / f"x{suffix}", 12, rate, channels)
    for sample_rate in (RATE, rate):
        blocks = list(stream_audio(path, sample_rate))
        assert {block.dtype for block in blocks} == {np.dtype(np.float32)}
        np.testing.assert_allclose(np.concatenate(blocks), decode(path, sample_rate, 60), atol=2e-6)


def streamed(path) -> tuple[float, str | None]:
    """(seconds decoded by streaming, message of the error)."""
    seconds = 0.0
    try:
        for block in stream_audio(path, RATE):
            assert np.isfinite(block).all()
            seconds += len(block) / RATE
    except DecodeError as error:
        return seconds, str(error)
    return seconds, None


def test_streaming_returns_the_usable_samples_of_every_malformed_file_then_raises(tmp_path, capfd):
    for name, expected in malformed_files.write_malformed_files(tmp_path).items():
        if name == "three_hours.flac":
            continue
        seconds, problem = streamed(tmp_path / name)
        audio = read_audio(tmp_path / name, RATE, 60)
        message = audio.error and f"{tmp_path / name}: {audio.error}"
        assert problem == message or "decoding failed after" in audio.error, name
        lost_s = max(MIN_USABLE_S, STREAM_BLOCK_SAMPLES / RATE) if audio.error else 0  # the block with the error
        assert seconds == pytest.approx(len(audio.wave) / RATE, abs=lost_s + 2 / RATE), name
        assert (problem is None) == isinstance(expected, float)
    assert capfd.readouterr().err == ""


def test_stderr_is_not_silenced_between_the_blocks_of_a_stream(tmp_path, capfd):
    blocks = stream_audio(write_audio(tmp_path / "x.mp3", 5), RATE)
    next(blocks)
    os.write(2, b"visible")
    assert capfd.readouterr().err == "visible"


def test_a_truncated_file_is_an_error(tmp_path):
    data = write_audio(tmp_path / "x.flac", 30).read_bytes()
    (tmp_path / "cut.flac").write_bytes(data[: len(data) // 2])
    assert len(decode(tmp_path / "cut.flac", RATE, 2)) == 2 * RATE  # its beginning has no error
    with pytest.raises(DecodeError, match=r"cut\.flac"):
        decode(tmp_path / "cut.flac", RATE, 60)


def test_samples_before_an_error_are_usable(tmp_path):
    path = write_audio(tmp_path / "x.flac", 30)
    full, data = decode(path, 8_000, 60), path.read_bytes()
    path.write_bytes(data[: len(data) // 3])
    audio = read_audio(path, 8_000, 60)
    assert audio.error
    assert 8.5 < len(audio.wave) / 8_000 < 10.5
    np.testing.assert_allclose(audio.wave[:-4000], full[: len(audio.wave) - 4000], atol=2e-6)  # without the edge effect
    path.write_bytes(data[: len(data) // 40])  # shorter than MIN_USABLE_S
    assert len(data) / 40 < len(data) * MIN_USABLE_S / 30
    assert len(read_audio(path, 8_000, 60).wave) == 0


def test_a_wave_is_usable_up_to_its_first_invalid_sample(tmp_path):
    for invalid in (np.nan, np.inf, -1e9):
        wave = np.full(3 * RATE, 0.5, np.float32)
        wave[2 * RATE] = invalid
        soundfile.write(tmp_path / "x.wav", wave, RATE, subtype="FLOAT")
        audio = read_audio(tmp_path / "x.wav", RATE, 60)
        assert "absurdly large" in audio.error
        assert len(audio.wave) == 2 * RATE


@pytest.mark.parametrize("rate", [8_000, 11_025, 32_000, 96_000, 192_000])
@pytest.mark.parametrize("channels", [1, 8])
def test_any_sample_rate_and_number_of_channels(tmp_path, rate, channels):
    tone = np.sin(2 * np.pi * 440 * np.arange(2 * rate) / rate).astype(np.float32)
    soundfile.write(tmp_path / "x.wav", np.stack([tone] * channels, axis=1), rate, subtype="FLOAT")
    wave = decode(tmp_path / "x.wav", RATE, 60)
    assert len(wave) == 2 * RATE
    expected = np.sin(2 * np.pi * 440 * np.arange(2 * RATE) / RATE)
    np.testing.assert_allclose(wave[500:-500], expected[500:-500], atol=1e-3)


def test_an_implausible_sample_rate_is_rejected(tmp_path):
    data = bytearray(write_audio(tmp_path / "x.wav", 3).read_bytes())
    for claimed_rate in (1, 4_000_000_000):
        data[24:28] = claimed_rate.to_bytes(4, "little")
        (tmp_path / "x.wav").write_bytes(data)
        with pytest.raises(DecodeError):
            decode(tmp_path / "x.wav", RATE, 60)


@given(st.integers(1, 50), st.integers(1, 200))
def test_short_waves_are_repeated_and_long_ones_trimmed(length, num_samples):
    wave = np.arange(length, dtype=np.float32)
    conformed = conform(wave, num_samples)
    assert conformed.shape == (num_samples,)
    assert (conformed == wave[np.arange(num_samples) % length]).all()


@pytest.mark.parametrize("seconds", [7, 61, 119.98, 120, 300])
def test_tracks_of_any_duration_become_two_minutes(seconds):
    assert conform(np.zeros(round(seconds * RATE), np.float32), 120 * RATE).shape == (2_646_000,)


def test_an_empty_wave_cannot_be_repeated():
    with pytest.raises(ValueError, match="empty"):
        conform(np.empty(0, np.float32), 5)


def test_memory_is_bounded_by_the_requested_duration(tmp_path):
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
    process = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    assert int(process.stdout) < 200_000  # KiB
