import multiprocessing
import os
import signal
import time

import numpy as np
import pytest

from melgpu.audio import worker
from melgpu.audio.decode import conform, decode
from melgpu.audio.pool import WorkerPool
from tests.helpers import is_alive, write_audio


def test_the_conformed_wave_is_written_at_the_offset(tmp_path):
    path, target = write_audio(tmp_path / "x.flac", 1.5), tmp_path / "pcm"
    target.write_bytes(b"")
    assert worker.decode_to_file(str(path), 8_000, 16_000, str(target), 4 * 16_000) is None
    written = np.fromfile(target, np.float32).reshape(2, 16_000)
    np.testing.assert_array_equal(written[1], conform(decode(path, 8_000, 2.0), 16_000))
    assert not written[0].any()


@pytest.mark.parametrize("seconds", [3, 30])  # shorter than a track, and longer
def test_a_track_has_the_same_fingerprint_however_it_is_checked(tmp_path, seconds):
    path, target = str(write_audio(tmp_path / "x.flac", seconds, 22_050)), tmp_path / "pcm"
    target.write_bytes(b"")
    num_samples = 14 * 22_050
    checked = worker.check_file(path, 22_050, num_samples)
    written = worker.check_to_file(path, 22_050, num_samples, str(target), 4 * num_samples)
    read = worker.check_written(None, 22_050, num_samples, str(target), 4 * num_samples)
    assert checked.fingerprint.any()
    np.testing.assert_array_equal(written.fingerprint, checked.fingerprint)
    np.testing.assert_array_equal(read.fingerprint, checked.fingerprint)
    conformed = conform(decode(path, 22_050, 14.0), num_samples)
    np.testing.assert_array_equal(np.fromfile(target, np.float32)[num_samples:], conformed)


def test_audio_errors_have_the_usable_seconds(tmp_path):
    data = write_audio(tmp_path / "x.flac", 30).read_bytes()
    (tmp_path / "cut.flac").write_bytes(data[: len(data) // 2])
    audio_error = worker.check_file(str(tmp_path / "cut.flac"), 8_000, 60 * 8_000).error
    assert 5 < audio_error.usable_s < 15
    assert worker.check_file(str(tmp_path / "cut.flac"), 8_000, 2 * 8_000).error is None  # its beginning has no error
    (tmp_path / "target").touch()
    audio_error = worker.decode_to_file(str(tmp_path / "absent.mp3"), 8_000, 8_000, str(tmp_path / "target"), 0)
    assert audio_error.unusable
    assert (tmp_path / "target").stat().st_size == 0


def test_a_full_disk_raises_and_is_no_audio_error(tmp_path):
    path = write_audio(tmp_path / "x.wav", 1)
    with pytest.raises(OSError, match="No space left on device"):
        worker.decode_to_file(str(path), 8_000, 8_000, "/dev/full", 0)


def run_parent(connection) -> None:
    """A parent process with a worker pool, that waits to be killed."""
    pool = WorkerPool(1, 60.0)
    connection.send(pool.submit(os.getpid).result())
    time.sleep(60)


def test_a_worker_exits_with_its_parent():
    context = multiprocessing.get_context("spawn")
    connection, child_connection = context.Pipe()
    parent = context.Process(target=run_parent, args=(child_connection,))
    parent.start()
    pid = connection.recv()
    assert is_alive(pid)
    os.kill(pid, signal.SIGINT)  # Ctrl-C is sent to the process group: the worker ignores it
    os.kill(pid, signal.SIGTERM)  # likewise, by a batch system
    time.sleep(0.2)
    assert is_alive(pid)
    os.kill(parent.pid, signal.SIGKILL)
    parent.join()
    for _ in range(100):
        if not is_alive(pid):
            return
        time.sleep(0.1)
    raise AssertionError(f"worker {pid} outlived its parent")
