import numpy as np
import pytest

from melgpu.audio.quarantine import AudioError
from melgpu.errors import InputError
from melgpu.prediction.resume_log import BatchPredictions, ResumeLog

ABOUT = {"checkpoints": ["a", "b"], "tracks": 3}


def answers(number: int, size: int = 4) -> BatchPredictions:
    rng = np.random.default_rng(number)
    audio_errors = [AudioError(f"é{number}.mp3", "cut\noff", 1.5)] if number % 2 else []
    return BatchPredictions(4 * number, rng.random((2, size, 3), np.float32), rng.random(size) < 0.5, audio_errors)


def write(path, count: int) -> None:
    with ResumeLog(path, ABOUT) as resume_log:
        have = len(list(resume_log.saved_batches()))
        for number in range(have, count):
            resume_log.add(answers(number, 4 if number < 4 else 1))


def check(kept: list[BatchPredictions]) -> None:
    for number, one in enumerate(kept):
        expected = answers(number, 4 if number < 4 else 1)
        np.testing.assert_array_equal(one.probs, expected.probs)
        np.testing.assert_array_equal(one.valid, expected.valid)
        assert (one.start, one.errors) == (expected.start, expected.errors)


def kept(path) -> list[BatchPredictions]:
    with ResumeLog(path, ABOUT) as resume_log:
        return list(resume_log.saved_batches())


def test_what_was_added_is_there_again(tmp_path):
    write(tmp_path / "j", 5)
    found = kept(tmp_path / "j")
    assert len(found) == 5
    check(found)


def test_cut_anywhere_the_whole_batches_are_kept_and_it_goes_on(tmp_path):
    write(tmp_path / "whole", 5)
    content = (tmp_path / "whole").read_bytes()
    counts = set()
    for length in range(0, len(content), 7):
        (tmp_path / "j").write_bytes(content[:length])
        found = kept(tmp_path / "j")
        check(found)
        counts.add(len(found))
        write(tmp_path / "j", 5)
        assert (tmp_path / "j").read_bytes() == content
    assert counts == {0, 1, 2, 3, 4}


def test_a_flipped_bit_ends_what_is_believed(tmp_path):
    write(tmp_path / "j", 5)
    content = bytearray((tmp_path / "j").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "j").write_bytes(content)
    found = kept(tmp_path / "j")
    assert 0 < len(found) < 5
    check(found)


def test_answers_of_something_else_are_not_taken(tmp_path):
    write(tmp_path / "j", 5)
    with ResumeLog(tmp_path / "j", {**ABOUT, "tracks": 4}) as resume_log:
        assert list(resume_log.saved_batches()) == []
    assert kept(tmp_path / "j") == []


def test_one_process_at_a_time(tmp_path):
    with ResumeLog(tmp_path / "j", ABOUT), pytest.raises(InputError, match="another process is predicting this"):
        ResumeLog(tmp_path / "j", ABOUT)
    assert kept(tmp_path / "j") == []


def test_zeros_after_a_power_cut_are_no_answers(tmp_path):
    write(tmp_path / "j", 2)
    with open(tmp_path / "j", "ab") as file:
        file.write(bytes(500))
    write(tmp_path / "j", 5)
    found = kept(tmp_path / "j")
    assert len(found) == 5
    check(found)
