"""Files that are whole or absent: written beside their place, synced, then renamed into it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name to write to; becomes `path` if the block succeeds, vanishes if it fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_text(path: Path, most: int = 2**30) -> str:
    """A regular file's text, its line ends as they are. Raises UnicodeDecodeError; OSError also for what never ends.

    That is a pipe or a device, or a file of more than `most` bytes.
    """
    refuse_odd(path)
    if path.stat().st_size > most:
        raise OSError(f"{path}: larger than {most} bytes")
    with open(path, newline="", encoding="utf-8") as file:
        return file.read()


def refuse_odd(path: Path) -> None:
    """Raise OSError for pipes, devices and folders, which a stranger's folder may hold in a file's place."""
    if path.exists() and not path.is_file():
        raise OSError(f"{path}: not a regular file")
