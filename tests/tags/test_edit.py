import os
import struct

import mutagen
import numpy as np
import pytest
from mutagen.flac import FLAC
from mutagen.id3 import ID3, TIT2
from mutagen.mp4 import MP4

from melgpu.audio.decode import decode
from melgpu.audio.walk import AudioWalk
from melgpu.errors import InputError
from melgpu.tags import containers, edit
from tests.helpers import run_script
from tests.helpers.tags import tagged_files
from tests.helpers.tags.tagged_files import SUFFIXES, ffmpeg_tags

LABEL = "Drum & Bass"
COMMENT = "melgpu: Drum & Bass, confidence 0.88"


def write(path, label=LABEL, confidence=0.876):
    edit.write_genre(str(path), label, confidence)


def samples(path) -> np.ndarray:
    return decode(str(path), 48_000, 60)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("make", [tagged_files.write_bare, tagged_files.write_tagged])
def test_ffmpeg_reads_the_genre_and_all_else_as_before(tmp_path, suffix, make):
    path = make(tmp_path / f"a{suffix}")
    tags, wave = ffmpeg_tags(path), samples(path)
    own_comment = tags.get("comment")
    write(path)
    changed = {"genre": LABEL}
    if suffix == ".mp3":
        changed["melgpu"] = COMMENT  # FFmpeg names a comment by its description
    elif not own_comment:
        changed["comment"] = COMMENT
    else:
        changed["comment"] = f"{own_comment};{COMMENT}"
    after = ffmpeg_tags(path)
    if suffix == ".m4a" and own_comment:  # FFmpeg before 9 reads the first comment only
        assert after["comment"] in (own_comment, changed["comment"])
        after["comment"] = changed["comment"]
    assert after == tags | changed
    np.testing.assert_array_equal(samples(path), wave)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_fields_of_other_programs_stay(tmp_path, suffix):
    path = tagged_files.write_tagged(tmp_path / f"a{suffix}")
    before = containers.open_tags(path)
    write(path)
    after = containers.open_tags(path)
    assert after.others == before.others
    assert (after.genres, after.artist) == ([LABEL], tagged_files.ARTIST)
    tags = mutagen.File(path)
    if suffix == ".mp3":
        assert tags["PRIV:somebody:\0\1\2"].data == b"\0\1\2"
        assert tags["APIC:front"].data == tagged_files.JPEG
        assert tags["COMM::eng"].text == [tagged_files.COMMENT]
    elif suffix == ".m4a":
        assert bytes(tags["covr"][0]) == tagged_files.JPEG
        assert tags["\xa9cmt"] == [tagged_files.COMMENT, COMMENT]
    else:
        assert tags["my_field"] == ["x", "y"]
        assert tags["comment"] == [tagged_files.COMMENT, COMMENT]
    if suffix == ".flac":
        assert tags.pictures[0].data == tagged_files.JPEG


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_second_label_replaces_the_first(tmp_path, suffix):
    path = tagged_files.write_tagged(tmp_path / f"a{suffix}")
    write(path)
    write(path, "Ân nhạc", 1.0)
    tags = containers.open_tags(path)
    assert tags.genres == ["Ân nhạc"]
    assert [text for text in tags.comments if "melgpu" in text] == ["melgpu: Ân nhạc, confidence 1.00"]
    assert containers.predicted_label(tags.comments) == "Ân nhạc"


def test_id3_keeps_its_version_and_several_values(tmp_path):
    path = tagged_files.write_bare(tmp_path / "a.mp3")
    tagged_files.save_id3v23(path)
    write(path)
    assert path.read_bytes()[:4] == b"ID3\3"
    tag = ID3(path, translate=False)
    assert tag["TPE1"].text == ["AC/DC", "Björk"]
    assert tag["TYER"].text == ["1999"]
    assert "TDRC" not in tag
    assert ffmpeg_tags(path)["genre"] == LABEL


