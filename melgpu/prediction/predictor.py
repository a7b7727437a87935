"""Networks that listen together, and what they say, kept batch by batch so that a killed prediction goes on.

Batches of a prediction begun again are the same as before, and so are the answers, to the bit.
"""

import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from melgpu import console
from melgpu.audio.remote import is_url
from melgpu.data import windows
from melgpu.data.batch import Batch
from melgpu.data.loader import WindowLoader
from melgpu.data.windows import WindowIndex
from melgpu.features import parity
from melgpu.features.log_mel import LogMel
from melgpu.models import classifier, inference
from melgpu.models.classifier import Classifier
from melgpu.prediction.ensemble import Ensemble
from melgpu.prediction.resume_log import BatchPredictions, ResumeLog
from melgpu.recipe import Recipe


class Predictor:
    """K networks on a device, with the pictures that they were trained on."""

    def __init__(self, networks: list[tuple[Classifier, dict]], settings: Recipe, device: torch.device):
        """From networks and what their checkpoints say. Raises InputError where one was trained on other pictures."""
        machine = settings.machine
        self._features = LogMel(settings.mel, settings.audio.sample_rate, machine.feature_batch).to(device)
        front_end = parity.measure_parity(self._features, settings.audio.sample_rate, device)
        for metadata in (metadata for model, metadata in networks if model.front_end is None):
            parity.check_same_pictures(
                front_end, metadata["parity"], f"{metadata['backbone']}, fold {metadata['fold']}"
            )
        self._flip = settings.predict.flip
        self._bfloat16 = classifier.use_bfloat16(settings.optim.precision, device)
        self._models = [model.to(device).set_memory_format(machine.channels_last) for model, _ in networks]

    def probs(self, batches: Iterable[Batch]) -> Iterator[tuple[Batch, Tensor]]:
        """Probabilities, shape (K, B, C), on the CPU, of each batch's windows; see `inference.window_probs`."""
        return inference.window_probs(self._models, self._features, batches, self._flip, self._bfloat16)


def predict_windows(
    networks: list[tuple[Classifier, dict]],
    settings: Recipe,
    stream: WindowLoader,
    order: WindowIndex,
    journal: ResumeLog,
    title: str,
) -> Iterator[tuple[slice, BatchPredictions]]:
    """The answers to each batch of `order`, and its place there: first those in the journal, then new ones into it.

    A batch with windows that were not heard is tried again: its file may be well by now.
    """
    size, todo = settings.loader.predict_batch_size, np.arange(len(order))
    with console.progress(title, len(order), "windows") as tracker:
        for answers in journal.saved_batches():
            for flaw in (flaw for flaw in answers.errors if not flaw.unusable):
                stream.report_error(flaw)
            if answers.valid.all():
                todo = todo[(todo < answers.start) | (todo >= answers.start + len(answers.valid))]
                yield _part(answers), answers
        tracker.skip(len(order) - len(todo))
        if len(todo) == 0:
            return
        listeners, known, places = Predictor(networks, settings, stream.device), set(stream.errors), iter(todo[::size])
        window_samples = windows.to_samples(settings.windows.window_s, settings.audio.sample_rate)
        for batch, probs in listeners.probs(stream.batches(order[todo], window_samples, size)):
            new = [flaw for path, flaw in list(stream.errors.items()) if path not in known]
            known |= {flaw.path for flaw in new}
            answers = BatchPredictions(int(next(places)), probs.numpy(), batch.valid.numpy(), new)
            journal.add(answers)
            yield _part(answers), answers
            tracker.advance(len(batch.valid))


def _part(answers: BatchPredictions) -> slice:
    return slice(answers.start, answers.start + len(answers.valid))


def predict_tracks(
    judges: Ensemble, settings: Recipe, stream: WindowLoader, out: Path | None
) -> tuple[np.ndarray, np.ndarray]:
    """The judges' probabilities for each file of a stream, shape (N, C), and which files gave nothing, shape (N,).

    With `out`, what is known is kept beside it (`journal_path`) until the caller has written it.
    """
    num_files = len(stream.paths)
    order = windows.prediction_windows(
        np.arange(num_files), np.zeros(num_files, bool), settings.audio, settings.windows
    )
    metadata = {"networks": judges.digests, "batch": settings.loader.predict_batch_size}
    metadata["files"] = [_file_signature(path) for path in stream.paths]
    sums = np.zeros((num_files, len(judges.networks), len(judges.class_names)))
    heard = np.zeros(num_files, bool)
    title = f"{len(judges.networks)} networks listen to {num_files} files"
    with (
        tempfile.TemporaryDirectory() as folder,
        ResumeLog(resume_log_path(out or Path(folder) / "out"), metadata) as journal,
    ):
        for part, answers in predict_windows(judges.networks, settings, stream, order, journal, title):
            np.add.at(sums, order.tracks[part], answers.probs.swapaxes(0, 1))
            heard[order.tracks[part][answers.valid]] = True
    return judges.combine((sums * num_files / len(order)).swapaxes(0, 1)), ~heard


def resume_log_path(out: Path) -> Path:
    """Where the answers wait that are to be written to `out`."""
    return out.with_name(f".{out.name}.journal")


def _file_signature(path: str) -> list:
    """What tells whether a file is still the same; of a URL its name alone."""
    if is_url(path) or not os.path.exists(path):
        return [path]
    status = os.stat(path)
    return [path, status.st_size, status.st_mtime_ns]
