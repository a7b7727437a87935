import pytest

from melgpu.data.sources import read_source
from melgpu.errors import InputError
from tests.helpers.runs import read_source_text, touch


@pytest.mark.parametrize(
    "text",
    [
        "a.mp3,1\nb.mp3,01\n",
        "file,class\na.mp3,1\nb.mp3,01\n",
        "genre,filename\n1,a.mp3\n01,b.mp3\n",
        b"\xef\xbb\xbffilename,label\r\na.mp3,1\r\nb.mp3,01\r\n",
        "a.mp3, 1\n\nb.mp3 ,01\n\n",
        '"a.mp3","1"\n"b.mp3","01"\n',
    ],
)
def test_csv_forms(tmp_path, text):
    source_list = read_source_text(tmp_path / "x.csv", text)
    assert source_list.ids == ["a.mp3", "b.mp3"]
    assert source_list.labels == ["1", "01"]


def test_a_test_source_list_needs_no_labels_and_stays_in_order(tmp_path):
    source_list = read_source_text(tmp_path / "x.csv", "z.mp3\na.mp3\n", labelled=False)
    assert source_list.ids == ["z.mp3", "a.mp3"]
    assert source_list.labels == ["", ""]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.mp3,1\nb.mp3\n", "line 2: 1 fields instead of 2"),
        ("a.mp3,1\nb.mp3,2,3\n", "line 2: 3 fields instead of 2"),
        ("a.mp3,1\nb.mp3,\n", "line 2: b.mp3 has no label"),
        ("song,style\na.mp3,1\n", "line 1: 'song' is neither an audio file"),
        ("filename,mood\na.mp3,1\n", "no column of labels"),
        ("filename,label\n", "a header and no rows"),
        ("", "the file is empty"),
        (b"a.mp3,\xff\xfe\n", "cannot be read as CSV in UTF-8"),
        ('a.mp3,"1\nb.mp3,2\n', "cannot be read as CSV"),
    ],
)
def test_a_malformed_csv_is_rejected(tmp_path, text, message):
    with pytest.raises(InputError) as caught:
        read_source_text(tmp_path / "x.csv", text)
    assert message in str(caught.value)
    assert "x.csv" in str(caught.value)


def test_all_malformed_rows_are_reported(tmp_path):
    with pytest.raises(InputError) as caught:
        read_source_text(tmp_path / "x.csv", "a.mp3,1\nb.mp3\nc.mp3,2\nd.mp3,\n")
    assert len(caught.value.problems) == 2


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


def test_the_first_known_column_takes_precedence(tmp_path):
    source_list = read_source_text(tmp_path / "x.csv", "name,file,genre,class\nSong One,a.mp3,rock,7\n")
    assert (source_list.ids, source_list.labels) == (["a.mp3"], ["7"])
