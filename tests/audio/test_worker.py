import multiprocessing
import os
import signal
import time

import numpy as np
import pytest

from melgpu.audio import worker
from melgpu.audio.decode import conform, decode
from melgpu.audio.pool import WorkerPool
from tests.helpers import write_audio


def test_stores_the_conformed_wave_where_it_is_told(tmp_path):
    path, target = write_audio(tmp_path / "x.flac", 1.5), tmp_path / "pcm"
    target.write_bytes(b"")
    assert worker.decode_to_file(str(path), 8_000, 16_000, str(target), 4 * 16_000) is None
    stored = np.fromfile(target, np.float32).reshape(2, 16_000)
    np.testing.assert_array_equal(stored[1], conform(decode(path, 8_000, 2.0), 16_000))
    assert not stored[0].any()


def test_says_what_is_wrong_and_how_much_was_saved(tmp_path):
    data = write_audio(tmp_path / "x.flac", 30).read_bytes()
    (tmp_path / "cut.flac").write_bytes(data[: len(data) // 2])
    audio_error = worker.check_file(str(tmp_path / "cut.flac"), 8_000, 60 * 8_000)
    assert 5 < audio_error.usable_s < 15
    assert worker.check_file(str(tmp_path / "cut.flac"), 8_000, 2 * 8_000) is None  # its beginning is well
    (tmp_path / "target").touch()
    unusable = worker.decode_to_file(str(tmp_path / "absent.mp3"), 8_000, 8_000, str(tmp_path / "target"), 0)
    assert unusable.unusable
    assert (tmp_path / "target").stat().st_size == 0


def test_a_full_disk_is_an_error_and_no_flaw_of_the_track(tmp_path):
    path = write_audio(tmp_path / "x.wav", 1)
    with pytest.raises(OSError, match="No space left on device"):
        worker.decode_to_file(str(path), 8_000, 8_000, "/dev/full", 0)


def lead(connection) -> None:
    """A parent with a pool of workers, that waits to be killed."""
    pool = WorkerPool(1, 60.0)
    connection.send(pool.submit(os.getpid).result())
    time.sleep(60)


def is_alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_worker_ends_with_its_parent():
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    parent = context.Process(target=lead, args=(theirs,))
    parent.start()
    pid = ours.recv()
    assert is_alive(pid)
    os.kill(pid, signal.SIGINT)  # Ctrl-C reaches the whole group: the worker leaves it to its parent
    os.kill(parent.pid, signal.SIGKILL)
    parent.join()
    for _ in range(100):
        if not is_alive(pid):
            return
        time.sleep(0.1)
    raise AssertionError(f"worker {pid} outlived its parent")
