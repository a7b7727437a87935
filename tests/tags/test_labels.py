import os
import shutil
from collections import Counter

import mutagen
import pytest

from melgpu.errors import InputError
from melgpu.tags import containers, edit, labels
from melgpu.tags.labels import clean_genres, read_tagged_folder
from tests.helpers import write_audio
from tests.helpers.tags import tagged_files


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """A file without tags in each format, by its suffix."""
    folder = tmp_path_factory.mktemp("bare")
    return {suffix: tagged_files.write_bare(folder / f"a{suffix}", 0.5) for suffix in tagged_files.SUFFIXES}


@pytest.fixture
def add(bare, tmp_path):
    """Writes a file of the folder `music` with genres and an artist, as mutagen's simple interface has them."""

    def add_file(name: str, genres: list[str], artist: str = "") -> None:
        path = tmp_path / "music" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(bare[path.suffix], path)
        file = mutagen.File(path, easy=True)
        if file.tags is None:
            file.add_tags()
        if genres:
            file["genre"] = genres
        if artist:
            file["artist"] = artist
        file.save()

    return add_file


@pytest.mark.parametrize(
    ("texts", "genres"),
    [
        (["Rock"], ["Rock"]),
        (["  hip\t hop \n"], ["hip hop"]),
        (["17"], ["Rock"]),
        (["(17)"], ["Rock"]),
        (["(17)Rock"], ["Rock"]),
        (["(17)(18)"], ["Rock", "Techno"]),
        (["(4)Eurodisco"], ["Disco", "Eurodisco"]),
        (["((Not) a number"], ["(Not) a number"]),
        (["(RX)"], ["Remix"]),
        (["0"], ["Blues"]),
        (["255"], []),
        (["(200)"], []),
        (["unknown"], []),
        (["1984"], ["1984"]),  # no genre of ID3v1 has this number
        (["Rock", "Pop", "rock", "ROCK "], ["Rock", "Pop"]),
        (["Rock; Pop;;"], ["Rock", "Pop"]),
        (["Rock\0Pop"], ["Rock", "Pop"]),
        (["R&B/Soul"], ["R&B/Soul"]),
        (["Folk, World, & Country"], ["Folk, World, & Country"]),
        (["", " ", "\u200b", "x" * 101], []),
        ([], []),
    ],
)
def test_genres_of_a_tag(texts, genres):
    assert clean_genres(texts) == genres


@pytest.mark.parametrize("suffix", tagged_files.SUFFIXES)
def test_each_format_has_a_label_and_an_artist(add, tmp_path, suffix):
    add(f"a{suffix}", ["Nhạc vàng"], "Björk")
    listed = read_tagged_folder(tmp_path / "music")
    assert listed.ids == [f"a{suffix}"]
    assert listed.paths == [str(tmp_path / "music" / f"a{suffix}")]
    assert (listed.labels, listed.groups) == (["Nhạc vàng"], ["björk"])


def test_an_id3v1_genre_is_read_where_there_is_no_other(bare, tmp_path):
    for name in ("a.mp3", "b.mp3"):
        shutil.copy(bare[".mp3"], tmp_path / name)
        tagged_files.append_id3v1(tmp_path / name, 17)
    tagged_files.id3_of_other_programs("Pop").save(tmp_path / "b.mp3")
    assert read_tagged_folder(tmp_path).labels == ["Rock", "Pop"]


def test_spellings_of_a_genre_are_one_label(add, tmp_path):
    for i, genre in enumerate(["hip hop", "Hip Hop", "Hip  Hop", "HIP HOP", "Hip Hop ", "jazz", "Jazz"]):
        add(f"{i}.mp3", [genre])
    listed = read_tagged_folder(tmp_path / "music")
    assert Counter(listed.labels) == {"Hip Hop": 5, "Jazz": 2}
    table = listed.notes[-1].splitlines()[1:]
    assert [line.split()[:5] for line in table] == [
        ["genre", "files", "artists", "also", "written"],
        ["Hip", "Hop", "5", "5", "hip"],
        ["Jazz", "2", "2", "jazz"],
    ]
    assert table[1].endswith("hip hop, HIP HOP") or table[1].endswith("HIP HOP, hip hop")


