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
from melgpu.data import loader as stream_module
from melgpu.data import windows
from melgpu.data.loader import WindowLoader, check_files
from melgpu.data.pcm_cache import PcmCache
from melgpu.errors import InputError
from melgpu.recipe import AudioSpec, LoaderSpec
from tests.helpers import odd_files, write_audio

AUDIO = AudioSpec(sample_rate=8_000, track_s=6.0)
WINDOW = 16_000
CPU = torch.device("cpu")


def spec(workers=0, pcm_cache="off", ahead=3, **more) -> LoaderSpec:
    settings = {"on_error": "raise", "max_error_fraction": 0.5, "timeout_s": 60.0, **more}
    return LoaderSpec(workers=workers, prefetch_tracks=ahead, predict_batch_size=4, pcm_cache=pcm_cache, **settings)


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
    made = PcmCache(tmp_path_factory.mktemp("pcm_cache"), 8_000, 48_000)
    assert list(check_files(paths, AUDIO, spec(2), made)) == [None] * 9
    return made


def collect(paths, index, settings, cache=None, batch_size=5) -> list:
    with WindowLoader(paths, AUDIO, settings, CPU, cache) as loader:
        return list(loader.batches(index, WINDOW, batch_size))


def same(one: list, other: list) -> bool:
    return len(one) == len(other) and all(
        torch.equal(a.waves, b.waves)
        and torch.equal(a.tracks, b.tracks)
        and torch.equal(a.starts, b.starts)
        and torch.equal(a.valid, b.valid)
        for a, b in zip(one, other, strict=True)
    )


def test_windows_are_cut_from_the_conformed_track(paths, index):
    batches = collect(paths, index, spec())
    assert [len(batch.tracks) for batch in batches] == [5, 5, 5, 5, 5, 2]
    assert torch.cat([b.tracks for b in batches]).tolist() == index.tracks.tolist()
    for batch in batches:
        for wave, track, start in zip(batch.waves, batch.tracks, batch.starts, strict=True):
            whole = conform(decode(Path(paths[track]), 8_000, 6.0), 48_000)
            np.testing.assert_array_equal(wave, whole[start : start + WINDOW])


@pytest.mark.parametrize("workers", [1, 2, 8])
def test_batches_do_not_depend_on_workers(paths, index, workers):
    assert same(collect(paths, index, spec()), collect(paths, index, spec(workers)))


def test_batches_do_not_depend_on_the_bank(paths, index, cache, decoded):
    cold = collect(paths, index, spec())
    decoded.clear()
    assert same(cold, collect(paths, index, spec(pcm_cache="disk"), cache))
    with WindowLoader(paths, AUDIO, spec(pcm_cache="gpu"), CPU, cache) as loader:
        assert len(list(loader.load_to_device(np.arange(9)))) == 9
        assert same(cold, list(loader.batches(index, WINDOW, 5)))
    assert not decoded


def test_what_is_not_resident_comes_from_the_bank(paths, index, cache):
    with WindowLoader(paths, AUDIO, spec(pcm_cache="gpu"), CPU, cache) as loader:
        list(loader.load_to_device(np.arange(8)))
        assert same(collect(paths, index, spec()), list(loader.batches(index, WINDOW, 5)))


@pytest.fixture
def decoded(monkeypatch) -> list[str]:
    seen = []

    def spy(path, *rest):
        seen.append(str(path))
        return original(path, *rest)

    original = worker.decode_to_file
    monkeypatch.setattr(worker, "decode_to_file", spy)
    return seen


def test_each_track_is_decoded_once_and_ahead_only_as_far_as_told(paths, index, decoded, monkeypatch):
    monkeypatch.setattr(stream_module, "BATCHES_AHEAD", 1)
    with WindowLoader(paths, AUDIO, spec(ahead=2), CPU) as loader:
        batches = loader.batches(index, WINDOW, 2)
        next(batches)
        time.sleep(0.3)  # the thread has gone as far as it may
        wanted = len(set(index.tracks[:6].tolist()))  # one batch taken, one made, one in hand
        assert len(decoded) <= 2 + wanted
        assert len(list(batches)) == 13
    assert sorted(decoded) == sorted(paths)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 5), st.integers(1, 4), st.integers(1, 9), st.integers(1, 7), st.integers(0, 26))
