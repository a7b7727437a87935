"""The log of a part: the answers for its files that are finished, from which a killed task resumes.

A frame is a chunk of files in the order of the part: one line of JSON, then probabilities (N, C) float32.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

import numpy as np

from melgpu.audio.quarantine import AudioError
from melgpu.prediction.frame_log import FrameLog
from melgpu.prediction.table import FileStatus, PredictionTable


@dataclass(frozen=True, eq=False)  # eq=False: arrays have no truth value
class Answers:
    """The answers for N files: probs (N, C) float32, without meaning for unusable ones; the others (N,)."""

    probs: np.ndarray
    errors: Sequence[AudioError | None]
    used_s: Sequence[float | None]
    statuses: Sequence[FileStatus]

    def table(self, paths: Sequence[str], class_names: Sequence[str], min_confidence: float) -> PredictionTable:
        """The rows of these files."""
        return PredictionTable(paths, class_names, self.probs, self.errors, self.used_s, self.statuses, min_confidence)


class PartLog(FrameLog):
    """The answers of a part in the order of its files; locked by one process at a time."""

    def saved(self) -> Iterator[Answers]:
        """The answers so far, chunk by chunk; to be exhausted before `add`."""
        for content in self._frames():
            line, data = content.split(b"\n", 1)
            header = json.loads(line)
            errors = [AudioError(**error) if error else None for error in header["errors"]]
            statuses = [_status(*status) for status in header["statuses"]]
            probs = np.frombuffer(data, np.float32).reshape(len(errors), -1)
            yield Answers(probs, errors, header["used_s"], statuses)

    def add(self, answers: Answers) -> None:
        header = {
            "errors": [error and asdict(error) for error in answers.errors],
            "used_s": answers.used_s,
            "statuses": [_seconds(status) for status in answers.statuses],
        }
        self._append(json.dumps(header).encode() + b"\n" + answers.probs.astype(np.float32).tobytes())


def _seconds(status: FileStatus) -> tuple[int | None, int | None]:
    return status.size, None if status.mtime is None else round(status.mtime.timestamp())


def _status(size: int | None, mtime_s: int | None) -> FileStatus:
    return FileStatus(size, None if mtime_s is None else datetime.fromtimestamp(mtime_s, UTC))
