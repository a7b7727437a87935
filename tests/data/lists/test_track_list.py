import string

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from melgpu.data import manifest, manifest_builder
from melgpu.data.lists.sources import read_source
from melgpu.data.lists.track_list import read_tracks
from melgpu.data.manifest import Split
from melgpu.errors import InputError
from tests.helpers.runs import read_source_text

TRAIN = "t0.wav,a\nt1.wav,b\nt2.wav,a\nt3.wav,b\n"


def read(path, text: str | bytes, labelled: bool = True, fold_column: str | None = None):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_tracks(path, labelled, fold_column)


@pytest.mark.parametrize(
    "text",
    [
        "a.mp3,1\nb.mp3,01\n",
        "file,class\na.mp3,1\nb.mp3,01\n",
        "genre,filename\n1,a.mp3\n01,b.mp3\n",
        b"\xef\xbb\xbffilename,label\r\na.mp3,1\r\nb.mp3,01\r\n",
        "a.mp3, 1\n\nb.mp3 ,01\n\n",
        '"a.mp3","1"\n"b.mp3","01"\n',
        'a.mp3, "1"\nb.mp3,  "01"\n',
        "a.mp3;1\nb.mp3;01\n",
        "file;label\na.mp3;1\nb.mp3;01\n",
        "file\tlabel\na.mp3\t1\nb.mp3\t01\n",
        "file | label\na.mp3 | 1\nb.mp3 | 01\n",
        "sep=;\r\nfile;label\r\na.mp3;1\r\nb.mp3;01\r\n",
        b"\xef\xbb\xbfsep=\t\na.mp3\t1\nb.mp3\t01\n",
        '"sep=|"\na.mp3|1\nb.mp3|01\n',
        "file,label\ra.mp3,1\rb.mp3,01\r",
        "FILE,Label\na.mp3,1\nb.mp3,01",
        "file;label;;\na.mp3;1;;\nb.mp3;01;;\n",
        "a.mp3,1\n,\nb.mp3,01\n",
    ],
)
def test_csv_forms(tmp_path, text):
    source_list = read_source_text(tmp_path / "x.csv", text)
    assert source_list.ids == ["a.mp3", "b.mp3"]
    assert source_list.labels == ["1", "01"]


@pytest.mark.parametrize(
    ("text", "name", "label"),
    [
        ("Smith, John.mp3;rock, indie\n", "Smith, John.mp3", "rock, indie"),
        ("a, b.mp3\trock\nc, d.mp3\tpop\n", "a, b.mp3", "rock"),
        ("a;b.mp3,rock;pop\n", "a;b.mp3", "rock;pop"),
        ("file,label\na|b.mp3,x\n", "a|b.mp3", "x"),
        ('"a;b.mp3";"r""ock"\n', "a;b.mp3", 'r"ock'),
    ],
)
def test_separators_within_cells_are_kept(tmp_path, text, name, label):
    tracks = read(tmp_path / "x.csv", text)
    assert (tracks.names[0], tracks.labels[0]) == (name, label)


