"""An append-only file of frames, from which a killed process resumes.

A frame is (length, CRC-32) and its content. The first frame is the log's metadata. A truncated frame is dropped when
the file is opened again, and a file with other metadata is overwritten.
"""

import contextlib
import json
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

from melgpu import console, files

FRAME_HEADER = struct.Struct("<QI")  # length of the content in bytes, its CRC-32


class FrameLog(contextlib.AbstractContextManager):
    """A file of frames in the order in which they were added; locked by one process at a time."""

    def __init__(self, path: Path, metadata: dict, wait_note: str | None = None):
        """`metadata`, JSON data, is all that the frames depend on.

        Where another process has the lock: says `wait_note` and waits, or without one raises BlockingIOError.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        # Created where it does not exist, but never truncated before it is locked: another process may be writing it.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        # Without a buffer, which would try to write again what did not fit on the disk.
        self._file = os.fdopen(descriptor, "r+b", buffering=0)
        try:
            self._lock(wait_note)
        except BaseException:
            self._file.close()
            raise
        if self._read_frame() != json.dumps(metadata).encode():
            self._file.seek(0)
            self._file.truncate()
            self._append(json.dumps(metadata).encode())
        self._first = self._file.tell()

    def _lock(self, wait_note: str | None) -> None:
        try:
            locked = files.lock(self._file.fileno())
        except BlockingIOError:
            if wait_note is None:
                raise
            console.say(wait_note)
            locked = files.lock(self._file.fileno(), wait=True)
        if not locked:
            console.say_once(f"{self.path.parent}: {files.UNLOCKED_NOTE}")

    def __exit__(self, *exc: object) -> None:
        self._file.close()

    def _frames(self) -> Iterator[bytes]:
        """The contents of all frames, without the metadata; to be exhausted before a frame is added."""
        self._file.seek(self._first)
        while content := self._read_frame():
            yield content
        self._file.truncate()  # a damaged rest: the next frame continues after the last complete one

    def _append(self, content: bytes) -> None:
        """Raises OSError with the path, as of a full disk; then the file ends with the frame before."""
        frame = FRAME_HEADER.pack(len(content), zlib.crc32(content)) + content
        start = self._file.tell()
        try:
            written = 0
            while written < len(frame):  # to the page cache: a killed process loses nothing
                written += self._file.write(frame[written:])
        except OSError as error:
            self._file.truncate(start)
            raise OSError(error.errno, error.strerror, str(self.path)) from error

    def _read_frame(self) -> bytes | None:
        """The next complete frame; None, with the position before it, where there is none."""
        start = self._file.tell()
        remaining = os.fstat(self._file.fileno()).st_size - start
        header = self._file.read(FRAME_HEADER.size)
        if len(header) == FRAME_HEADER.size:
            length, crc = FRAME_HEADER.unpack(header)
            # A damaged length may be of any size. Zeros at the end, as after a power failure, are no frame, although
            # the CRC of nothing is 0.
            content = self._file.read(length) if 0 < length <= remaining else b""
            if content and len(content) == length and zlib.crc32(content) == crc:
                return content
        self._file.seek(start)
        return None
