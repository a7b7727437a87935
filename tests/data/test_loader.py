import gc
import itertools
import os
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from melgpu.audio import worker
from melgpu.audio.decode import DecodeError, conform, decode
from melgpu.audio.quarantine import AudioError
from melgpu.data import loader as loader_module
from melgpu.data import windows
from melgpu.data.loader import WindowLoader, check_files
from melgpu.data.pcm_cache import PcmCache, open_cache
from melgpu.errors import InputError
from melgpu.machine import num_usable_cores
from melgpu.recipe_schema import AudioSpec, LoaderSpec
from tests.helpers import malformed_files, write_audio

AUDIO = AudioSpec(sample_rate=8_000, track_s=6.0, min_s=0.0)
WINDOW = 16_000
CPU = torch.device("cpu")


def spec(workers=0, pcm_cache="off", prefetch_tracks=3, **changes) -> LoaderSpec:
    changes = {"on_error": "raise", "max_error_fraction": 0.5, "timeout_s": 60.0, **changes}
    return LoaderSpec(
        workers=workers, prefetch_tracks=prefetch_tracks, predict_batch_size=4, pcm_cache=pcm_cache, **changes
    )


@pytest.fixture(scope="module")
def paths(tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("audio")
    suffixes = (".wav", ".flac", ".ogg", ".mp3")
    return [str(write_audio(folder / f"{i}{suffixes[i % 4]}", 1.5 + i, 22_050, 1 + i % 2, seed=i)) for i in range(9)]


@pytest.fixture(scope="module")
def index() -> windows.WindowIndex:
    return windows.shuffle(windows.regular_windows(np.arange(9), np.full(9, 3), np.full(9, 16_000)), 4, seed=1, epoch=2)


@pytest.fixture(scope="module")
def cache(paths, tmp_path_factory) -> PcmCache:
    cache = PcmCache(tmp_path_factory.mktemp("pcm_cache"), 8_000, 48_000)
    assert [file.error for file in check_files(paths, AUDIO, spec(2), cache)] == [None] * 9
    return cache


def load_batches(paths, index, loader_spec, cache=None, batch_size=5) -> list:
    with WindowLoader(paths, AUDIO, loader_spec, CPU, cache) as loader:
        return list(loader.batches(index, WINDOW, batch_size))


def are_equal(batches: list, expected: list) -> bool:
    return len(batches) == len(expected) and all(
        torch.equal(a.waves, b.waves)
        and torch.equal(a.tracks, b.tracks)
        and torch.equal(a.starts, b.starts)
        and torch.equal(a.valid, b.valid)
        for a, b in zip(batches, expected, strict=True)
    )


def test_windows_are_cut_from_the_conformed_track(paths, index):
    batches = load_batches(paths, index, spec())
    assert [len(batch.tracks) for batch in batches] == [5, 5, 5, 5, 5, 2]
    assert torch.cat([b.tracks for b in batches]).tolist() == index.tracks.tolist()
    for batch in batches:
        for wave, track, start in zip(batch.waves, batch.tracks, batch.starts, strict=True):
            expected = conform(decode(Path(paths[track]), 8_000, 6.0), 48_000)
            np.testing.assert_array_equal(wave, expected[start : start + WINDOW])


@pytest.mark.parametrize("workers", [1, 2, 8])
def test_batches_do_not_depend_on_workers(paths, index, workers):
    assert are_equal(load_batches(paths, index, spec()), load_batches(paths, index, spec(workers)))


def test_batches_do_not_depend_on_the_pcm_cache(paths, index, cache, decoded):
    uncached = load_batches(paths, index, spec())
    decoded.clear()
    assert are_equal(uncached, load_batches(paths, index, spec(pcm_cache="disk"), cache))
    with WindowLoader(paths, AUDIO, spec(pcm_cache="gpu"), CPU, cache) as loader:
        assert len(list(loader.load_to_device(np.arange(9)))) == 9
        assert are_equal(uncached, list(loader.batches(index, WINDOW, 5)))
    assert not decoded


def test_tracks_outside_the_device_cache_come_from_the_pcm_cache(paths, index, cache):
    with WindowLoader(paths, AUDIO, spec(pcm_cache="gpu"), CPU, cache) as loader:
        list(loader.load_to_device(np.arange(8)))
        assert are_equal(load_batches(paths, index, spec()), list(loader.batches(index, WINDOW, 5)))


@pytest.fixture
def decoded(monkeypatch) -> list[str]:
    paths = []

    def spy(path, *arguments):
        paths.append(str(path))
        return original(path, *arguments)

    original = worker.decode_to_file
    monkeypatch.setattr(worker, "decode_to_file", spy)
    return paths


def test_each_track_is_decoded_once_and_at_most_prefetch_tracks_ahead(paths, index, decoded, monkeypatch):
    monkeypatch.setattr(loader_module, "PREFETCH_BATCHES", 1)
    with WindowLoader(paths, AUDIO, spec(prefetch_tracks=2), CPU) as loader:
        batches = loader.batches(index, WINDOW, 2)
        next(batches)
        time.sleep(0.3)  # the thread runs ahead as far as it can
        # of three batches: one consumed, one that waits, one that is being made
        num_needed = len(set(index.tracks[:6].tolist()))
        assert len(decoded) <= 2 + num_needed
        assert len(list(batches)) == 13
    assert sorted(decoded) == sorted(paths)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 5), st.integers(1, 4), st.integers(1, 9), st.integers(1, 7), st.integers(0, 26))