def test_id3_of_version_2_2_becomes_2_3(tmp_path):
    path = tagged_files.write_bare(tmp_path / "a.mp3")
    tagged_files.prepend_id3v22(path)
    tags = ffmpeg_tags(path)
    write(path)
    assert path.read_bytes()[:4] == b"ID3\3"
    written = ffmpeg_tags(path)
    assert {name: written[name] for name in ("title", "artist")} == {"title": "Title", "artist": "Artist"}
    assert written["date"] == tags.get("date", "1999")


@pytest.mark.parametrize(("label", "number"), [("rock", 17), ("ROCK", 17), ("Acid Jazz", 74)])
def test_of_id3v1_only_the_genre_changes(tmp_path, label, number):
    path = tagged_files.write_bare(tmp_path / "a.mp3")
    tag = tagged_files.append_id3v1(path, 8)
    wave = samples(path)
    write(path, label)
    assert path.read_bytes()[-128:] == tag[:-1] + bytes([number])
    np.testing.assert_array_equal(samples(path), wave)
    # Programs that find ID3v2 do not look for ID3v1, so it has what that has.
    before = {"title": "A title that only ID3v1 has", "date": "1999", "track": "7", "comment": "an ID3v1 comment"}
    assert ffmpeg_tags(path).items() >= before.items()
    assert str(ID3(path, load_v1=False)["TIT2"]) == before["title"]


def test_an_unknown_genre_of_id3v1_is_none(tmp_path):
    path = tagged_files.write_tagged(tmp_path / "a.mp3")
    tag = tagged_files.append_id3v1(path, 8)
    write(path, "Vaporwave from Hue")
    assert path.read_bytes()[-128:] == tag[:-1] + b"\xff"
    assert str(ID3(path)["TIT2"]) == tagged_files.TITLE


def test_frames_that_mutagen_does_not_know_stay(tmp_path):
    path = tagged_files.write_bare(tmp_path / "a.mp3")
    unknown = b"XYZW" + struct.pack(">I", 5) + b"\0\0" + b"12345"
    tag = tagged_files.id3_of_other_programs("x")
    tag.unknown_frames = [unknown]
    tag.save(path)
    write(path)
    assert unknown in path.read_bytes()


def test_the_numeric_genre_of_old_itunes_files_is_replaced(tmp_path):
    path = tagged_files.write_bare(tmp_path / "a.m4a")
    file = MP4(path)
    file.tags._failed_atoms["gnre"] = [struct.pack(">I4sIIH", 18, b"data", 0, 0, 18)]  # these are written as they are
    file.save()
    assert b"gnre" in path.read_bytes()
    assert containers.open_tags(path).genres == ["Rock"]
    write(path)
    assert b"gnre" not in path.read_bytes()
    assert MP4(path)["\xa9gen"] == [LABEL]