def test_what_is_left_out_is_told_with_its_number(add, tmp_path):
    folder = tmp_path / "music"
    for i, artist in enumerate(["Anna", "ANNA", "Ben", ""]):
        add(f"rock/{i}.flac", ["Rock"], artist)
    add("several.ogg", ["Rock", "Pop"], "Anna")
    add("none.opus", [], "Anna")
    add("predicted.mp3", ["x"])
    edit.write_genre(str(folder / "predicted.mp3"), "Pop", 0.9)
    (folder / "damaged.m4a").write_bytes(b"\0\0\0\x20ftypM4A " + bytes(100))
    write_audio(folder / "other.wav", 0.1)
    (folder / "booklet.pdf").touch()
    listed = read_tagged_folder(folder)
    assert listed.ids == ["rock/0.flac", "rock/1.flac", "rock/2.flac", "rock/3.flac", "several.ogg"]
    assert listed.labels == ["Rock"] * 5
    assert listed.groups == ["anna", "anna", "ben", "", "anna"]
    notes = "\n".join(listed.notes)
    for expected in (
        "ignored: 1 .pdf",
        f"left out: 1 file without a genre, such as {folder}/none.opus",
        f"left out: 1 file with a genre that melgpu predicted, such as {folder}/predicted.mp3",
        f"left out: 1 file with tags that cannot be read, such as {folder}/damaged.m4a (",
        f"left out: 1 file of formats whose tags are not read, such as {folder}/other.wav",
        "1 file with several genres, of which the first counts",
        "1 file without an artist, each as if of its own",
    ):
        assert expected in notes
    assert listed.notes[-1].splitlines()[-1].split() == ["Rock", "5", "3"]


def test_a_predicted_genre_that_was_corrected_is_a_label(add, tmp_path):
    add("a.flac", ["x"])
    path = tmp_path / "music" / "a.flac"
    edit.write_genre(str(path), "Pop", 0.9)
    file = mutagen.File(path)
    file["genre"] = ["Rock"]
    file.save()
    assert containers.predicted_label(containers.open_tags(path).comments) == "Pop"
    assert read_tagged_folder(tmp_path / "music").labels == ["Rock"]


def test_a_folder_without_genres_is_refused(add, tmp_path):
    add("a.mp3", [])
    with pytest.raises(InputError, match=r"music: no file has a genre in its tags; left out: 1 file without a genre"):
        read_tagged_folder(tmp_path / "music")


def test_problems_of_a_folder(add, tmp_path):
    add("a.mp3", ["Rock"])
    with pytest.raises(InputError, match=r"a\.mp3: --labels-from-tags reads the files of a folder, and this is none"):
        read_tagged_folder(tmp_path / "music" / "a.mp3")
    with pytest.raises(InputError, match=r"a folder has no column fold, which folds\.column names"):
        read_tagged_folder(tmp_path / "music", "fold")
    (tmp_path / "music" / "disc").symlink_to(tmp_path / "unmounted")
    with pytest.raises(InputError, match="disc: a link that cannot be followed"):
        read_tagged_folder(tmp_path / "music")
    (tmp_path / "music" / "disc").unlink()
    os.mkfifo(tmp_path / "music" / "pipe.mp3")
    assert "pipe.mp3 (not a regular file)" in "".join(read_tagged_folder(tmp_path / "music").notes)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no audio files in this folder"):
        read_tagged_folder(tmp_path / "empty")


def test_the_label_does_not_depend_on_the_order_of_files():
    assert labels.most_frequent(Counter(["b", "a"])) == labels.most_frequent(Counter(["a", "b"])) == "a"
    assert labels.most_frequent(Counter(["a", "b", "b"])) == "b"
