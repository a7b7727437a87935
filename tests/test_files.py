import errno
import os
import stat
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from melgpu import files
from melgpu.errors import InputError
from tests.helpers import file_size_limit

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


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600), (0o027, 0o640)])
def test_permissions_are_those_of_the_umask_whatever_a_library_gives(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        files.write_text(tmp_path / "own", "x")
        with files.atomic_write(tmp_path / "private") as temporary:
            os.close(os.open(temporary, os.O_CREAT | os.O_WRONLY, 0o600))  # as safetensors does
    finally:
        os.umask(before)
    assert [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("own", "private")] == [mode, mode]
    assert os.umask(before) == before


def test_a_temporary_file_of_a_killed_process_is_replaced(tmp_path):
    left_behind = tmp_path / f".x.txt.{os.getpid()}.tmp"
    left_behind.write_text("half")
    left_behind.chmod(0o400)
    files.write_text(tmp_path / "x.txt", "whole")
    assert (tmp_path / "x.txt").read_text() == "whole"
    assert stat.S_IMODE((tmp_path / "x.txt").stat().st_mode) & 0o600 == 0o600


def change(path, content: bytes) -> None:
    with files.edited_copy(path) as copy:
        assert copy.read_bytes() == path.read_bytes()
        assert copy.suffix == path.suffix  # by which libraries know formats
        copy.write_bytes(content)


def test_a_changed_copy_has_permissions_and_attributes_of_the_file_and_a_new_time(tmp_path):
    path = tmp_path / "x.mp3"
    path.write_bytes(b"old")
    path.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(path, 12_345, 54_321)
    with suppress(OSError):  # some file systems have none
        os.setxattr(path, "user.rating", b"5")
    os.utime(path, (1e9, 1e9))
    before, attributes = path.stat(), os.listxattr(path)
    change(path, b"new")
    after = path.stat()
    assert path.read_bytes() == b"new"
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
    assert after.st_mtime > 1e9
    assert os.listxattr(path) == attributes
    assert os.listdir(tmp_path) == ["x.mp3"]


def test_a_failed_change_leaves_the_file(tmp_path):
    path = tmp_path / "x.mp3"
    path.write_bytes(b"old")
    before = path.stat()

    def fail():
        with files.edited_copy(path) as copy:
            copy.write_bytes(b"half")
            raise ValueError("damaged")

    with pytest.raises(ValueError, match="damaged"):
        fail()
    assert path.read_bytes() == b"old"
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert os.listdir(tmp_path) == ["x.mp3"]


def test_a_link_stays_a_link_to_the_changed_file(tmp_path):
    (tmp_path / "music").mkdir()
    path, link = tmp_path / "music" / "x.mp3", tmp_path / "link.mp3"
    path.write_bytes(b"old")
    link.symlink_to(path)
    change(link, b"new")
    assert link.is_symlink()
    assert path.read_bytes() == b"new"


def test_files_that_cannot_be_replaced_unnoticed_are_not_changed(tmp_path, monkeypatch):
    path = tmp_path / "x.mp3"
    path.write_bytes(b"old")
    os.link(path, tmp_path / "y.mp3")
    with pytest.raises(OSError, match=r"it has 2 names \(hard links\)"):
        change(path, b"new")
    (tmp_path / "y.mp3").unlink()
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write all
    with pytest.raises(PermissionError, match=r"Permission denied: .*x\.mp3"):
        change(path, b"new")
    monkeypatch.undo()
    monkeypatch.setattr(os, "chown", refuse_owner)
    monkeypatch.setattr(files.Path, "stat", stat_of_another_owner(files.Path.stat))
    with pytest.raises(OSError, match="a new file cannot get its owner"):
        change(path, b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["x.mp3"]


def refuse_owner(path, uid, gid):
    raise PermissionError(errno.EPERM, "Operation not permitted")


def stat_of_another_owner(stat_of):
    """`Path.stat`, for which temporary files belong to somebody else."""

    def changed(path, **keywords):
        status = stat_of(path, **keywords)
        if not path.name.startswith("."):
            return status
        fields = list(status)
        fields[4] += 1
        return os.stat_result(fields)

    return changed


def test_a_file_that_another_program_changes_meanwhile_is_left_to_it(tmp_path):
    path = tmp_path / "x.mp3"
    path.write_bytes(b"old")

    def change_both():
        with files.edited_copy(path) as copy:
            copy.write_bytes(b"ours")
            path.write_bytes(b"theirs")

    with pytest.raises(OSError, match="another program changed it meanwhile"):
        change_both()
    assert path.read_bytes() == b"theirs"
    assert os.listdir(tmp_path) == ["x.mp3"]


def test_the_error_of_a_full_disk_names_the_file(tmp_path):
    with file_size_limit(1000), pytest.raises(OSError, match=r"x\.csv'$") as text:
        files.write_csv(tmp_path / "x.csv", ("a",), [("1" * 100_000,)])
    assert text.value.errno == errno.EFBIG
    assert os.listdir(tmp_path) == []


def test_an_error_of_another_file_keeps_its_name(tmp_path):
    with pytest.raises(FileNotFoundError, match="another"), files.atomic_write(tmp_path / "x"):
        os.stat(tmp_path / "another")


def test_a_file_without_permission_is_not_called_damaged(tmp_path, monkeypatch):
    files.write_text(tmp_path / "x.txt", "x")
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may read all
    with pytest.raises(PermissionError, match=r"Permission denied: .*x\.txt"):
        files.read_text(tmp_path / "x.txt")


def test_a_lock_keeps_out_others_until_it_is_closed(tmp_path):
    with open(tmp_path / "x", "wb") as first, open(tmp_path / "x", "ab") as second:
        assert files.lock(first.fileno())
        with pytest.raises(BlockingIOError):
            files.lock(second.fileno())
        first.close()
        assert files.lock(second.fileno())


LOCK_ERRORS = [errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF, errno.EINVAL, errno.EIO]


@pytest.mark.parametrize("number", LOCK_ERRORS)
def test_where_files_cannot_be_locked_there_is_no_lock(tmp_path, monkeypatch, number):
    def fail(file: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files.fcntl, "flock", fail)
    with open(tmp_path / "x", "wb") as file:
        assert not files.lock(file.fileno())
        assert not files.lock(file.fileno(), wait=True)
