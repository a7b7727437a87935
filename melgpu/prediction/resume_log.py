"""Resume log of a long prediction: a `FrameLog` of batch predictions, from which a killed one resumes.

A frame's content is one line of JSON, then probabilities (K, B, C) float32, then the valid mask (B,) bool.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from melgpu.audio.quarantine import AudioError
from melgpu.errors import InputError
from melgpu.prediction.frame_log import FrameLog


@dataclass(frozen=True)
class BatchPredictions:
    """Predictions of K networks for a batch: probs (K, B, C), valid (B,), and the audio errors found meanwhile.

    The batch begins at position `start` of its window index.
    """

    start: int
    probs: np.ndarray
    valid: np.ndarray
    errors: Sequence[AudioError] = ()


class ResumeLog(FrameLog):
    """A file of batch predictions in the order in which they were added; locked by one process at a time."""

    def __init__(self, path: Path, metadata: dict):
        """`metadata`, JSON data, is all that the predictions depend on. Raises InputError where the file is locked."""
        try:
            super().__init__(path, metadata)
        except BlockingIOError:
            raise InputError(f"{path}: another process is predicting this") from None

    def saved_batches(self) -> Iterator[BatchPredictions]:
        """The predictions that an earlier process logged, in their order; to be exhausted before `add`."""
        for content in self._frames():
            line, data = content.split(b"\n", 1)
            header = json.loads(line)
            num_models, num_windows, num_classes = header["shape"]
            probs = np.frombuffer(data, np.float32, num_models * num_windows * num_classes)
            valid = np.frombuffer(data, bool, num_windows, offset=probs.nbytes)
            audio_errors = [AudioError(**audio_error) for audio_error in header["errors"]]
            yield BatchPredictions(header["start"], probs.reshape(header["shape"]), valid, audio_errors)

    def add(self, predictions: BatchPredictions) -> None:
        header = {"start": predictions.start, "shape": predictions.probs.shape}
        header["errors"] = [asdict(audio_error) for audio_error in predictions.errors]
        data = predictions.probs.astype(np.float32).tobytes() + predictions.valid.tobytes()
        self._append(json.dumps(header).encode() + b"\n" + data)
