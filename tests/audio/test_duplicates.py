import shutil

import numpy as np
import pytest

from melgpu.audio import duplicates, worker
from melgpu.audio.duplicates import Duplicate
from melgpu.errors import InputError
from tests.helpers import write_audio

RATE, SAMPLES = 11_025, 8 * 11_025


def check(paths) -> dict[str, worker.CheckedFile]:
    return {str(path): worker.check_file(str(path), RATE, SAMPLES) for path in paths}


def test_copies_are_paired_with_the_first_and_other_formats_with_each(tmp_path):
    original = write_audio(tmp_path / "a.wav", 10, RATE, seed=1)
    copies = [shutil.copy(original, tmp_path / f"copy{i}.wav") for i in range(2)]
    other_format = write_audio(tmp_path / "a.flac", 10, RATE, seed=1)
    found = duplicates.find(check([original, write_audio(tmp_path / "b.wav", 10, RATE, seed=2), *copies, other_format]))
    assert [(pair.path, pair.other) for pair in found[:2]] == [(str(original), str(copy)) for copy in copies]
    assert {pair.differing_bits for pair in found[:2]} == {None}
    assert {(pair.path, pair.other) for pair in found[2:]} == {
        (str(path), str(other_format)) for path in (original, *copies)
    }
    assert all(pair.differing_bits == pytest.approx(0, abs=0.01) for pair in found[2:])


def test_equal_beginnings_are_not_equal_content(tmp_path):
    # Silence has no fingerprint that could be compared: the content decides alone.
    silence = write_audio(tmp_path / "a.wav", 20, 44_100).read_bytes()[:44] + bytes(44_100 * 20 * 2)
    (tmp_path / "a.wav").write_bytes(silence)
    (tmp_path / "same.wav").write_bytes(silence)
    (tmp_path / "end.wav").write_bytes(silence[:-1] + b"\1")
    found = duplicates.find(check([tmp_path / name for name in ("a.wav", "end.wav", "same.wav")]))
    assert found == [Duplicate(str(tmp_path / "a.wav"), str(tmp_path / "same.wav"), None)]


def test_files_without_audio_are_no_duplicates(tmp_path):
    for name in ("a.mp3", "b.mp3"):
        (tmp_path / name).write_text("no music")
    assert duplicates.find(check([tmp_path / "a.mp3", tmp_path / "b.mp3"])) == []
    assert duplicates.find({}) == []


def test_short_files_are_compared_as_the_tracks_that_they_are_repeated_to(tmp_path):
    paths = [write_audio(tmp_path / name, 2.5, RATE, seed=3) for name in ("a.wav", "a.flac")]
    found = duplicates.find(check([*paths, write_audio(tmp_path / "b.wav", 2.5, RATE, seed=4)]))
    assert [(pair.path, pair.other) for pair in found] == [tuple(map(str, paths))]


def test_a_list_of_duplicates_is_read_and_renamed(tmp_path):
    path = tmp_path / "duplicates.csv"
    assert duplicates.load(path) is None
    duplicates.rename_files(path, {"a": "b"})
    duplicates.save(path, [])
    assert duplicates.load(path) == []
    pairs = [Duplicate("/a, b.mp3", "/c.mp3", None), Duplicate("/c.mp3", "/\u00e4.ogg", 0.125)]
    duplicates.save(path, pairs)
    assert duplicates.load(path) == pairs
    duplicates.rename_files(path, {"/c.mp3": "/new/c.mp3"})
    assert duplicates.load(path) == [
        Duplicate("/a, b.mp3", "/new/c.mp3", None),
        Duplicate("/new/c.mp3", "/\u00e4.ogg", 0.125),
    ]


@pytest.mark.parametrize("text", ["", "file,reason\n", "file,duplicate,differing_bits\na,b,many\n"])
def test_a_malformed_list_is_rejected(tmp_path, text):
    (tmp_path / "duplicates.csv").write_text(text)
    with pytest.raises(InputError, match=r"duplicates\.csv"):
        duplicates.load(tmp_path / "duplicates.csv")


def test_low_rates_have_no_fingerprints(tmp_path):
    path = str(write_audio(tmp_path / "a.wav", 10, RATE))
    assert len(worker.check_file(path, 4_000, 40_000).fingerprint) == 0
    assert np.all(worker.check_file(path, 8_000, 80_000).fingerprint.shape)