def test_a_tag_that_would_lose_fields_is_refused(tmp_path, monkeypatch):
    path = tagged_files.write_tagged(tmp_path / "a.mp3")
    before = path.read_bytes()
    save = ID3.save

    def lossy_save(tag, *arguments, **keywords):
        tag.delall("PRIV")
        save(tag, *arguments, **keywords)

    monkeypatch.setattr(ID3, "save", lossy_save)
    with pytest.raises(InputError, match="not written, since mutagen would change its other tags"):
        write(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.mp3"]


def refuse_to_open(file):
    raise InputError("of no known format")


def test_a_file_that_ffmpeg_does_not_open_is_compared_decoded(tmp_path, monkeypatch):
    monkeypatch.setattr(edit.pyav, "read_packets", refuse_to_open)
    path = tagged_files.write_tagged(tmp_path / "a.ogg")
    wave = samples(path)
    write(path)
    assert containers.open_tags(path).genres == [LABEL]
    np.testing.assert_array_equal(samples(path), wave)


@pytest.mark.parametrize(
    ("suffix", "ffmpeg_opens"),
    [*((suffix, True) for suffix in SUFFIXES), *((suffix, False) for suffix in SUFFIXES if suffix != ".m4a")],
)
def test_a_copy_with_other_audio_is_refused(tmp_path, monkeypatch, suffix, ffmpeg_opens):
    if not ffmpeg_opens:
        monkeypatch.setattr(edit.pyav, "read_packets", refuse_to_open)
    path = tagged_files.write_tagged(tmp_path / f"a{suffix}")
    before = path.read_bytes()
    kind = type(mutagen.File(path))
    kind = ID3 if suffix == ".mp3" else kind
    save = kind.save

    def damaging_save(file, target=None, **keywords):
        name = getattr(target, "name", None) or file.filename
        save(file, *(() if target is None else (target,)), **keywords)
        with open(name, "rb+") as copy:
            copy.seek(-len(before) // 3, os.SEEK_END)
            copy.write(bytes(64))

    monkeypatch.setattr(kind, "save", damaging_save)
    with pytest.raises(InputError):
        write(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("suffix", [".mp3", ".flac", ".ogg", ".m4a"])
def test_damaged_files_are_not_written(tmp_path, suffix):
    path = tagged_files.write_tagged(tmp_path / f"a{suffix}")
    content = path.read_bytes()
    rng = np.random.default_rng(5)
    for case in range(20):
        damaged = bytearray(content[: rng.integers(8, len(content))] if case % 2 else content)
        for position in rng.integers(0, min(3000, len(damaged)), 5):
            damaged[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        try:
            write(path)
        except InputError:
            assert path.read_bytes() == damaged
        else:
            assert containers.open_tags(path).genres == [LABEL]
    assert os.listdir(tmp_path) == [path.name]


def test_other_formats_are_refused(tmp_path):
    tagged_files.write_bare(tmp_path / "a.wav").rename(tmp_path / "a.mp3")
    (tmp_path / "b.mp3").write_text("no music")
    (tmp_path / "c.flac").touch()
    for name in ("a.mp3", "b.mp3", "c.flac"):
        before = (tmp_path / name).read_bytes()
        with pytest.raises(InputError):
            write(tmp_path / name)
        assert (tmp_path / name).read_bytes() == before
    with pytest.raises(FileNotFoundError):
        write(tmp_path / "absent.mp3")


def test_without_mutagen_the_error_says_what_to_install(tmp_path):
    code = (
        "import sys\nsys.modules['mutagen'] = None\nfrom melgpu.tags import containers\ncontainers.open_tags('a.mp3')\n"
    )
    process = run_script("-c", code)
    assert "InputError: tags need mutagen: pip install 'melgpu[tags]'" in process.stderr


@pytest.mark.parametrize("suffix", [".mp3", ".m4a"])
def test_a_kill_leaves_the_old_file_or_the_new_one(tmp_path, suffix):
    path = tagged_files.write_tagged(tmp_path / f"a{suffix}")
    process = run_script("-m", "tests.helpers.tags.killed", path, 20)
    assert process.returncode == 0, process.stderr
    num_old, num_new, num_others = map(int, process.stdout.split())
    assert num_old > 10
    assert num_new > 0
    assert num_others == 0
    assert [found.path for found in AudioWalk([tmp_path])] == [str(path), str(tmp_path / f"whole{suffix}")]


def test_flac_with_an_id3_tag_in_front_keeps_it(tmp_path):
    path = tagged_files.write_tagged(tmp_path / "a.flac")
    tag = ID3()
    tag.add(TIT2(encoding=3, text=["of ID3"]))
    (tmp_path / "tag").touch()
    tag.save(tmp_path / "tag")
    path.write_bytes((tmp_path / "tag").read_bytes() + path.read_bytes())
    write(path)
    assert path.read_bytes()[:3] == b"ID3"
    assert FLAC(path)["genre"] == [LABEL]
