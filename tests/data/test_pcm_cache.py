import multiprocessing
import os
import shutil
import signal
import time

import numpy as np
import pytest

from melgpu.audio import worker
from melgpu.audio.decode import conform, decode
from melgpu.audio.pool import WorkerLostError, WorkerPool
from melgpu.data import pcm_cache as pcm_cache_module
from melgpu.data.pcm_cache import PcmCache, lack_of_room, open_cache
from melgpu.errors import InputError
from melgpu.recipe import load_recipe
from melgpu.recipe_schema import AudioSpec
from tests.helpers import write_audio

RATE, SAMPLES = 8_000, 20_000


@pytest.fixture
def paths(tmp_path) -> list[str]:
    return [str(write_audio(tmp_path / f"{i}.wav", 1 + i % 3, seed=i)) for i in range(5)]


@pytest.fixture
def decoded(monkeypatch) -> list[str]:
    paths, original = [], worker.check_to_file

    def spy(path, *arguments):
        paths.append(path)
        return original(path, *arguments)

    monkeypatch.setattr(worker, "check_to_file", spy)
    return paths


def filled(folder, paths, workers=0) -> PcmCache:
    cache = PcmCache(folder, RATE, SAMPLES)
    with WorkerPool(workers, 60.0) as pool:
        list(cache.fill(paths, pool))
    return cache


def holds(cache: PcmCache, path: str) -> bool:
    return np.array_equal(cache.find(path).wave, conform(decode(path, RATE, SAMPLES / RATE), SAMPLES))


@pytest.mark.parametrize("workers", [0, 2])
def test_the_cache_holds_every_track_conformed(tmp_path, paths, workers):
    assert PcmCache(tmp_path / "pcm_cache", RATE, SAMPLES).find(paths[0]) is None
    cache = filled(tmp_path / "pcm_cache", paths, workers)
    assert all(holds(cache, path) for path in paths)
    assert PcmCache(tmp_path / "pcm_cache", RATE, SAMPLES + 1).find(paths[0]) is None
    assert PcmCache(tmp_path / "pcm_cache", 2 * RATE, SAMPLES).find(paths[0]) is None


def test_only_missing_and_changed_files_are_decoded(tmp_path, paths, decoded):
    filled(tmp_path / "pcm_cache", paths[:3])
    os.utime(paths[1], ns=(1, 1))
    decoded.clear()
    cache = filled(tmp_path / "pcm_cache", paths)
    assert decoded == [paths[1], *paths[3:]]
    assert all(holds(cache, path) for path in paths)


