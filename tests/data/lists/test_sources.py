import unicodedata

import pytest

from melgpu.data.lists import sources
from melgpu.data.lists.sources import FileFinder, read_source, similar_labels
from melgpu.errors import InputError
from tests.helpers.runs import read_source_text, touch


def test_class_folders(tmp_path):
    touch(tmp_path, "rock/b.mp3", "rock/a.flac", "pop/live/c.ogg", "pop/cover.jpg")
    source_list = read_source(tmp_path, None, labelled=True)
    assert dict(zip(source_list.ids, source_list.labels, strict=True)) == {
        "pop/live/c.ogg": "pop",
        "rock/a.flac": "rock",
        "rock/b.mp3": "rock",
    }


def test_what_is_left_out_of_class_folders_is_noted(tmp_path):
    touch(tmp_path, "rock/a.mp3", "rock/booklet.pdf", "rock/scan.pdf", "pop/disc.cue", "jazz/.Trash/b.mp3", "list.txt")
    (note,) = read_source(tmp_path, None, labelled=True).notes
    assert (
        note
        == f"{tmp_path}: ignored: 2 .pdf, 1 .cue, 1 .txt, 1 hidden or system; class folders without audio: jazz, pop"
    )
    assert read_source(tmp_path / "rock", None, labelled=False).notes == [f"{tmp_path}/rock: ignored: 2 .pdf"]
    assert read_source(tmp_path / "rock", None, labelled=False).labels == [""]


def test_a_class_folder_that_is_a_link_is_a_class(tmp_path):
    touch(tmp_path, "elsewhere/a.mp3", "music/pop/b.mp3")
    (tmp_path / "music" / "rock").symlink_to(tmp_path / "elsewhere")
    source_list = read_source(tmp_path / "music", None, labelled=True)
    assert (source_list.ids, source_list.labels) == (["pop/b.mp3", "rock/a.mp3"], ["pop", "rock"])
    (tmp_path / "music" / "jazz").symlink_to(tmp_path / "unmounted")
    with pytest.raises(InputError, match=r"music/jazz: a link that cannot be followed \(No such file"):
        read_source(tmp_path / "music", None, labelled=True)


def test_folder_problems(tmp_path):
    with pytest.raises(InputError, match="no audio files"):
        read_source(tmp_path, None, labelled=True)
    touch(tmp_path, "loose.mp3", "rock/a.mp3")
    with pytest.raises(InputError, match=r"loose\.mp3: not in a sub-folder"):
        read_source(tmp_path, None, labelled=True)
    assert len(read_source(tmp_path, None, labelled=False).ids) == 2
    with pytest.raises(InputError, match="no such file or folder"):
        read_source(tmp_path / "absent", None, labelled=True)


def test_urls_are_unchanged(tmp_path):
    (tmp_path / "x.csv").write_text("s3://bucket/a.mp3,1\nb.ogg,2\nhttps://x.org/c.flac?token=1,1\n")
    source_list = read_source(tmp_path / "x.csv", "gs://other/music/", labelled=True)
    assert source_list.paths == ["s3://bucket/a.mp3", "gs://other/music/b.ogg", "https://x.org/c.flac?token=1"]
    (tmp_path / "y.csv").write_text("https://x.org/c.flac?token=1,1\n")
    assert read_source(tmp_path / "y.csv", None, labelled=True).ids == ["https://x.org/c.flac?token=1"]


def test_names_are_found_in_any_unicode_form(tmp_path):
    names = ["Beyoncé/Halo é.mp3", "nhạc số.mp3", "plain.mp3"]
    for form, other in (("NFC", "NFD"), ("NFD", "NFC")):
        folder = tmp_path / form
        touch(folder, *(unicodedata.normalize(form, name) for name in names))
        listed = [unicodedata.normalize(other, name) for name in names]
        source_list = read_source_text(folder / "x.csv", "".join(f"{name},a\n" for name in listed))
        assert source_list.ids == listed
        assert source_list.paths == [str(folder / unicodedata.normalize(form, name)) for name in names]
        assert "2 files have their names in another Unicode form" in source_list.notes[0]
    mixed = f"{unicodedata.normalize('NFD', 'é')}/{unicodedata.normalize('NFC', 'é')}.mp3"
    touch(tmp_path, mixed)
    assert FileFinder(str(tmp_path)).find("é/é.mp3") == str(tmp_path / mixed)


