"""Atomic writes of text and CSV files, and changes of others: to a temporary file, fsync, rename; and locks.

Reads are validated: regular files only, of bounded size, with the expected columns.
"""

import csv
import errno
import fcntl
import io
import os
import shutil
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from melgpu.errors import InputError, one_line

CHMOD_HINT = "its owner can give it: chmod -R a+rX FOLDER"
UNLOCKED_NOTE = "its file system cannot lock files: start no second process that writes there"


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A temporary path to write to; renamed to `path` if the block succeeds, deleted if it fails.

    The file has the permissions that the umask gives, whatever library writes it. An OSError of the block that names no
    file, as that of a full disk, or the temporary one, names `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # In the same folder, since a rename does not cross file systems; not shared by processes that write the same file.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        mode = _mode_of_new_file(temporary)
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())  # the content reaches the disk before the name does
            if stat.S_IMODE(os.fstat(file.fileno()).st_mode) != mode:  # some libraries write for the owner alone
                os.fchmod(file.fileno(), mode)
        os.replace(temporary, path)
    except OSError as error:
        if error.errno is None or str(error.filename) not in ("None", str(temporary)):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


def _mode_of_new_file(path: Path) -> int:
    """The permissions that a file gets here, by the umask or the folder; the file is deleted again."""
    # The umask itself can only be read by setting it, for all threads of the process.
    path.unlink(missing_ok=True)  # of a killed process with the same number
    path.touch()
    mode = stat.S_IMODE(path.stat().st_mode)
    path.unlink()
    return mode


@contextmanager
def edited_copy(path: Path) -> Iterator[Path]:
    """A copy of a file for a block to change; it replaces the file if the block succeeds, and is deleted if it fails.

    It has the file's permissions, owner and extended attributes, and a new time of modification, by which other
    programs see the change. Raises OSError, also where it could not take the file's place unnoticed.
    """
    path = path.resolve()  # a link stays, and what it leads to is replaced
    before = path.stat()
    if not os.access(path, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    if before.st_nlink > 1:
        reason = f"it has {before.st_nlink} names (hard links), of which a new file would get only one: copy it first"
        raise OSError(errno.EMLINK, reason, str(path))
    temporary = path.with_name(f".melgpu.{os.getpid()}.tmp{path.suffix}")
    try:
        _copy_whole(path, before, temporary)
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        after = path.stat()
        if (after.st_ino, after.st_size, after.st_mtime_ns) != (before.st_ino, before.st_size, before.st_mtime_ns):
            raise OSError(errno.EBUSY, "another program changed it meanwhile", str(path))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _copy_whole(path: Path, status: os.stat_result, copy: Path) -> None:
    """Copy content, owner, permissions and extended attributes of a file."""
    copy.unlink(missing_ok=True)  # of a killed process with the same number
    os.close(os.open(copy, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))  # nobody else reads it meanwhile
    shutil.copyfile(path, copy)
    made = copy.stat()
    if (made.st_uid, made.st_gid) != (status.st_uid, status.st_gid):
        try:
            os.chown(copy, status.st_uid, status.st_gid)
        except OSError as error:
            raise OSError(error.errno, f"a new file cannot get its owner ({error.strerror})", str(path)) from None
    shutil.copystat(path, copy)  # after the owner, whose change clears special bits


def write_text(path: Path, text: str) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_text(path: Path, max_bytes: int = 2**30) -> str:
    """The text of a regular file, with its line ends unchanged.

    Raises UnicodeDecodeError, and OSError for a file of more than `max_bytes` or one that is not regular.
    """
    check_regular_file(path)
    if path.stat().st_size > max_bytes:
        raise OSError(f"{path}: larger than {max_bytes} bytes")
    with open(path, newline="", encoding="utf-8") as file:  # csv interprets the line ends itself
        return file.read()


def existing_parent(path: Path) -> Path:
    """A path, or the nearest of its parents that exists."""
    return next(parent for parent in (path, *path.absolute().parents) if parent.exists())


def check_regular_file(path: Path) -> None:
    """Raise OSError for pipes, devices and folders, which an untrusted folder may contain instead of a file.

    PermissionError for a file that this user may not read: some libraries would call it damaged.
    """
    if not path.exists():
        return
    if not path.is_file():
        raise OSError(f"{path}: not a regular file")
    if not os.access(path, os.R_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))


def lock(file: int, wait: bool = False) -> bool:
    """Lock an open file exclusively, until it is closed or the process ends; False where files cannot be locked.

    So it is on some network file systems and in some containers. Raises BlockingIOError, unless it is to wait, where
    another process has the lock.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        return False
    return True


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence]) -> None:
    """Write a CSV file atomically; `columns` are its header."""
    with atomic_write(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(rows)


@contextmanager
def read_csv(
    path: Path, kind: str, columns: Sequence[str] | None = None
) -> Iterator[tuple[list[str], list[list[str]]]]:
    """The header and the rows of a CSV file, for a block that parses them; `columns`, if given, must equal the header.

    Raises InputError, "not {kind}", for errors of the file and for errors that the block raises while it parses.
    """
    try:
        header, *rows = csv.reader(io.StringIO(read_text(path), newline=""))
        if columns and tuple(header) != tuple(columns):
            raise ValueError(f"its columns are {', '.join(header)}")
        yield header, rows
    except (OSError, ValueError, OverflowError, csv.Error) as error:
        raise InputError(f"{path}: not {kind}: {one_line(error)}") from None
