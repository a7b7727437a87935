"""Resume log of a long prediction: an append-only file of batch predictions, from which a killed one resumes.

A frame is (length, CRC-32) and its content: one line of JSON, then probabilities (K, B, C) float32, then the valid
mask (B,) bool. The first frame is the log's metadata. A truncated frame is dropped when the file is opened again, and
a file with other metadata is overwritten.
"""

import contextlib
import json
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from melgpu import console, files
from melgpu.audio.quarantine import AudioError
from melgpu.errors import InputError

FRAME_HEADER = struct.Struct("<QI")  # length of the content in bytes, its CRC-32


@dataclass(frozen=True)
class BatchPredictions:
    """Predictions of K networks for a batch: probs (K, B, C), valid (B,), and the audio errors found meanwhile.

    The batch begins at position `start` of its window index.
    """

    start: int
    probs: np.ndarray
    valid: np.ndarray
    errors: Sequence[AudioError] = ()


class ResumeLog(contextlib.AbstractContextManager):
    """A file of batch predictions in the order in which they were added; locked by one process at a time."""

    def __init__(self, path: Path, metadata: dict):
        """`metadata`, JSON data, is all that the predictions depend on. Raises InputError where the file is locked."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        # Created where it does not exist, but never truncated before it is locked: another process may be writing it.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        # Without a buffer, which would try to write again what did not fit on the disk.
        self._file = os.fdopen(descriptor, "r+b", buffering=0)
        try:
            if not files.lock(descriptor):
                console.say_once(f"{path.parent}: {files.UNLOCKED_NOTE}")
        except BlockingIOError:
            self._file.close()
            raise InputError(f"{path}: another process is predicting this") from None
        if self._read_frame() != json.dumps(metadata).encode():
            self._file.seek(0)
            self._file.truncate()
            self._append(json.dumps(metadata).encode())

    def saved_batches(self) -> Iterator[BatchPredictions]:
        """The predictions that an earlier process logged, in their order; to be exhausted before `add`."""
        while content := self._read_frame():
            line, data = content.split(b"\n", 1)
            header = json.loads(line)
            num_models, num_windows, num_classes = header["shape"]
            probs = np.frombuffer(data, np.float32, num_models * num_windows * num_classes)
            valid = np.frombuffer(data, bool, num_windows, offset=probs.nbytes)
            audio_errors = [AudioError(**audio_error) for audio_error in header["errors"]]
            yield BatchPredictions(header["start"], probs.reshape(header["shape"]), valid, audio_errors)
        self._file.truncate()  # a damaged rest: `add` continues after the last complete frame

    def add(self, predictions: BatchPredictions) -> None:
        header = {"start": predictions.start, "shape": predictions.probs.shape}
        header["errors"] = [asdict(audio_error) for audio_error in predictions.errors]
        data = predictions.probs.astype(np.float32).tobytes() + predictions.valid.tobytes()
        self._append(json.dumps(header).encode() + b"\n" + data)

    def __exit__(self, *exc: object) -> None:
        self._file.close()

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
