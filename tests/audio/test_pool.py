import os
import signal
import tempfile
import time

import numpy as np
import pytest

from melgpu.audio import worker
from melgpu.audio.pool import WorkerLost, WorkerPool
from tests.helpers import write_audio


@pytest.fixture
def pool():
    with WorkerPool(1, timeout_s=2.0) as made:
        yield made


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_results_and_errors_come_back(workers, tmp_path):
    path = str(write_audio(tmp_path / "x.wav", 1))
    with WorkerPool(workers, 60.0) as pool:
        answers = [pool.submit(worker.check_file, name, 8_000, 8_000) for name in (path, "/absent.wav", path)]
        assert [answer.result() and answer.result().reason for answer in answers] == [
            None,
            "No such file or directory",
            None,
        ]
        broken = pool.submit(worker.decode_to_file, path, 8_000, 8_000, "/absent/folder/file", 0)
        with pytest.raises(FileNotFoundError, match="/absent/folder/file"):
            broken.result()


class Unsendable(Exception):
    def __reduce__(self):
        raise TypeError("made so")


def raise_unsendable():
    raise Unsendable


def test_what_cannot_be_sent_back_is_said():
    with WorkerPool(1, 60.0) as pool:  # which imports this module, and torch with it
        with pytest.raises(RuntimeError, match="cannot be sent"):
            pool.submit(raise_unsendable).result()
        assert pool.submit(os.getpid).result()


def test_calls_in_order(tmp_path):
    for workers in (0, 2):
        with WorkerPool(workers, 60.0) as pool:
            answers = pool.in_order((divmod, number, 7) for number in range(30))
            assert [answer.result() for answer in answers] == [divmod(number, 7) for number in range(30)]


def test_a_crash_costs_one_answer(pool):
    crashed, after = pool.submit(os.abort), pool.submit(os.getpid)
    with pytest.raises(WorkerLost, match=r"crashed \(SIGABRT\)"):
        crashed.result()
    assert after.result() != os.getpid()


def test_a_hang_costs_one_answer(pool):
    first = pool.submit(os.getpid).result()
    hung, after = pool.submit(time.sleep, 60), pool.submit(os.getpid)
    with pytest.raises(WorkerLost, match="hung"):
        hung.result()
    assert after.result() != first


def test_what_a_lost_process_had_fetched_goes_with_it(pool):
    folder = pool.submit(tempfile.gettempdir).result()
    assert pool.submit(tempfile.mkdtemp).result().startswith(folder)
    assert folder != tempfile.gettempdir()
    with pytest.raises(WorkerLost):
        pool.submit(os.abort).result()
    assert not os.path.exists(folder)


def test_a_process_killed_while_idle_costs_nothing(pool):
    pid = pool.submit(os.getpid).result()
    os.kill(pid, signal.SIGKILL)
    time.sleep(0.5)
    assert pool.submit(os.getpid).result() != pid


def test_a_decoder_that_wants_all_memory_gets_none(pool):
    answer = pool.submit(np.ones, 6 << 30, np.uint8)
    with pytest.raises(MemoryError):
        answer.result()
    assert pool.submit(os.getpid).result()


def test_closing_does_not_wait_for_what_hangs():
    with WorkerPool(1, timeout_s=600.0) as pool:
        pool.submit(os.getpid).result()
        hung = pool.submit(time.sleep, 600)
        while not hung.running():
            time.sleep(0.01)
    with pytest.raises(WorkerLost):
        hung.result(timeout=0)
