import multiprocessing
import os
import shutil
import signal
import time

import numpy as np
import pytest
import torch

from melgpu.audio import worker
from melgpu.audio.decode import conform, decode
from melgpu.audio.pool import WorkerPool
from melgpu.data import pcm_cache as bank_module
from melgpu.data.pcm_cache import DeviceCache, PcmCache
from melgpu.data.windows import WindowIndex
from melgpu.errors import InputError
from tests.helpers import write_audio

RATE, SAMPLES = 8_000, 20_000


@pytest.fixture
def paths(tmp_path) -> list[str]:
    return [str(write_audio(tmp_path / f"{i}.wav", 1 + i % 3, seed=i)) for i in range(5)]


@pytest.fixture
def decoded(monkeypatch) -> list[str]:
    seen, original = [], worker.decode_to_file

    def spy(path, *rest):
        seen.append(path)
        return original(path, *rest)

    monkeypatch.setattr(worker, "decode_to_file", spy)
    return seen


def filled(folder, paths, workers=0) -> PcmCache:
    cache = PcmCache(folder, RATE, SAMPLES)
    with WorkerPool(workers, 60.0) as pool:
        list(cache.fill(paths, pool))
    return cache


def holds(cache: PcmCache, path: str) -> bool:
    return np.array_equal(cache.waves[cache.find(path).slot], conform(decode(path, RATE, SAMPLES / RATE), SAMPLES))


@pytest.mark.parametrize("workers", [0, 2])
def test_holds_every_track_conformed(tmp_path, paths, workers):
    assert PcmCache(tmp_path / "pcm_cache", RATE, SAMPLES).find(paths[0]) is None
    cache = filled(tmp_path / "pcm_cache", paths, workers)
    assert all(holds(cache, path) for path in paths)
    assert PcmCache(tmp_path / "pcm_cache", RATE, SAMPLES + 1).find(paths[0]) is None
    assert PcmCache(tmp_path / "pcm_cache", 2 * RATE, SAMPLES).find(paths[0]) is None


def test_decodes_what_is_missing_or_has_changed_and_nothing_else(tmp_path, paths, decoded):
    filled(tmp_path / "pcm_cache", paths[:3])
    os.utime(paths[1], ns=(1, 1))
    decoded.clear()
    cache = filled(tmp_path / "pcm_cache", paths)
    assert decoded == [paths[1], *paths[3:]]
    assert all(holds(cache, path) for path in paths)