def test_other_separators_than_commas_are_noted(tmp_path):
    assert read(tmp_path / "x.csv", "a.mp3;1\n").notes == [f"{tmp_path}/x.csv: separated by semicolons"]
    assert read(tmp_path / "x.csv", "a.mp3,1\n").notes == []


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
        ("a.mp3,1\nb.mp3,\u200b\n", "line 2: b.mp3 has no label"),
        ("sep=;\na.mp3;1\n;2\n", "line 3: no name of a file"),
        ("song,style\na.mp3,1\n", "line 1: 'song' is neither an audio file"),
        ("filename,mood\na.mp3,1\n", "no column of labels (label, class, genre, category) among filename, mood"),
        (
            "TRACK_ID\tPATH\tTAGS\n1\ta.mp3\trock\n",
            "no column of labels (label, class, genre, category) among track_id",
        ),
        ("filename,label\n", "a header and no rows"),
        ("", "the file is empty"),
        ("sep=;\n", "the file is empty"),
        ("sep=x\na.mp3,1\n", "line 1: sep=x names none of commas, semicolons"),
        (b"a.mp3,\xff\xfe\n", "cannot be read as CSV in UTF-8"),
        ("a.mp3,rock\n".encode("utf-16"), "it is UTF-16"),
        ("a.mp3,rock\n".encode("utf-16-le"), "line 1: 'a?.?m?p?3?' is neither an audio file"),
        ('a.mp3,"1\nb.mp3,2\n', "cannot be read as CSV"),
        ('a.mp3,1\n"b".mp3,2\n', "line 2: cannot be read as CSV"),
        ('a.mp3\t1\n"b".mp3\t2\n', "line 2: cannot be read as CSV"),
        ("a\0.mp3,1\n", "line 1: a NUL character in a?.mp3"),
        (f"a.mp3,{'7' * 5000}\n", "line 1: a text of 5,000 characters, where 1,000 are allowed: 777"),
        (f"{'a' * 5000}.mp3,1\n", "line 1: a text of 5,004 characters, where 4,096 are allowed"),
        ("a.mp3," + "x" * 200_000, "cannot be read as CSV"),
        ("file,label,genre\na.mp3,Sony,rock\n", "the columns label and genre could all be the labels"),
        ("file,label,label\na.mp3,x,y\n", "the columns label and label could all be the labels"),
        ("file,path,label\na.mp3,b.mp3,x\n", "the columns file and path could all name the files"),
        ("id,name,label\n1,2,x\n", "the columns id and name could all name the files"),
    ],
)
def test_a_malformed_csv_is_rejected(tmp_path, text, message):
    with pytest.raises(InputError) as caught:
        read_source_text(tmp_path / "x.csv", text)
    assert message in str(caught.value)
    assert all(problem.startswith(f"{tmp_path}/x.csv") for problem in caught.value.problems)
    assert all(problem.isprintable() and len(problem) < 600 for problem in caught.value.problems)


def test_all_malformed_rows_are_reported(tmp_path):
    with pytest.raises(InputError) as caught:
        read_source_text(tmp_path / "x.csv", "a.mp3,1\nb.mp3\nc.mp3,2\nd.mp3,\n")
    assert len(caught.value.problems) == 2


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("name,file,genre\nSong One,a.mp3,rock\n", "a.mp3"),
        ("path,file,genre\n/music,a.mp3,rock\n", "a.mp3"),
        ("id,track,genre\n17,a.mp3,rock\n", "a.mp3"),
        ("id,genre\na,rock\n", "a"),
        ("label,class,path\nrock,rock,a.mp3\n", "a.mp3"),
    ],
)
def test_the_column_of_files_is_the_one_with_audio_files(tmp_path, text, name):
    tracks = read(tmp_path / "x.csv", text)
    assert (tracks.names, tracks.labels) == ([name], ["rock"])


def test_used_and_ignored_columns_are_noted(tmp_path):
    path = tmp_path / "esc50.csv"
    text = "filename,fold,target,category,esc10,src_file,take\n1-100032-A-0.wav,1,0,dog,True,100032,A\n"
    tracks = read(path, text)
    assert tracks.labels == ["dog"]
    assert tracks.notes == [
        f"{path}: files from filename, labels from category; ignored: fold, target, esc10, src_file, take",
        f"{path} has a column fold: --set folds.column=fold takes the folds from it",
    ]
    tracks = read(path, text, fold_column="Fold")
    assert tracks.folds == ["1"]
    (note,) = tracks.notes
    assert note.endswith("labels from category, folds from fold; ignored: target, esc10, src_file, take")
    assert read(path, "file,label\na.mp3,x\n").notes == []
    wide = "file,label," + ",".join(f"mfcc{i}" for i in range(60))
    assert "mfcc9 and 50 more" in read(path, f"{wide}\na.mp3,x,{','.join('0' * 60)}\n").notes[0]
    assert "first two columns" in read(path, "a.mp3,x,y,z\n").notes[0]


