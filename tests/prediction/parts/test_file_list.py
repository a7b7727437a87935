import os
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from melgpu.errors import InputError
from melgpu.prediction.parts import file_list
from melgpu.prediction.parts.file_list import numbered_names, open_list, write_list
from melgpu.prediction.parts.freeze import freeze_folder
from tests.helpers import run_script
from tests.helpers.runs import touch

NAMES = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1).filter(str.strip)


def names_of(path) -> list[str]:
    return [name for _, name in numbered_names(path)]


@given(st.lists(NAMES, min_size=1))
def test_a_csv_gives_any_names_as_they_were_written(tmp_path_factory, names):
    path = tmp_path_factory.mktemp("list") / "l.csv"
    write_list(path, names)
    assert names_of(path) == names
    assert open_list(path).rows == len(names)


@given(st.lists(NAMES.filter(lambda name: not set(name) & {"\n", "\r"} and name[0] != "\ufeff"), min_size=1))
def test_a_text_gives_names_of_one_line_as_they_were_written(tmp_path_factory, names):
    path = tmp_path_factory.mktemp("list") / "l.txt"
    write_list(path, names)
    assert names_of(path) == names
    assert open_list(path).rows == len(names)


@pytest.mark.parametrize("suffix", [".txt", ".csv"])
def test_the_parts_together_are_the_list(tmp_path, suffix):
    names = [f"{i}.mp3" for i in range(23)]
    write_list(tmp_path / f"l{suffix}", names)
    opened = open_list(tmp_path / f"l{suffix}")
    for count in (1, 3, 8, 23, 40):
        parts = [list(opened.part(index, count)) for index in range(count)]
        assert parts == [names[index::count] for index in range(count)]
        assert [opened.part_rows(index, count) for index in range(count)] == list(map(len, parts))
    assert list(opened.part(1, 3, first=2)) == names[7::3]


@pytest.mark.parametrize(
    "text",
    [
        "a.mp3\nb c.mp3\nhttps://x.org/d.mp3",
        "\ufeffa.mp3\r\n\r\nb c.mp3\r\n   \nhttps://x.org/d.mp3\r\n",
    ],
)
def test_lines_as_editors_write_them(tmp_path, text):
    (tmp_path / "l.txt").write_bytes(text.encode())
    assert names_of(tmp_path / "l.txt") == ["a.mp3", "b c.mp3", "https://x.org/d.mp3"]


@pytest.mark.parametrize(
    "text",
    [
        "path\na.mp3\nb;c.mp3\n",
        "label,path\nx,a.mp3\ny,b;c.mp3\n",
        "a.mp3,x\nb;c.mp3,y\n",
        '\ufeffid;file;label\r\n1;a.mp3;x\r\n\r\n2;"b;c.mp3";y\r\n',
        "sep=\t\nfilename\tlabel\na.mp3\tx\nb;c.mp3\ty\n",
    ],
)
def test_the_column_of_a_csv_is_found(tmp_path, text):
    (tmp_path / "l.csv").write_bytes(text.encode())
    assert names_of(tmp_path / "l.csv") == ["a.mp3", "b;c.mp3"]


def test_a_column_of_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    names = [f"{i}\n.mp3" for i in range(20_000)]
    parquet.write_table(pyarrow.table({"label": ["x"] * 20_000, "Path": names}), tmp_path / "l.parquet")
    assert names_of(tmp_path / "l.parquet") == names
    parquet.write_table(pyarrow.table({"label": ["x"]}), tmp_path / "m.parquet")
    with pytest.raises(InputError, match="none of its columns is named file or filename or path"):
        open_list(tmp_path / "m.parquet")
    (tmp_path / "n.parquet").write_bytes(b"PAR1 or not")
    with pytest.raises(InputError, match=r"n\.parquet: cannot be read as Parquet"):
        open_list(tmp_path / "n.parquet")


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("l.txt", b"", "the list is empty"),
        ("l.txt", b"\n \n", "the list is empty"),
        ("l.txt", b"a.mp3\nb\0.mp3\n", r"line 2: a NUL character: 'b\?\.mp3'"),
        ("l.txt", b"a.mp3\n\ncaf\xe9.mp3\n", "line 3: not UTF-8"),
        ("l.txt", b"a" * 5000, "line 1: 5,000 characters"),
        ("l.txt", b"a" * 100_000, "line 1: more than 16,384 bytes: not a list of files"),
        ("l.csv", b"path,label\na.mp3,x\n,y\n", "line 3: no name of a file"),
        ("l.csv", b"path,label\n", "a header and no rows"),
        ("l.csv", b'path\na.mp3\n"b.mp3" x\n', "line 3: cannot be read as CSV"),
        ("l.csv", b"label\nx\n", "neither an audio file nor a header"),
        ("l.lst", b"a.mp3\n", r"give it the suffix of a format: \.txt, \.csv, \.parquet"),
    ],
)
def test_wrong_lists_are_refused_with_the_line(tmp_path, name, content, reason):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=reason):
        open_list(tmp_path / name)