def test_broken_files_get_no_slot_and_are_tried_again(tmp_path, paths, decoded):
    data = write_audio(tmp_path / "whole.flac", 30).read_bytes()
    (tmp_path / "cut.flac").write_bytes(data[: len(data) // 2])
    files = [str(tmp_path / "absent.wav"), paths[0], str(tmp_path / "cut.flac"), paths[1]]
    long = PcmCache(tmp_path / "pcm_cache", RATE, 60 * RATE)
    with WorkerPool(0, 60.0) as pool:
        audio_errors = list(long.fill(files, pool))
        assert [audio_error and audio_error.unusable for audio_error in audio_errors] == [True, None, False, None]
        assert long.find(files[0]) is None
        assert long.find(files[2]).error == audio_errors[2]  # remembered with its samples
        assert sorted(entry.slot for entry in long.entries.values()) == [0, 1, 2]
        decoded.clear()
        assert list(long.fill(files, pool)) == audio_errors
    assert decoded == files[:1]


def test_a_journal_cut_off_anywhere_loses_no_more_than_its_last_track(tmp_path, paths):
    cache = filled(tmp_path / "pcm_cache", paths)
    journal = cache.journal.read_bytes()
    for cut in range(0, len(journal), 29):
        cache.journal.write_bytes(journal[:cut])
        again = filled(tmp_path / "pcm_cache", paths)
        assert all(holds(again, path) for path in paths)


@pytest.mark.parametrize(
    "line",
    [
        "[" * 100_000,
        "[1]",
        '{"key": ["a"], "slot": 0, "flaw": null}',
        '{"key": "a", "slot": -1, "flaw": null}',
        '{"key": "a", "slot": Infinity, "flaw": null}',
        '{"key": "a", "slot": 0, "flaw": {"path": "a", "reason": "b", "salvaged_s": "long"}}',
        '{"key": "a", "slot": 0, "flaw": [1]}',
    ],
    ids=lambda line: line[-40:],
)
def test_lines_of_strangers_are_passed_over(tmp_path, line):
    cache = PcmCache(tmp_path, 8000, 10)
    cache.pcm.write_bytes(bytes(cache.slot_bytes))
    cache.journal.write_text(line)
    assert "a" not in PcmCache(tmp_path, 8000, 10).entries


def test_samples_that_are_not_there_are_not_believed(tmp_path, paths):
    cache = filled(tmp_path / "pcm_cache", paths)
    with open(cache.pcm, "r+b") as file:
        file.truncate(2 * cache.slot_bytes + 7)
    assert sum(PcmCache(tmp_path / "pcm_cache", RATE, SAMPLES).find(path) is not None for path in paths) == 2
    assert all(holds(filled(tmp_path / "pcm_cache", paths), path) for path in paths)


def test_a_deleted_file_does_not_come_true_again_as_it_grows(tmp_path, paths):
    cache = filled(tmp_path / "pcm_cache", paths)
    cache.pcm.unlink()
    again = filled(tmp_path / "pcm_cache", paths[3:])
    assert [path for path in paths if again.find(path)] == paths[3:]
    assert all(holds(again, path) for path in paths[3:])
    assert all(holds(filled(tmp_path / "pcm_cache", paths), path) for path in paths)


def test_a_file_replaced_while_it_is_decoded_is_decoded_again(tmp_path, paths, monkeypatch):
    original = worker.decode_to_file

    def replaced(path, *rest):
        audio_error = original(path, *rest)
        write_audio(tmp_path / "0.wav", 2, seed=99)
        return audio_error

    monkeypatch.setattr(worker, "decode_to_file", replaced)
    filled(tmp_path / "pcm_cache", paths[:1])
    monkeypatch.undo()
    assert holds(filled(tmp_path / "pcm_cache", paths[:1]), paths[0])


def fill_and_tell(folder, paths, connection) -> None:
    cache = PcmCache(folder, RATE, SAMPLES)
    with WorkerPool(1, 60.0) as pool:
        for _ in cache.fill(paths, pool):
            connection.send(1)
    connection.send(sorted(entry.slot for entry in cache.entries.values()))


def test_two_jobs_at_once_decode_each_track_once(tmp_path, paths):
    context, pipes = multiprocessing.get_context("spawn"), []
    for _ in range(2):
        ours, theirs = context.Pipe()
        process = context.Process(target=fill_and_tell, args=(tmp_path / "pcm_cache", paths, theirs))
        process.start()
        pipes.append((ours, process))
    for ours, process in pipes:
        *_, slots = [ours.recv() for _ in range(6)]
        assert slots == list(range(5))  # none twice
        process.join()
    assert all(holds(PcmCache(tmp_path / "pcm_cache", RATE, SAMPLES), path) for path in paths)


def test_a_killed_job_leaves_a_bank_that_the_next_one_completes(tmp_path, monkeypatch):
    files = [str(write_audio(tmp_path / f"long{i}.wav", 3, seed=i)) for i in range(40)]
    context = multiprocessing.get_context("spawn")
    for done in (1, 17, 30):
        shutil.rmtree(tmp_path / "pcm_cache", ignore_errors=True)
        ours, theirs = context.Pipe()
        process = context.Process(target=fill_and_tell, args=(tmp_path / "pcm_cache", files, theirs))
        process.start()
        for _ in range(done):
            ours.recv()
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        time.sleep(0.1)
        kept = PcmCache(tmp_path / "pcm_cache", RATE, SAMPLES)
        assert all(holds(kept, path) for path in files if kept.find(path))
        cache = filled(tmp_path / "pcm_cache", files)
        assert all(holds(cache, path) for path in files)


def test_a_small_disk_is_refused_before_anything_is_decoded(tmp_path, paths, decoded, monkeypatch):
    monkeypatch.setattr(
        bank_module.shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10, 9, 3 * 4 * SAMPLES)
    )
    with pytest.raises(InputError, match=r"the bank needs 0\.0 GB more .*loader\.pcm_cache=off"):
        filled(tmp_path / "pcm_cache", paths)
    assert not decoded
    filled(tmp_path / "pcm_cache", paths[:3])
    assert len(decoded) == 3


def test_a_disk_that_fills_up_ends_the_job_and_keeps_what_was_done(tmp_path, paths, monkeypatch):
    original = worker.decode_to_file

    def full(path, *rest):
        if path == paths[3]:
            raise OSError(28, "No space left on device", path)
        return original(path, *rest)

    monkeypatch.setattr(worker, "decode_to_file", full)
    with pytest.raises(OSError, match="No space left"):
        filled(tmp_path / "pcm_cache", paths)
    kept = PcmCache(tmp_path / "pcm_cache", RATE, SAMPLES)
    assert [path for path in paths if kept.find(path)] == paths[:3]


def test_resident_windows_are_those_of_the_bank():
    waves = np.random.default_rng(0).standard_normal((3, 100)).astype(np.float32)
    resident = DeviceCache(np.array([4, 2, 9]), 100, torch.device("cpu"))
    resident.put(2, waves[1])
    resident.put(9, waves[2])
    part = WindowIndex(np.array([9, 2, 4, 9]), np.array([0, 60, 10, 33]))
    windows, valid = resident.gather(part, 40)
    assert valid.tolist() == [True, True, False, True]
    for window, (wave, start) in zip(windows, [(2, 0), (1, 60), (None, 10), (2, 33)], strict=True):
        np.testing.assert_array_equal(window, 0 if wave is None else waves[wave][start : start + 40])
    assert resident.has(np.array([2, 4]))
    assert not resident.has(np.array([2, 3]))


def test_a_device_too_small_is_refused():
    with pytest.raises(InputError, match=r"--set loader\.pcm_cache=disk"):
        DeviceCache(np.arange(10**7), 10**7, torch.device("cpu"))