def test_folds_need_their_column_in_every_row(tmp_path):
    with pytest.raises(InputError, match=r"no column split, which folds\.column names, among file, label, fold"):
        read(tmp_path / "x.csv", "file,label,fold\na.mp3,x,0\n", fold_column="split")
    with pytest.raises(InputError, match=r"line 3: b\.mp3 has no fold"):
        read(tmp_path / "x.csv", "file,label,fold\na.mp3,x,0\nb.mp3,x,\n", fold_column="fold")
    with pytest.raises(InputError, match="the list has no header"):
        read(tmp_path / "x.csv", "a.mp3,x,0\n", fold_column="fold")
    assert read(tmp_path / "x.csv", "file,fold\na.mp3,\n", labelled=False, fold_column="fold").folds == [""]


def test_ids_beside_files_are_those_of_the_submission(tmp_path):
    tracks = read(tmp_path / "x.csv", "id,file\n7,a.mp3\n3,b.mp3\n", labelled=False)
    assert (tracks.names, tracks.ids) == (["a.mp3", "b.mp3"], ["7", "3"])
    assert read(tmp_path / "x.csv", "id\na.mp3\n", labelled=False).ids == [""]
    assert read(tmp_path / "x.csv", "id,file,label\n7,a.mp3,x\n").ids == [""]
    with pytest.raises(InputError) as caught:
        read(tmp_path / "x.csv", "id,file\n7,a.mp3\n7,b.mp3\n,c.mp3\n", labelled=False)
    assert [problem.rpartition("x.csv, ")[2] for problem in caught.value.problems[1:]] == ["line 4: c.mp3 has no id"]
    assert "line 3: the id 7 is listed twice (first: " in caught.value.problems[0]


WORDS = ["file", "label", "genre", "id", "fold", "artist", "a.mp3", "b.wav", "rock", "Rock", "0", "1", "~/a.mp3", ".."]
LONG = ["9" * 5000, "a" * 300 + ".mp3", "/" * 5000, "\0", "https://x/#?.mp3", "s3://"]
ODD_CHARACTERS = string.printable + "\0\u200b\u0301\ufeffé\u0663\U0001f3b5\x85\u2028"
CELLS = st.one_of(
    st.sampled_from(WORDS + LONG),
    st.text(st.sampled_from(ODD_CHARACTERS), max_size=12),
    st.text(st.characters(codec="utf-8"), max_size=4),
)


@st.composite
def csv_texts(draw) -> bytes:
    """Rows of words and odd characters, with any separator, below a header or none."""
    rows = draw(st.lists(st.lists(CELLS, min_size=1, max_size=4), max_size=6))
    separator = draw(st.sampled_from([",", ";", "\t", "|"]))
    first_line = draw(st.sampled_from(["", "sep=;\n", "file,label\n", "file;label;fold\n"]))
    return (first_line + "\n".join(separator.join(row) for row in rows)).encode()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=300)
@given(st.one_of(csv_texts(), st.binary(max_size=60)), st.booleans(), st.sampled_from([None, "fold"]))
def test_nothing_in_a_csv_raises_anything_but_named_problems(tmp_path, text, labelled, fold_column):
    path = tmp_path / "x.csv"
    path.write_bytes(text)
    problems = []
    try:
        source_list = read_source(path, None, labelled, fold_column)
        columns = (source_list.ids, source_list.paths, source_list.labels, source_list.groups, source_list.locations)
        assert len({len(column) for column in columns}) == 1
        train = source_list if labelled else read_source_text(tmp_path / "train.csv", TRAIN)
        source_lists = {Split.TRAIN: train} if labelled else {Split.TRAIN: train, Split.PUBLIC: source_list}
        tracks = manifest_builder.build(source_lists, 2, 8)
        manifest.save(tracks, tmp_path / "manifest.csv")
        assert manifest.load(tmp_path / "manifest.csv", 2) == tracks
    except InputError as error:
        problems = error.problems or [""]
    assert all(problem.isprintable() and problem for problem in problems)
