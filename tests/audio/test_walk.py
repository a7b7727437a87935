import os
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from melgpu.audio import walk
from melgpu.audio.walk import AudioWalk, natural_key, summarize_ignored
from tests.helpers.runs import touch


def found(*folders: Path) -> tuple[list[str], dict[str, str], AudioWalk]:
    """Paths below the first folder, errors by path, and the walk."""
    audio_walk = AudioWalk(folders)
    files = list(audio_walk)
    paths = [os.path.relpath(file.path, folders[0]) for file in files if not file.error]
    errors = {os.path.relpath(file.path, folders[0]): file.error for file in files if file.error}
    return paths, errors, audio_walk


def test_formats_of_all_kinds_are_audio_and_others_are_counted(tmp_path):
    suffixes = ["au", "snd", "aifc", "w64", "caf", "mp2", "m4b", "mov", "mp4", "wv", "mp3", "ogg", "oga", "opus"]
    suffixes += ["flac", "wav", "aif", "aiff", "m4a", "aac", "amr", "wma", "webm", "mka"]
    names = [f"{i:02}.{suffix}" for i, suffix in enumerate(suffixes)] + ["A.AU"]
    touch(tmp_path, *names, "x.pdf", "y.PDF", "z.cue", "README")
    paths, errors, audio_walk = found(tmp_path)
    assert paths == names
    assert errors == {}
    assert audio_walk.ignored == {".pdf": 2, ".cue": 1, "without suffix": 1}
    assert summarize_ignored(audio_walk.ignored) == "ignored: 2 .pdf, 1 .cue, 1 without suffix"


def test_hidden_and_system_folders_are_skipped(tmp_path):
    skipped = (".Trash-1000", ".ipynb_checkpoints", "__MACOSX", "$RECYCLE.BIN", "@eaDir", "lost+found")
    touch(tmp_path, *(f"{name}/a.wav" for name in skipped), "rock/._a.wav", "rock/a.wav", "rock/...And/b.wav")
    paths, errors, audio_walk = found(tmp_path)
    assert (paths, errors) == (["rock/...And/b.wav", "rock/a.wav"], {})
    assert audio_walk.ignored == {"hidden or system": len(skipped) + 1}
    assert audio_walk.top_folders == ["rock"]
    assert found(tmp_path / ".Trash-1000")[0] == ["a.wav"]  # unless it is named


def test_links_are_followed_and_loops_end(tmp_path):
    touch(tmp_path, "else/where/a.wav", "else/b.wav", "music/pop/c.wav")
    (tmp_path / "music" / "rock").symlink_to(tmp_path / "else")
    (tmp_path / "music" / "zappa").symlink_to(tmp_path / "else")  # the same folder again
    (tmp_path / "music" / "pop" / "up").symlink_to(tmp_path / "music")
    (tmp_path / "else" / "here").symlink_to(".")
    (tmp_path / "music" / "pop" / "d.wav").symlink_to(tmp_path / "else" / "b.wav")
    paths, errors, audio_walk = found(tmp_path / "music")
    assert paths == ["pop/c.wav", "pop/d.wav", "rock/b.wav", "rock/where/a.wav"]
    assert errors == {}
    assert audio_walk.ignored == {"linked again": 3}


def test_folders_that_link_to_one_another_end_soon(tmp_path):
    for name in map(str, range(12)):
        touch(tmp_path, f"{name}/a.wav")
        for other in map(str, range(12)):
            (tmp_path / name / f"to{other}").symlink_to(tmp_path / other)
    assert len(found(tmp_path)[0]) <= 12 * 12


def test_what_cannot_be_entered_is_an_error(tmp_path, monkeypatch):
    touch(tmp_path, "a/x.wav", "b/y.wav", "c/z.wav")
    (tmp_path / "gone").symlink_to(tmp_path / "unmounted")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "cover.jpg").symlink_to(tmp_path / "absent.jpg")
    (tmp_path / "dangling.wav").symlink_to(tmp_path / "absent.wav")
    os.mkfifo(tmp_path / "pipe.mp3")
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("/b"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(walk.os, "scandir", refuse)
    paths, errors, audio_walk = found(tmp_path)
    assert paths == ["a/x.wav", "c/z.wav", "dangling.wav", "pipe.mp3"]  # their decoder has the reason
    assert errors["b"] == "the folder cannot be read (Permission denied)"
    assert errors["gone"] == "a link that cannot be followed (No such file or directory)"
    assert "symbolic links" in errors["loop"]
    assert audio_walk.ignored == {".jpg": 1}


def test_a_folder_without_audio_is_an_error_that_says_what_it_has(tmp_path):
    touch(tmp_path, "a.pdf")
    assert found(tmp_path)[1] == {".": "no audio files in this folder (ignored: 1 .pdf)"}
    (tmp_path / "empty").mkdir()
    assert found(tmp_path / "empty")[1] == {".": "no audio files in this folder"}


def test_named_files_are_taken_whatever_their_name(tmp_path):
    names = ["notes.txt", str(tmp_path / "._a.wav"), "https://x.org/stream", str(tmp_path / "absent.mp3"), "a\0b"]
    assert [(file.path, file.error) for file in AudioWalk(names)] == [(name, None) for name in names]
    not_utf8 = os.fsdecode(b"caf\xe9.wav")
    assert [str(file) for file in AudioWalk([not_utf8])] == [f"{not_utf8!r}: the file's name is not UTF-8"]


def test_files_and_folders_come_in_natural_order_of_their_paths(tmp_path):
    names = [
        "10/a.wav",
        "2/b.wav",
        "2.wav",
        "a/1.wav",
        "a-b/1.wav",
        "a.wav",
        "a/10.wav",
        "a/2.wav",
        "b1/x.wav",
        "b/1.wav",
    ]
    touch(tmp_path, *names)
    assert found(tmp_path)[0] == sorted(names, key=natural_key)


def test_the_walk_is_lazy(tmp_path):
    touch(tmp_path, "a/1.wav", "b/2.wav")
    files = iter(AudioWalk([tmp_path]))
    assert next(files).path.endswith("a/1.wav")
    touch(tmp_path, "b/3.wav")
    assert [Path(file.path).name for file in files] == ["2.wav", "3.wav"]


def test_the_summary_is_bounded():
    ignored = Counter({f".x{i}": 20 - i for i in range(15)})
    assert summarize_ignored(ignored).endswith(".x9, 40 others")
    assert summarize_ignored(Counter({".a": 0})) == ""


def test_classes_sort_in_natural_order_and_leading_zeros_matter():
    labels = ("10", "2", "01", "1", "pop", "Rock 12", "Rock 3")
    assert sorted(labels, key=natural_key) == ["01", "1", "2", "10", "Rock 3", "Rock 12", "pop"]


@given(st.lists(st.integers(0, 10**30), min_size=2), st.sampled_from(["", "0", "\u0660"]))
def test_numbers_of_any_size_sort_by_value(numbers, prefix):
    in_order = [int(text) for text in sorted((f"{prefix}{number}" for number in numbers), key=natural_key)]
    assert in_order == sorted(numbers)
    assert natural_key("9" * 5000) < natural_key("1" + "0" * 5000)


@pytest.mark.parametrize("name", ["a.wav", "a.tar.MP3", "a b.Wv"])
def test_suffixes_are_of_any_case(name):
    assert walk.has_audio_suffix(name)
