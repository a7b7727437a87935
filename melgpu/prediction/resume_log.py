"""Answers of a long prediction as they come: a file to which each batch is added, so that a killed one goes on.

A frame is (length, CRC-32) and its content: one line of JSON, then probabilities (K, B, C) float32, then which of the
windows were heard. The first frame says what the answers are of. A frame that was cut off is dropped when the file is
opened again, and a file about something else is begun anew.
"""

import contextlib
import fcntl
import json
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from melgpu.audio.quarantine import AudioError
from melgpu.errors import InputError

HEADER = struct.Struct("<QI")


@dataclass(frozen=True)
class BatchPredictions:
    """What K networks say of a batch: probs (K, B, C), heard (B,), and the files that were found broken meanwhile.

    The batch begins at `place` of its order.
    """

    start: int
    probs: np.ndarray
    valid: np.ndarray
    errors: Sequence[AudioError] = ()


class ResumeLog(contextlib.AbstractContextManager):
    """A file of answers in the order of their batches; held by one process at a time."""

    def __init__(self, path: Path, metadata: dict):
        """`about`, JSON data, is all that the answers depend on. Raises InputError where another process is at it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise InputError(f"{path}: another process is predicting this") from None
        if self._frame() != json.dumps(metadata).encode():
            self._file.seek(0)
            self._file.truncate()
            self._append(json.dumps(metadata).encode())

    def saved_batches(self) -> Iterator[BatchPredictions]:
        """The answers that an earlier process left, from the first batch on; to be exhausted before `add`."""
        while content := self._frame():
            line, data = content.split(b"\n", 1)
            metadata = json.loads(line)
            num_models, num_windows, num_classes = metadata["shape"]
            probs = np.frombuffer(data, np.float32, num_models * num_windows * num_classes)
            valid = np.frombuffer(data, bool, num_windows, offset=probs.nbytes)
            audio_errors = [AudioError(**audio_error) for audio_error in metadata["errors"]]
            yield BatchPredictions(metadata["start"], probs.reshape(metadata["shape"]), valid, audio_errors)
        self._file.truncate()

    def add(self, answers: BatchPredictions) -> None:
        metadata = {"start": answers.start, "shape": answers.probs.shape}
        metadata["errors"] = [asdict(audio_error) for audio_error in answers.errors]
        data = answers.probs.astype(np.float32).tobytes() + answers.valid.tobytes()
        self._append(json.dumps(metadata).encode() + b"\n" + data)

    def __exit__(self, *exc) -> None:
        self._file.close()

    def _append(self, content: bytes) -> None:
        self._file.write(HEADER.pack(len(content), zlib.crc32(content)) + content)
        self._file.flush()  # the system has it: a killed process loses nothing

    def _frame(self) -> bytes | None:
        """The next whole frame; None, and the place before it, where there is none."""
        start, left = self._file.tell(), os.fstat(self._file.fileno()).st_size - self._file.tell()
        head = self._file.read(HEADER.size)
        if len(head) == HEADER.size:
            length, crc = HEADER.unpack(head)
            content = self._file.read(length) if 0 < length <= left else b""
            if content and len(content) == length and zlib.crc32(content) == crc:
                return content
        self._file.seek(start)
        return None
