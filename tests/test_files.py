import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from melgpu import files
from melgpu.errors import InputError

texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.integers(1, 4).flatmap(lambda n: st.lists(st.lists(texts, min_size=n, max_size=n), min_size=1)))
def test_csv_round_trip(tmp_path, lines):
    columns, *rows = lines
    files.write_csv(tmp_path / "x.csv", columns, rows)
    with files.read_csv(tmp_path / "x.csv", "a table", columns) as parsed:
        assert parsed == (columns, rows)


@pytest.mark.parametrize("content", [b"", b"a,c\n", b"\xff\xfe", b"a,b\n" + b"x" * 200_000, b"a,b\n1,x\n"])
def test_errors_while_parsing_name_the_file(tmp_path, content):
    (tmp_path / "x.csv").write_bytes(content)
    with (
        pytest.raises(InputError, match=r"x\.csv: not a table: "),
        files.read_csv(tmp_path / "x.csv", "a table", ("a", "b")) as (_, rows),
    ):
        assert [int(b) for _, b in rows] == []


def test_files_that_are_not_regular_are_rejected(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "absent", "."):
        with (
            pytest.raises(InputError, match="not a table"),
            files.read_csv(tmp_path / name, "a table") as _,
        ):
            pytest.fail("read")


def test_a_failed_csv_leaves_the_old_file(tmp_path):
    path = tmp_path / "x.csv"
    files.write_csv(path, ("a",), [("1",)])
    before = path.read_bytes()
    with pytest.raises(ZeroDivisionError):
        files.write_csv(path, ("a",), ((1 // n,) for n in (1, 0)))
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["x.csv"]


def test_a_failed_write_leaves_the_old_file_and_no_temporary(tmp_path):
    path = tmp_path / "deep" / "x.txt"
    files.write_text(path, "old")

    def fail():
        with files.atomic_write(path) as temporary:
            temporary.write_text("half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]
