import errno
import resource

import numpy as np
import pytest

from melgpu import files
from melgpu.audio.quarantine import AudioError
from melgpu.errors import InputError
from melgpu.prediction.resume_log import BatchPredictions, ResumeLog

METADATA = {"checkpoints": ["a", "b"], "tracks": 3}


def batch_predictions(i: int, size: int = 4) -> BatchPredictions:
    rng = np.random.default_rng(i)
    audio_errors = [AudioError(f"é{i}.mp3", "cut\noff", 1.5)] if i % 2 else []
    return BatchPredictions(4 * i, rng.random((2, size, 3), np.float32), rng.random(size) < 0.5, audio_errors)


def write(path, count: int) -> None:
    """Add the missing batches up to `count`; the fifth is a shorter one."""
    with ResumeLog(path, METADATA) as resume_log:
        num_saved = len(list(resume_log.saved_batches()))
        for i in range(num_saved, count):
            resume_log.add(batch_predictions(i, 4 if i < 4 else 1))


def read(path) -> list[BatchPredictions]:
    with ResumeLog(path, METADATA) as resume_log:
        return list(resume_log.saved_batches())


def check(batches: list[BatchPredictions]) -> None:
    for i, batch in enumerate(batches):
        expected = batch_predictions(i, 4 if i < 4 else 1)
        np.testing.assert_array_equal(batch.probs, expected.probs)
        np.testing.assert_array_equal(batch.valid, expected.valid)
        assert (batch.start, batch.errors) == (expected.start, expected.errors)


def test_added_batches_are_read_back(tmp_path):
    write(tmp_path / "log", 5)
    batches = read(tmp_path / "log")
    assert len(batches) == 5
    check(batches)


def test_a_log_truncated_anywhere_keeps_its_complete_batches_and_can_be_continued(tmp_path):
    write(tmp_path / "complete", 5)
    content = (tmp_path / "complete").read_bytes()
    counts = set()
    for length in range(0, len(content), 7):
        (tmp_path / "log").write_bytes(content[:length])
        batches = read(tmp_path / "log")
        check(batches)
        counts.add(len(batches))
        write(tmp_path / "log", 5)
        assert (tmp_path / "log").read_bytes() == content
    assert counts == {0, 1, 2, 3, 4}


def test_batches_before_a_flipped_bit_are_read(tmp_path):
    write(tmp_path / "log", 5)
    content = bytearray((tmp_path / "log").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "log").write_bytes(content)
    batches = read(tmp_path / "log")
    assert 0 < len(batches) < 5
    check(batches)


def test_a_log_with_other_metadata_is_overwritten(tmp_path):
    write(tmp_path / "log", 5)
    with ResumeLog(tmp_path / "log", {**METADATA, "tracks": 4}) as resume_log:
        assert list(resume_log.saved_batches()) == []
    assert read(tmp_path / "log") == []


def test_a_log_is_locked_by_one_process(tmp_path):
    with ResumeLog(tmp_path / "log", METADATA), pytest.raises(InputError, match="another process is predicting this"):
        ResumeLog(tmp_path / "log", METADATA)
    assert read(tmp_path / "log") == []


def test_zeros_at_the_end_are_no_batches(tmp_path):
    write(tmp_path / "log", 2)
    with open(tmp_path / "log", "ab") as file:  # as after a power failure
        file.write(bytes(500))
    write(tmp_path / "log", 5)
    batches = read(tmp_path / "log")
    assert len(batches) == 5
    check(batches)


def test_a_full_disk_names_the_log_which_is_complete_up_to_it(tmp_path):
    path = tmp_path / "log"
    write(path, 5)
    size = path.stat().st_size
    path.unlink()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size - 1, before[1]))  # like a disk that is full, for this process
    try:
        with pytest.raises(OSError, match=r"log'$") as error:
            write(path, 5)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert error.value.errno == errno.EFBIG
    batches = read(path)
    assert len(batches) == 4
    check(batches)
    write(path, 5)
    assert path.stat().st_size == size


def test_without_locks_a_log_is_written_with_a_note(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(files, "lock", lambda file: False)
    write(tmp_path / "log", 5)
    assert len(read(tmp_path / "log")) == 5
    assert capsys.readouterr().out == f"{tmp_path}: {files.UNLOCKED_NOTE}\n"