def test_what_is_no_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.txt")
    for path, reason in (
        (tmp_path, "a folder: --write-list"),
        (tmp_path / "absent.txt", "no such file"),
        (tmp_path / "pipe.txt", "not a regular file"),
    ):
        with pytest.raises(InputError, match=reason):
            open_list(path)


def test_many_problems_are_named_up_to_a_limit(tmp_path):
    (tmp_path / "l.txt").write_bytes(b"\0\n" * 1000)
    with pytest.raises(InputError) as error:
        open_list(tmp_path / "l.txt")
    assert len(error.value.problems) == file_list.MAX_NAMED


@pytest.mark.parametrize("name", ["l.txt", "l.csv"])
def test_a_folder_is_frozen(tmp_path, name, capsys):
    touch(tmp_path / "music", "b/10.mp3", "b/2.ogg", "a.flac", "b/cover.jpg", "line\nbreak.mp3")
    left_out = freeze_folder(tmp_path / "music", tmp_path / name, 64)
    takes_all = name == "l.csv"
    assert left_out == (0 if takes_all else 1)
    expected = [f"{tmp_path}/music/{found}" for found in ("a.flac", "b/2.ogg", "b/10.mp3", "line\nbreak.mp3")]
    opened = open_list(tmp_path / name)
    assert list(opened.part(0, 1)) == (expected if takes_all else expected[:3])
    assert (opened.rows, opened.parts) == (4 if takes_all else 3, 64)
    output = capsys.readouterr().out
    assert "note: ignored: 1 .jpg" in output
    assert ("a line break in its name, which only a .csv can have" in output) == (not takes_all)


def test_a_frozen_list_is_neither_replaced_nor_changed(tmp_path):
    touch(tmp_path / "music", "a.mp3")
    freeze_folder(tmp_path / "music", tmp_path / "l.txt", None)
    assert open_list(tmp_path / "l.txt").parts is None
    with pytest.raises(InputError, match=r"l\.txt exists, and a frozen list is not replaced"):
        freeze_folder(tmp_path / "music", tmp_path / "l.txt", None)
    with open(tmp_path / "l.txt", "a") as file:
        file.write("b.mp3\n")
    with pytest.raises(InputError, match="it has changed since it was frozen"):
        open_list(tmp_path / "l.txt")


def test_a_folder_without_music_writes_no_list(tmp_path):
    touch(tmp_path / "music", "notes.txt")
    with pytest.raises(InputError, match=r"no audio files in this folder \(ignored: 1 \.txt\)"):
        freeze_folder(tmp_path / "music", tmp_path / "l.txt", None)
    with pytest.raises(InputError, match="not a folder"):
        freeze_folder(tmp_path / "music" / "notes.txt", tmp_path / "l.txt", None)
    assert [path.name for path in tmp_path.iterdir()] == ["music"]


def test_memory_does_not_grow_with_the_list(tmp_path):
    code = (
        "import itertools, resource, sys\n"
        "from pathlib import Path\n"
        "from melgpu.prediction.parts.file_list import open_list, write_list\n"
        "path = Path(sys.argv[1])\n"
        "write_list(path, (f'/music/artist {i % 1000}/album/{i}.mp3' for i in range(int(sys.argv[2]))))\n"
        "print(sum(1 for _ in open_list(path).part(1, 3)), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
    )
    peaks = {}
    for rows in (1_000, 300_000):
        for suffix in ("txt", "csv"):
            process = run_script("-c", code, tmp_path / f"{rows}.{suffix}", rows)
            count, peaks[rows, suffix] = map(int, process.stdout.split())
            assert count == len(range(1, rows, 3)), process.stderr
    for suffix in ("txt", "csv"):  # 300,000 paths are more than 30 MB
        assert peaks[300_000, suffix] < peaks[1_000, suffix] + 10_000, sys.platform
