import threading
import tracemalloc

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from melgpu.audio.decode import conform, decode
from melgpu.prediction.timeline import Timeline, cut_windows, expected_windows
from melgpu.recipe import load_recipe
from melgpu.recipe_schema import AudioSpec, WindowSpec
from tests.helpers import write_audio

SAMPLE_RATE = 8_000
AUDIO = AudioSpec(sample_rate=SAMPLE_RATE, track_s=6.0, min_s=0.0)
CPU = torch.device("cpu")


def spec(hop_s: float = 1.0) -> WindowSpec:
    return load_recipe(["demo"]).windows.model_copy(update={"window_s": 2.0, "predict_hop_s": hop_s})


def load_batches(path, hop_s: float = 1.0, batch_size: int = 3) -> tuple[Timeline, list]:
    timeline = Timeline(str(path), AUDIO, spec(hop_s), CPU)
    return timeline, list(timeline.batches(batch_size))


@settings(deadline=None)
@given(st.lists(st.integers(0, 40), max_size=12), st.integers(1, 30), st.integers(1, 45))
def test_windows_cover_a_wave_in_any_blocks(sizes, window, hop):
    length = sum(sizes)
    wave = np.arange(length, dtype=np.float32)
    blocks = np.split(wave, np.cumsum(sizes))
    windows = list(cut_windows(blocks, window, hop))
    starts = [start for start, _ in windows]
    if not length:
        assert not windows
        return
    regular = list(range(0, max(1, length - window + 1), hop))
    assert starts[: len(regular)] == regular
    remainder = [length - window] if length > regular[-1] + window else []
    assert starts[len(regular) :] == remainder
    for start, samples in windows:
        np.testing.assert_array_equal(samples, conform(wave[start:], window))
    covered = {position for start in starts for position in range(start, min(start + window, length))}
    assert hop > window or covered == set(range(length))


@pytest.mark.parametrize("hop_s", [0.5, 2.0, 3.0])
@pytest.mark.parametrize("suffix", [".mp3", ".flac"])
def test_batches_are_windows_of_the_decoded_file(tmp_path, suffix, hop_s):
    path = write_audio(tmp_path / f"x{suffix}", 9.3, 44_100, 2)
    timeline, batches = load_batches(path, hop_s)
    wave = decode(path, SAMPLE_RATE, 60)
    assert timeline.num_samples == len(wave)
    assert timeline.error is None
    assert [len(batch.waves) for batch in batches[:-1]] == [3] * (len(batches) - 1)
    starts = torch.cat([batch.starts for batch in batches])
    assert starts.dtype == torch.int64
    assert starts[-1] == len(wave) - 2 * SAMPLE_RATE
    assert len(starts) == expected_windows(str(path), AUDIO, spec(hop_s))
    for batch in batches:
        assert batch.valid.all()
        assert not batch.tracks.any()
        for samples, start in zip(batch.waves.numpy(), batch.starts.tolist(), strict=True):
            np.testing.assert_allclose(samples, wave[start : start + 2 * SAMPLE_RATE], atol=2e-6)
    spans_s = timeline.span_s(starts)
    np.testing.assert_allclose(np.diff(spans_s, axis=1), 2)
    assert spans_s[-1, 1] == len(wave) / SAMPLE_RATE


def test_a_short_file_is_repeated_up_to_a_window(tmp_path):
    path = write_audio(tmp_path / "x.wav", 0.7, SAMPLE_RATE)
    timeline, (batch,) = load_batches(path)
    np.testing.assert_allclose(batch.waves[0], conform(decode(path, SAMPLE_RATE, 60), 2 * SAMPLE_RATE), atol=2e-6)
    assert timeline.span_s(batch.starts).tolist() == [[0, 0.7]]


def test_a_file_below_the_least_length_has_no_windows(tmp_path):
    path = write_audio(tmp_path / "x.wav", 1.4, SAMPLE_RATE)
    audio = AudioSpec(sample_rate=SAMPLE_RATE, track_s=6.0, min_s=1.5)
    timeline = Timeline(str(path), audio, spec(), CPU)
    assert list(timeline.batches(3)) == []
    assert timeline.error == f"{path}: only 1.400 s of audio"


def test_usable_seconds_before_an_error_are_used(tmp_path):
    wave = np.full(9 * SAMPLE_RATE, 0.5, np.float32)
    wave[5 * SAMPLE_RATE] = np.nan
    soundfile.write(tmp_path / "x.wav", wave, SAMPLE_RATE, subtype="FLOAT")
    timeline, batches = load_batches(tmp_path / "x.wav")
    assert [start for batch in batches for start in batch.starts.tolist()] == [
        0,
        SAMPLE_RATE,
        2 * SAMPLE_RATE,
        3 * SAMPLE_RATE,
    ]
    assert all((batch.waves == 0.5).all() for batch in batches)
    assert timeline.error.startswith(f"{tmp_path / 'x.wav'}: contains samples that are not finite")


def test_unusable_files_have_no_windows(tmp_path):
    wave = np.full(SAMPLE_RATE, 0.5, np.float32)
    wave[SAMPLE_RATE // 2] = np.inf
    soundfile.write(tmp_path / "x.wav", wave, SAMPLE_RATE, subtype="FLOAT")
    (tmp_path / "y.mp3").write_text("no music")
    for name, reason in (("x.wav", "absurdly large"), ("y.mp3", "not readable"), ("absent.flac", "No such file")):
        timeline, batches = load_batches(tmp_path / name)
        assert not batches
        assert f"{tmp_path / name}: " in timeline.error
        assert reason in timeline.error


def test_closing_the_batches_ends_the_thread(tmp_path):
    batches = Timeline(str(write_audio(tmp_path / "x.flac", 30)), AUDIO, spec(0.1), CPU).batches(1)
    next(batches)
    batches.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]


def test_memory_does_not_grow_with_the_duration(monkeypatch):
    def ten_hours(*_):
        for _ in range(10 * 3600):
            yield np.zeros(1_000, np.float32)

    monkeypatch.setattr("melgpu.audio.decode.stream_audio", ten_hours)
    timeline = Timeline("x.flac", AudioSpec(sample_rate=1_000, track_s=6.0, min_s=0.0), spec(5.0), CPU)
    tracemalloc.start()
    try:
        count = sum(len(batch.starts) for batch in timeline.batches(4))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert count == 7_201
    assert timeline.num_samples == 36_000_000  # 144 MB
    assert peak < 2e6


def test_without_a_header_a_file_has_the_windows_of_a_track(tmp_path):
    for name in ("absent.mp3", "absent.m4a", "https://x.org/a.ogg"):
        assert expected_windows(name, AUDIO, spec()) == 5


@pytest.mark.gpu
def test_batches_on_a_gpu_equal_those_on_the_cpu(tmp_path):
    wave = np.random.default_rng(0).uniform(-0.5, 0.5, 9 * SAMPLE_RATE).astype(np.float32)
    wave[-1] = np.nan
    soundfile.write(tmp_path / "x.wav", wave, SAMPLE_RATE, subtype="FLOAT")
    _, expected = load_batches(tmp_path / "x.wav")
    timeline = Timeline(str(tmp_path / "x.wav"), AUDIO, spec(), torch.device("cuda"))
    batches = list(timeline.batches(3))
    assert timeline.error
    assert all(torch.equal(a.waves.cpu(), b.waves) for a, b in zip(batches, expected, strict=True))
