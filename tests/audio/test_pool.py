import os
import signal
import tempfile
import time

import numpy as np
import pytest

from melgpu.audio import pool as pool_module
from melgpu.audio import worker
from melgpu.audio.pool import WorkerLostError, WorkerPool, num_processes
from tests.helpers import write_audio


@pytest.fixture
def pool():
    with WorkerPool(1, timeout_s=2.0) as worker_pool:
        yield worker_pool


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_results_and_errors_are_returned(workers, tmp_path):
    path = str(write_audio(tmp_path / "x.wav", 1))
    with WorkerPool(workers, 60.0) as pool:
        futures = [pool.submit(worker.check_file, name, 8_000, 8_000) for name in (path, "/absent.wav", path)]
        audio_errors = [future.result().error for future in futures]
        assert [audio_error and audio_error.reason for audio_error in audio_errors] == [
            None,
            "No such file or directory",
            None,
        ]
        future = pool.submit(worker.decode_to_file, path, 8_000, 8_000, "/absent/folder/file", 0)
        with pytest.raises(FileNotFoundError, match="/absent/folder/file"):
            future.result()


class UnpicklableError(Exception):
    def __reduce__(self):
        raise TypeError("not picklable")


def raise_unpicklable():
    raise UnpicklableError


def test_a_result_that_cannot_be_pickled_raises():
    with WorkerPool(1, 60.0) as pool:  # the process imports this module, and torch with it
        with pytest.raises(RuntimeError, match="cannot be sent"):
            pool.submit(raise_unpicklable).result()
        assert pool.submit(os.getpid).result()


def test_results_are_in_the_order_of_the_calls(tmp_path):
    for workers in (0, 2):
        with WorkerPool(workers, 60.0) as pool:
            futures = pool.submit_in_order((divmod, number, 7) for number in range(30))
            assert [future.result() for future in futures] == [divmod(number, 7) for number in range(30)]


def test_a_crash_loses_one_result(pool):
    crashed, following = pool.submit(os.abort), pool.submit(os.getpid)
    with pytest.raises(WorkerLostError, match=r"crashed \(SIGABRT\)"):
        crashed.result()
    assert following.result() != os.getpid()


def test_a_hang_loses_one_result(pool):
    pid = pool.submit(os.getpid).result()
    hung, following = pool.submit(time.sleep, 60), pool.submit(os.getpid)
    with pytest.raises(WorkerLostError, match="hung"):
        hung.result()
    assert following.result() != pid


def test_the_temporary_files_of_a_lost_process_are_deleted(pool):
    folder = pool.submit(tempfile.gettempdir).result()
    assert pool.submit(tempfile.mkdtemp).result().startswith(folder)
    assert folder != tempfile.gettempdir()
    with pytest.raises(WorkerLostError):
        pool.submit(os.abort).result()
    assert not os.path.exists(folder)


def test_a_process_killed_while_idle_is_replaced(pool):
    pid = pool.submit(os.getpid).result()
    os.kill(pid, signal.SIGKILL)
    time.sleep(0.5)
    assert pool.submit(os.getpid).result() != pid


def test_the_memory_of_a_process_is_limited(pool):
    future = pool.submit(np.ones, 6 << 30, np.uint8)
    with pytest.raises(MemoryError):
        future.result()
    assert pool.submit(os.getpid).result()


def test_closing_does_not_wait_for_a_process_that_hangs():
    with WorkerPool(1, timeout_s=600.0) as pool:
        pool.submit(os.getpid).result()
        hung = pool.submit(time.sleep, 600)
        while not hung.running():
            time.sleep(0.01)
    with pytest.raises(WorkerLostError):
        hung.result(timeout=0)


@pytest.mark.parametrize(
    ("workers", "cores", "ranks", "expected"),
    [
        ("auto", 16, "1", 14),
        ("auto", 16, "4", 3),
        ("auto", 2, "1", 1),
        ("auto", 1, "8", 1),
        (6, 4, "1", 4),
        (0, 4, "1", 0),
    ],
)
def test_the_number_of_processes_follows_the_usable_cores(monkeypatch, workers, cores, ranks, expected):
    monkeypatch.setattr(pool_module, "num_usable_cores", lambda: cores)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", ranks)
    assert num_processes(workers) == expected


def test_decoding_processes_leave_the_cores_to_their_parent(pool):
    assert pool.submit(os.nice, 0).result() == min(19, os.nice(0) + worker.NICENESS)