def test_unusable_files_get_no_slot_and_are_decoded_again(tmp_path, paths, decoded):
    data = write_audio(tmp_path / "whole.flac", 30).read_bytes()
    (tmp_path / "cut.flac").write_bytes(data[: len(data) // 2])
    files = [str(tmp_path / "absent.wav"), paths[0], str(tmp_path / "cut.flac"), paths[1]]
    cache = PcmCache(tmp_path / "pcm_cache", RATE, 60 * RATE)
    with WorkerPool(0, 60.0) as pool:
        audio_errors = [file.error for file in cache.fill(files, pool)]
        assert [audio_error and audio_error.unusable for audio_error in audio_errors] == [True, None, False, None]
        assert cache.find(files[0]) is None
        assert cache.find(files[2]).error == audio_errors[2]  # saved with its samples
        assert sorted(entry.slot for entry in cache.entries.values()) == [1, 2, 3]  # a hole for the first file
        decoded.clear()
        assert [file.error for file in cache.fill(files, pool)] == audio_errors
    assert decoded == files[:1]


@pytest.mark.parametrize("workers", [0, 2])
def test_tracks_in_the_cache_have_the_fingerprints_that_they_had(tmp_path, workers):
    files = [str(write_audio(tmp_path / f"{i}.wav", 4 + i, 11_025, seed=i)) for i in range(3)]
    expected = [worker.check_file(path, 11_025, 6 * 11_025).fingerprint for path in files]
    assert all(fingerprint.any() for fingerprint in expected)
    cache = PcmCache(tmp_path / "pcm_cache", 11_025, 6 * 11_025)
    with WorkerPool(workers, 60.0) as pool:
        for paths in (files[:2], files, [*files, files[0]]):
            checked = list(cache.fill(paths, pool))
            for file, fingerprint in zip(checked, [*expected, expected[0]], strict=False):
                np.testing.assert_array_equal(file.fingerprint, fingerprint)
            assert len(checked) == len(paths)


def test_a_track_in_the_cache_is_usable_if_its_worker_is_lost(tmp_path, paths, monkeypatch):
    def crash(*arguments):
        raise WorkerLostError("its decoder crashed (SIGSEGV)")

    filled(tmp_path / "pcm_cache", paths[:1])
    monkeypatch.setattr(worker, "check_written", crash)
    with WorkerPool(0, 60.0) as pool:
        assert [file.error for file in PcmCache(tmp_path / "pcm_cache", RATE, SAMPLES).fill(paths, pool)] == [None] * 5


def test_a_truncated_index_loses_no_more_than_its_last_track(tmp_path, paths):
    cache = filled(tmp_path / "pcm_cache", paths)
    content = cache.index_path.read_bytes()
    for size in range(0, len(content), 29):
        cache.index_path.write_bytes(content[:size])
        refilled = filled(tmp_path / "pcm_cache", paths)
        assert all(holds(refilled, path) for path in paths)


@pytest.mark.parametrize(
    "line",
    [
        "[" * 100_000,
        "[1]",
        '{"key": ["a"], "slot": 0, "error": null}',
        '{"key": "a", "slot": -1, "error": null}',
        '{"key": "a", "slot": Infinity, "error": null}',
        '{"key": "a", "slot": 0, "error": {"path": "a", "reason": "b", "usable_s": "long"}}',
        '{"key": "a", "slot": 0, "error": [1]}',
    ],
    ids=lambda line: line[-40:],
)
def test_malformed_index_lines_are_skipped(tmp_path, line):
    cache = PcmCache(tmp_path, 8000, 10)
    cache.pcm_path.write_bytes(bytes(cache.slot_bytes))
    cache.index_path.write_text(line)
    assert "a" not in PcmCache(tmp_path, 8000, 10).entries


def test_entries_beyond_the_end_of_the_file_are_ignored(tmp_path, paths):
    cache = filled(tmp_path / "pcm_cache", paths)
    with open(cache.pcm_path, "r+b") as file:
        file.truncate(2 * cache.slot_bytes + 7)
    assert sum(PcmCache(tmp_path / "pcm_cache", RATE, SAMPLES).find(path) is not None for path in paths) == 2
    assert all(holds(filled(tmp_path / "pcm_cache", paths), path) for path in paths)


def test_entries_of_a_deleted_file_stay_invalid_as_it_grows_again(tmp_path, paths):
    cache = filled(tmp_path / "pcm_cache", paths)
    cache.pcm_path.unlink()
    refilled = filled(tmp_path / "pcm_cache", paths[3:])
    assert [path for path in paths if refilled.find(path)] == paths[3:]
    assert all(holds(refilled, path) for path in paths[3:])
    assert all(holds(filled(tmp_path / "pcm_cache", paths), path) for path in paths)


def test_a_file_replaced_while_it_is_decoded_is_decoded_again(tmp_path, paths, monkeypatch):
    original = worker.check_to_file

    def decode_and_replace(path, *arguments):
        checked = original(path, *arguments)
        write_audio(tmp_path / "0.wav", 2, seed=99)
        return checked

    monkeypatch.setattr(worker, "check_to_file", decode_and_replace)
    filled(tmp_path / "pcm_cache", paths[:1])
    monkeypatch.undo()
    assert holds(filled(tmp_path / "pcm_cache", paths[:1]), paths[0])


def fill_and_report(folder, paths, connection) -> None:
    cache = PcmCache(folder, RATE, SAMPLES)
    with WorkerPool(1, 60.0) as pool:
        for _ in cache.fill(paths, pool):
            connection.send(1)
    connection.send(sorted(entry.slot for entry in cache.entries.values()))


def test_two_concurrent_jobs_decode_each_track_once(tmp_path, paths):
    context, pipes = multiprocessing.get_context("spawn"), []
    for _ in range(2):
        receiver, sender = context.Pipe()
        process = context.Process(target=fill_and_report, args=(tmp_path / "pcm_cache", paths, sender))
        process.start()
        pipes.append((receiver, process))
    for receiver, process in pipes:
        *_, slots = [receiver.recv() for _ in range(6)]
        assert slots == list(range(5))  # no track twice
        process.join()
    assert all(holds(PcmCache(tmp_path / "pcm_cache", RATE, SAMPLES), path) for path in paths)


def test_the_cache_of_a_killed_job_is_completed_by_the_next_one(tmp_path, monkeypatch):
    files = [str(write_audio(tmp_path / f"long{i}.wav", 3, seed=i)) for i in range(40)]
    context = multiprocessing.get_context("spawn")
    for num_decoded in (1, 17, 30):
        shutil.rmtree(tmp_path / "pcm_cache", ignore_errors=True)
        receiver, sender = context.Pipe()
        process = context.Process(target=fill_and_report, args=(tmp_path / "pcm_cache", files, sender))
        process.start()
        for _ in range(num_decoded):
            receiver.recv()
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        time.sleep(0.1)
        partial = PcmCache(tmp_path / "pcm_cache", RATE, SAMPLES)
        assert all(holds(partial, path) for path in files if partial.find(path))
        cache = filled(tmp_path / "pcm_cache", files)
        assert all(holds(cache, path) for path in files)


def test_too_little_disk_space_is_an_error_before_anything_is_decoded(tmp_path, paths, decoded, monkeypatch):
    monkeypatch.setattr(
        pcm_cache_module.shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10, 9, 3 * 4 * SAMPLES)
    )
    with pytest.raises(InputError, match=r"needs 1 MB more and the disk has 0 MB left.*loader\.pcm_cache=off"):
        filled(tmp_path / "pcm_cache", paths)
    assert not decoded
    filled(tmp_path / "pcm_cache", paths[:3])
    assert len(decoded) == 3


def test_a_disk_that_fills_up_ends_the_job_and_decoded_tracks_stay(tmp_path, paths, monkeypatch):
    original = worker.check_to_file

    def fail_on_full_disk(path, *arguments):
        if path == paths[3]:
            raise OSError(28, "No space left on device", path)
        return original(path, *arguments)

    monkeypatch.setattr(worker, "check_to_file", fail_on_full_disk)
    with pytest.raises(OSError, match="No space left"):
        filled(tmp_path / "pcm_cache", paths)
    partial = PcmCache(tmp_path / "pcm_cache", RATE, SAMPLES)
    assert [path for path in paths if partial.find(path)] == paths[:3]


@pytest.mark.parametrize(
    ("free", "memory", "lacking"),
    [
        (15 * 4 * SAMPLES, 10**12, None),
        (15 * 4 * SAMPLES - 1, 10**12, "the disk has"),
        (10**12, 10 * 4 * SAMPLES, "would not stay in the memory"),
        (10**12, 17 * 4 * SAMPLES, None),
    ],
)
def test_auto_is_a_cache_where_disk_and_memory_have_room(tmp_path, monkeypatch, free, memory, lacking):
    monkeypatch.setattr(pcm_cache_module.shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10**12, 0, free))
    monkeypatch.setattr(pcm_cache_module, "memory_bytes", lambda: memory)
    spec = load_recipe([]).loader
    cache = open_cache(tmp_path / "pcm_cache", AudioSpec(sample_rate=RATE, track_s=SAMPLES / RATE, min_s=0.5), spec, 10)
    assert (cache is None) == bool(lacking)
    reason = lack_of_room(PcmCache(tmp_path / "pcm_cache", RATE, SAMPLES), 10)
    assert reason is None if lacking is None else lacking in reason


def test_auto_uses_a_cache_that_is_there(tmp_path, paths, monkeypatch):
    filled(tmp_path / "pcm_cache", paths[:1])
    monkeypatch.setattr(pcm_cache_module, "memory_bytes", lambda: 0)
    audio = AudioSpec(sample_rate=RATE, track_s=SAMPLES / RATE, min_s=0.5)
    assert open_cache(tmp_path / "pcm_cache", audio, load_recipe([]).loader, 10) is not None