def test_the_exact_name_comes_before_another_form(tmp_path):
    for form in ("NFC", "NFD"):
        touch(tmp_path, unicodedata.normalize(form, "é.mp3"))
    for form in ("NFC", "NFD"):
        name = unicodedata.normalize(form, "é.mp3")
        assert FileFinder(str(tmp_path)).path(name) == str(tmp_path / name)


def test_files_are_searched_in_data_then_beside_the_list(tmp_path):
    touch(tmp_path, "data/a.mp3", "data/audio/b.mp3", "list/b.mp3", "list/audio/c.mp3")
    (tmp_path / "list" / "x.csv").write_text("a.mp3,1\nb.mp3,1\nc.mp3,1\nd.mp3,1\n")
    paths = read_source(tmp_path / "list" / "x.csv", str(tmp_path / "data"), labelled=True).paths
    assert paths == [
        str(tmp_path / name) for name in ("data/a.mp3", "data/audio/b.mp3", "list/audio/c.mp3", "data/d.mp3")
    ]


def test_paths_that_no_list_can_have_get_a_hint(tmp_path):
    touch(tmp_path, "a\\b.mp3")
    assert read_source_text(tmp_path / "x.csv", "a\\b.mp3,1\n").ids == ["a\\b.mp3"]  # it is there
    text = "C:\\music\\x.mp3,1\nrock\\y.mp3,1\n~/z.mp3,1\n~anna/z.mp3,1\n"
    with pytest.raises(InputError) as caught:
        read_source_text(tmp_path / "x.csv", text)
    windows, home = caught.value.problems
    assert windows.startswith(f"{tmp_path}/x.csv: 2 names, such as C:\\music\\x.mp3, are paths of Windows")
    assert "2 names, such as ~/z.mp3, are relative to a home folder" in home


@pytest.mark.parametrize(
    ("labels", "code_points"),
    [
        (["rock", "Rock"], "U+0072 U+006F U+0063 U+006B"),
        (["Beyoncé", unicodedata.normalize("NFD", "Beyoncé")], "U+0065 U+0301"),
        (["rock", "ro\u200bck"], "U+200B"),
        (["hip hop", "hip\u00a0hop"], "U+00A0"),
        (["STRASSE", "straße"], "U+00DF"),
        (["rock", "\ufeffrock"], "U+FEFF"),
    ],
)
def test_labels_that_look_the_same_are_noted_with_their_code_points(labels, code_points):
    (note,) = similar_labels([*labels, "jazz", "jazz", "1", "01"])
    assert code_points in note
    assert "jazz" not in note
    assert similar_labels([labels[0], "jazz", "1", "01"]) == []


def test_notes_of_labels_are_bounded():
    (note,) = similar_labels([f"{word}{'x' * 900}{i}" for i in range(40) for word in ("a", "A")])
    assert note.endswith("; and 30 more")
    assert len(note) < 8000


def test_folders_have_no_column_of_folds(tmp_path):
    touch(tmp_path, "rock/a.mp3")
    with pytest.raises(InputError, match=r"a folder has no column fold, which folds\.column names"):
        read_source(tmp_path, None, True, "fold")
    assert read_source(tmp_path, None, False, "fold").ids == ["rock/a.mp3"]


def test_a_list_that_may_not_be_reached_names_the_reason(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(sources.os, "stat", refuse)
    with pytest.raises(InputError, match="x: Permission denied"):
        read_source(tmp_path / "x", None, labelled=True)