def test_any_shuffle_batch_size_and_start_gives_the_windows_asked_for(cache, paths, epoch, ahead, chunk, size, start):
    whole = windows.regular_windows(np.arange(9), np.full(9, 3), np.full(9, 16_000))
    index = windows.shuffle(whole, chunk, 0, epoch)[start:]
    waves = {row: cache.waves[cache.find(path).slot] for row, path in enumerate(paths)}
    found = collect(paths, index, spec(0, "disk", ahead), cache, size)
    assert torch.cat([batch.tracks for batch in found]).tolist() == index.tracks.tolist()
    for batch in found:
        for wave, row, at in zip(batch.waves, batch.tracks.tolist(), batch.starts.tolist(), strict=True):
            assert np.array_equal(wave, waves[row][at : at + WINDOW])


def test_a_resumed_order_decodes_nothing_of_what_it_skips(paths, index, decoded):
    whole = collect(paths, index, spec())
    decoded.clear()
    rest = collect(paths, index[20:], spec())
    assert same(whole[4:], rest)
    assert set(decoded) == {paths[track] for track in index.tracks[20:]}


@pytest.fixture
def mixed(paths, tmp_path) -> list[str]:
    """The first file gives nothing, the second one its beginning."""
    (tmp_path / "broken.mp3").write_text("no music")
    data = write_audio(tmp_path / "whole.flac", 30).read_bytes()
    (tmp_path / "cut.flac").write_bytes(data[: len(data) // 5])
    return [str(tmp_path / "broken.mp3"), str(tmp_path / "cut.flac"), *paths[2:]]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_file_is_named(mixed, index, workers):
    with pytest.raises(DecodeError, match=r"broken\.mp3: not readable as audio|cut\.flac: broken after"):
        collect(mixed, index, spec(workers))


@pytest.mark.parametrize("workers", [0, 2])
def test_in_quarantine_a_broken_file_is_silent_and_its_good_beginning_a_track(paths, mixed, index, workers, tmp_path):
    well, quarantining = collect(paths, index, spec()), spec(workers, on_error="quarantine")
    beginning = conform(worker.read_audio(mixed[1], 8_000, 6.0).wave, 48_000)
    with WindowLoader(mixed, AUDIO, quarantining, CPU) as loader:
        found = list(loader.batches(index, WINDOW, 5))
    assert {path: audio_error.unusable for path, audio_error in loader.errors.items()} == {
        mixed[0]: True,
        mixed[1]: False,
    }
    for batch, good in zip(found, well, strict=True):
        assert torch.equal(batch.valid, batch.tracks != 0)
        assert not batch.waves[batch.tracks == 0].any()
        assert torch.equal(batch.waves[batch.tracks > 1], good.waves[good.tracks > 1])
        for wave, start in zip(batch.waves[batch.tracks == 1], batch.starts[batch.tracks == 1], strict=True):
            np.testing.assert_array_equal(wave, beginning[start : start + WINDOW])
    kept = PcmCache(tmp_path / "pcm_cache", 8_000, 48_000)
    assert [audio_error and audio_error.unusable for audio_error in check_files(mixed, AUDIO, quarantining, kept)] == [
        True,
        False,
    ] + [None] * 7
    with WindowLoader(mixed, AUDIO, spec(pcm_cache="gpu", on_error="quarantine"), CPU, kept) as loader:
        assert same(found, list(loader.batches(index, WINDOW, 5)))
        list(loader.load_to_device(np.arange(9)))
        assert same(found, list(loader.batches(index, WINDOW, 5)))
        assert set(loader.errors) == set(mixed[:2])


def test_good_files_come_through_beside_every_odd_one(paths, tmp_path):
    expected = odd_files.write(tmp_path)
    odd = [str(tmp_path / name) for name in sorted(expected)]
    mixed = [path for pair in zip(odd, itertools.cycle(paths), strict=False) for path in pair]
    whole = windows.regular_windows(np.arange(len(mixed)), np.full(len(mixed), 3), np.full(len(mixed), 16_000))
    index = windows.shuffle(whole, 8, seed=0, epoch=0)
    guarded = spec(2, on_error="quarantine", max_error_fraction=1.0)
    with WindowLoader(mixed, AUDIO, guarded, CPU) as loader:
        found = list(loader.batches(index, WINDOW, 8))
    good = {path: conform(decode(path, 8_000, 6.0), 48_000) for path in paths}
    for batch in found:
        for wave, row, start, valid in zip(batch.waves, batch.tracks, batch.starts, batch.valid, strict=True):
            if mixed[row] in good:
                assert np.array_equal(wave, good[mixed[row]][start : start + WINDOW])
            assert valid == (not isinstance(expected.get(Path(mixed[row]).name), str))
    assert {Path(path).name for path in loader.errors} == {
        name for name, outcome in expected.items() if not isinstance(outcome, float)
    } - {"cut.flac", "garbage.flac", "garbage.mp3"}  # their first 6 s are well


def test_a_file_that_is_well_again_is_no_longer_broken(paths, index, tmp_path):
    names = [str(tmp_path / "0.wav"), *paths[1:]]
    (tmp_path / "0.wav").write_text("no music")
    with WindowLoader(names, AUDIO, spec(on_error="quarantine"), CPU) as loader:
        list(loader.batches(index, WINDOW, 5))
        assert list(loader.errors) == names[:1]
        shutil.copy(paths[0], names[0])
        found = list(loader.batches(index, WINDOW, 5))
        assert not loader.errors
    assert same(found, collect(paths, index, spec()))


def test_a_file_touched_during_an_epoch_comes_from_the_bank_to_its_end(paths, index, tmp_path):
    names = [shutil.copy(path, tmp_path) for path in paths]
    kept = PcmCache(tmp_path / "pcm_cache", 8_000, 48_000)
    list(check_files(names, AUDIO, spec(), kept))
    with WindowLoader(names, AUDIO, spec(pcm_cache="disk"), CPU, kept) as loader:
        batches = loader.batches(index, WINDOW, 2)
        found = [next(batches)]
        for name in names:
            os.utime(name, (1, 1))
        found += list(batches)
        assert same(found, collect(paths, index, spec(), batch_size=2))
        assert kept.find(names[0]) is None
        assert same(found, list(loader.batches(index, WINDOW, 2)))  # decoded


def test_all_processes_have_tracks_to_decode():
    assert stream_module.num_prefetched_tracks(spec(workers=2, ahead=1)) == 2 * min(2, os.cpu_count())
    assert stream_module.num_prefetched_tracks(spec(workers=0, ahead=3)) == 3


def test_too_many_broken_files_stop_the_stream(mixed, index):
    with pytest.raises(InputError, match="2 of 9 files are broken, more than"):
        collect(mixed, index, spec(on_error="quarantine", max_error_fraction=0.2))


def test_a_decoder_that_hangs_or_crashes_costs_its_file_alone(paths, index, monkeypatch):
    harmless = spec(1, on_error="quarantine", timeout_s=2.0)
    with WindowLoader(paths, AUDIO, harmless, CPU) as loader:
        original = loader._pool.submit

        def submit(function, path, *rest):
            if path == paths[3]:
                return original(time.sleep, 60)
            return original(os.abort) if path == paths[5] else original(function, path, *rest)

        monkeypatch.setattr(loader._pool, "submit", submit)
        found = list(loader.batches(index, WINDOW, 5))
    assert set(loader.errors) == {paths[3], paths[5]}
    for batch, good in zip(found, collect(paths, index, spec()), strict=True):
        unusable = (batch.tracks == 3) | (batch.tracks == 5)
        assert torch.equal(batch.valid, ~unusable)
        assert torch.equal(batch.waves[~unusable], good.waves[~unusable])


@pytest.mark.parametrize("workers", [0, 2])
def test_files_are_examined_in_the_order_given(mixed, workers):
    audio_errors = list(check_files(mixed, AUDIO, spec(workers), None))
    assert [audio_error and Path(audio_error.path).name for audio_error in audio_errors] == [
        "broken.mp3",
        "cut.flac",
    ] + [None] * 7


def test_an_abandoned_stream_ends(paths, index):
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
    whole = windows.regular_windows(np.arange(9), np.full(9, 3), np.full(9, 16_000))
    page = os.sysconf("SC_PAGE_SIZE")
    taken = []
    with WindowLoader(paths, AUDIO, spec(2), CPU) as loader:
        for epoch in range(10):
            for _ in loader.batches(windows.shuffle(whole, 4, 0, epoch), WINDOW, 5):
                pass
            taken.append(int(Path("/proc/self/statm").read_text().split()[1]) * page)
    assert taken[-1] - taken[1] < 5e6  # the memory of eight more epochs is 10 MB


@pytest.mark.gpu
def test_batches_on_a_gpu_are_those_of_the_cpu(paths, index, cache):
    expected = collect(paths, index, spec())
    for wanted, own in ((spec(2), None), (spec(pcm_cache="gpu"), cache)):
        with WindowLoader(paths, AUDIO, wanted, torch.device("cuda"), own) as loader:
            if own:
                list(loader.load_to_device(np.arange(9)))
            found = list(loader.batches(index, WINDOW, 5))
        assert all(torch.equal(a.waves.cpu(), b.waves) for a, b in zip(found, expected, strict=True))