def test_batches_hold_the_indexed_windows_for_any_shuffle_batch_size_and_resume(
    cache, paths, epoch, prefetch_tracks, shuffle_tracks, batch_size, first_window
):
    all_windows = windows.regular_windows(np.arange(9), np.full(9, 3), np.full(9, 16_000))
    index = windows.shuffle(all_windows, shuffle_tracks, 0, epoch)[first_window:]
    waves = {row: cache.find(path).wave for row, path in enumerate(paths)}
    batches = load_batches(paths, index, spec(0, "disk", prefetch_tracks), cache, batch_size)
    assert torch.cat([batch.tracks for batch in batches]).tolist() == index.tracks.tolist()
    for batch in batches:
        for wave, row, start in zip(batch.waves, batch.tracks.tolist(), batch.starts.tolist(), strict=True):
            assert np.array_equal(wave, waves[row][start : start + WINDOW])


def test_a_resumed_index_decodes_no_skipped_tracks(paths, index, decoded):
    batches = load_batches(paths, index, spec())
    decoded.clear()
    resumed = load_batches(paths, index[20:], spec())
    assert are_equal(resumed, batches[4:])
    assert set(decoded) == {paths[track] for track in index.tracks[20:]}


@pytest.fixture
def mixed(paths, tmp_path) -> list[str]:
    """The first file is unusable, only the beginning of the second one is usable."""
    (tmp_path / "broken.mp3").write_text("no music")
    data = write_audio(tmp_path / "whole.flac", 30).read_bytes()
    (tmp_path / "cut.flac").write_bytes(data[: len(data) // 5])
    return [str(tmp_path / "broken.mp3"), str(tmp_path / "cut.flac"), *paths[2:]]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_file_with_an_error_raises(mixed, index, workers):
    with pytest.raises(DecodeError, match=r"broken\.mp3: not readable as audio|cut\.flac: its header claims"):
        load_batches(mixed, index, spec(workers))


@pytest.mark.parametrize("workers", [0, 2])
def test_in_quarantine_unusable_files_are_zeros_and_usable_beginnings_are_tracks(
    paths, mixed, index, workers, tmp_path
):
    expected, quarantine_spec = load_batches(paths, index, spec()), spec(workers, on_error="quarantine")
    beginning = conform(worker.read_audio(mixed[1], 8_000, 6.0).wave, 48_000)
    with WindowLoader(mixed, AUDIO, quarantine_spec, CPU) as loader:
        batches = list(loader.batches(index, WINDOW, 5))
    assert {path: audio_error.unusable for path, audio_error in loader.errors.items()} == {
        mixed[0]: True,
        mixed[1]: False,
    }
    for batch, good in zip(batches, expected, strict=True):
        assert torch.equal(batch.valid, batch.tracks != 0)
        assert not batch.waves[batch.tracks == 0].any()
        assert torch.equal(batch.waves[batch.tracks > 1], good.waves[good.tracks > 1])
        for wave, start in zip(batch.waves[batch.tracks == 1], batch.starts[batch.tracks == 1], strict=True):
            np.testing.assert_array_equal(wave, beginning[start : start + WINDOW])
    pcm_cache = PcmCache(tmp_path / "pcm_cache", 8_000, 48_000)
    audio_errors = [file.error for file in check_files(mixed, AUDIO, quarantine_spec, pcm_cache)]
    assert [audio_error and audio_error.unusable for audio_error in audio_errors] == [True, False, *[None] * 7]
    with WindowLoader(mixed, AUDIO, spec(pcm_cache="gpu", on_error="quarantine"), CPU, pcm_cache) as loader:
        assert are_equal(batches, list(loader.batches(index, WINDOW, 5)))
        list(loader.load_to_device(np.arange(9)))
        assert are_equal(batches, list(loader.batches(index, WINDOW, 5)))
        assert set(loader.errors) == set(mixed[:2])


@pytest.mark.parametrize("cached", [False, True])
def test_a_file_below_the_least_length_has_an_error(paths, tmp_path, cached):
    short = str(write_audio(tmp_path / "short.ogg", 0.3))
    audio = AudioSpec(sample_rate=8_000, track_s=6.0, min_s=0.5)
    cache = open_cache(tmp_path, audio, spec(pcm_cache="disk"), 1) if cached else None
    audio_errors = [file.error for file in check_files([paths[0], short], audio, spec(), cache)]
    assert audio_errors == [None, AudioError(short, "only 0.300 s of audio", 0.0)]
    with WindowLoader([paths[0], short], audio, spec(), CPU, cache) as loader:
        index = windows.regular_windows(np.arange(2), np.full(2, 1), np.full(2, 16_000))
        with pytest.raises(DecodeError, match=r"short\.ogg: only 0\.300 s of audio"):
            list(loader.batches(index, WINDOW, 2))


def test_good_files_are_unaffected_by_malformed_ones(paths, tmp_path):
    expected = malformed_files.write_malformed_files(tmp_path)
    malformed = [str(tmp_path / name) for name in sorted(expected)]
    mixed = [path for pair in zip(malformed, itertools.cycle(paths), strict=False) for path in pair]
    all_windows = windows.regular_windows(np.arange(len(mixed)), np.full(len(mixed), 3), np.full(len(mixed), 16_000))
    index = windows.shuffle(all_windows, 8, seed=0, epoch=0)
    quarantine_spec = spec(2, on_error="quarantine", max_error_fraction=1.0)
    with WindowLoader(mixed, AUDIO, quarantine_spec, CPU) as loader:
        batches = list(loader.batches(index, WINDOW, 8))
    good = {path: conform(decode(path, 8_000, 6.0), 48_000) for path in paths}
    for batch in batches:
        for wave, row, start, valid in zip(batch.waves, batch.tracks, batch.starts, batch.valid, strict=True):
            if mixed[row] in good:
                assert np.array_equal(wave, good[mixed[row]][start : start + WINDOW])
            assert valid == (not isinstance(expected.get(Path(mixed[row]).name), str))
    assert {Path(path).name for path in loader.errors} == {
        name for name, outcome in expected.items() if not isinstance(outcome, float)
    } - {"cut.flac", "cut.mp3", "garbage.flac", "garbage.mp3"}  # their first 6 s have no error


def test_the_error_of_a_replaced_file_is_removed(paths, index, tmp_path):
    names = [str(tmp_path / "0.wav"), *paths[1:]]
    (tmp_path / "0.wav").write_text("no music")
    with WindowLoader(names, AUDIO, spec(on_error="quarantine"), CPU) as loader:
        list(loader.batches(index, WINDOW, 5))
        assert list(loader.errors) == names[:1]
        shutil.copy(paths[0], names[0])
        batches = list(loader.batches(index, WINDOW, 5))
        assert not loader.errors
    assert are_equal(batches, load_batches(paths, index, spec()))


def test_a_file_touched_during_an_epoch_comes_from_the_pcm_cache_until_the_end(paths, index, tmp_path):
    names = [shutil.copy(path, tmp_path) for path in paths]
    pcm_cache = PcmCache(tmp_path / "pcm_cache", 8_000, 48_000)
    list(check_files(names, AUDIO, spec(), pcm_cache))
    with WindowLoader(names, AUDIO, spec(pcm_cache="disk"), CPU, pcm_cache) as loader:
        iterator = loader.batches(index, WINDOW, 2)
        batches = [next(iterator)]
        for name in names:
            os.utime(name, (1, 1))
        batches += list(iterator)
        assert are_equal(batches, load_batches(paths, index, spec(), batch_size=2))
        assert pcm_cache.find(names[0]) is None
        assert are_equal(batches, list(loader.batches(index, WINDOW, 2)))  # decoded


def test_enough_tracks_are_prefetched_for_all_processes():
    assert loader_module.num_prefetched_tracks(spec(workers=2, prefetch_tracks=1)) == 2 * min(2, num_usable_cores())
    assert loader_module.num_prefetched_tracks(spec(workers=0, prefetch_tracks=3)) == 3


def test_too_many_files_with_errors_stop_the_loader(mixed, index):
    with pytest.raises(InputError, match="2 of 9 files have errors, more than"):
        load_batches(mixed, index, spec(on_error="quarantine", max_error_fraction=0.2))


def test_a_decoder_that_hangs_or_crashes_affects_only_its_file(paths, index, monkeypatch):
    quarantine_spec = spec(1, on_error="quarantine", timeout_s=2.0)
    with WindowLoader(paths, AUDIO, quarantine_spec, CPU) as loader:
        original = loader._pool.submit

        def submit(function, path, *arguments):
            if path == paths[3]:
                return original(time.sleep, 60)
            return original(os.abort) if path == paths[5] else original(function, path, *arguments)

        monkeypatch.setattr(loader._pool, "submit", submit)
        batches = list(loader.batches(index, WINDOW, 5))
    assert set(loader.errors) == {paths[3], paths[5]}
    for batch, good in zip(batches, load_batches(paths, index, spec()), strict=True):
        unusable = (batch.tracks == 3) | (batch.tracks == 5)
        assert torch.equal(batch.valid, ~unusable)
        assert torch.equal(batch.waves[~unusable], good.waves[~unusable])


@pytest.mark.parametrize("workers", [0, 2])
def test_files_are_checked_in_the_order_given(mixed, workers):
    audio_errors = [file.error for file in check_files(mixed, AUDIO, spec(workers), None)]
    assert [audio_error and Path(audio_error.path).name for audio_error in audio_errors] == [
        "broken.mp3",
        "cut.flac",
    ] + [None] * 7


def test_closing_the_batches_ends_threads_and_closes_files(paths, index):
    gc.collect()
    before = threading.active_count()
    open_files = len(os.listdir("/proc/self/fd"))
    with WindowLoader(paths, AUDIO, spec(2), CPU) as loader:
        batches = loader.batches(index, WINDOW, 2)
        next(batches)
        batches.close()
    assert threading.active_count() == before
    assert len(os.listdir("/proc/self/fd")) <= open_files


def test_ten_epochs_take_no_more_memory_than_two(paths):
    all_windows = windows.regular_windows(np.arange(9), np.full(9, 3), np.full(9, 16_000))
    page_bytes = os.sysconf("SC_PAGE_SIZE")
    resident_bytes = []
    with WindowLoader(paths, AUDIO, spec(2), CPU) as loader:
        for epoch in range(10):
            for _ in loader.batches(windows.shuffle(all_windows, 4, 0, epoch), WINDOW, 5):
                pass
            resident_bytes.append(int(Path("/proc/self/statm").read_text().split()[1]) * page_bytes)
    assert resident_bytes[-1] - resident_bytes[1] < 5e6  # eight more epochs are 10 MB of samples


@pytest.mark.gpu
def test_batches_on_a_gpu_are_those_of_the_cpu(paths, index, cache):
    expected = load_batches(paths, index, spec())
    for loader_spec, pcm_cache in ((spec(2), None), (spec(pcm_cache="gpu"), cache)):
        with WindowLoader(paths, AUDIO, loader_spec, torch.device("cuda"), pcm_cache) as loader:
            if pcm_cache:
                list(loader.load_to_device(np.arange(9)))
            batches = list(loader.batches(index, WINDOW, 5))
        assert all(torch.equal(a.waves.cpu(), b.waves) for a, b in zip(batches, expected, strict=True))
