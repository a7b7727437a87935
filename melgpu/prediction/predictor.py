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

    def __init__(self, networks: list[tuple[Classifier, dict]], recipe: Recipe, device: torch.device):
        """From networks and what their checkpoints say. Raises InputError where one was trained on other pictures."""
        machine = recipe.machine
        self._features = LogMel(recipe.mel, recipe.audio.sample_rate, machine.feature_batch).to(device)
        front_end = parity.measure_parity(self._features, recipe.audio.sample_rate, device)
        for metadata in (metadata for model, metadata in networks if model.front_end is None):
            parity.check_same_pictures(
                front_end, metadata["parity"], f"{metadata['backbone']}, fold {metadata['fold']}"
            )
        self._flip = recipe.predict.flip
        self._bfloat16 = classifier.use_bfloat16(recipe.optim.precision, device)
        self._models = [model.to(device).set_memory_format(machine.channels_last) for model, _ in networks]

    def probs(self, batches: Iterable[Batch]) -> Iterator[tuple[Batch, Tensor]]:
        """Probabilities, shape (K, B, C), on the CPU, of each batch's windows; see `inference.window_probs`."""
        return inference.window_probs(self._models, self._features, batches, self._flip, self._bfloat16)


def predict_windows(
    networks: list[tuple[Classifier, dict]],
    recipe: Recipe,
    loader: WindowLoader,
    index: WindowIndex,
    resume_log: ResumeLog,
    title: str,
) -> Iterator[tuple[slice, BatchPredictions]]:
    """The answers to each batch of `order`, and its place there: first those in the journal, then new ones into it.

    A batch with windows that were not heard is tried again: its file may be well by now.
    """
    size, todo = recipe.loader.predict_batch_size, np.arange(len(index))
    with console.progress(title, len(index), "windows") as tracker:
        for answers in resume_log.saved_batches():
            for audio_error in (audio_error for audio_error in answers.errors if not audio_error.unusable):
                loader.report_error(audio_error)
            if answers.valid.all():
                todo = todo[(todo < answers.start) | (todo >= answers.start + len(answers.valid))]
                yield _part(answers), answers
        tracker.skip(len(index) - len(todo))
        if len(todo) == 0:
            return
        predictor, known, places = Predictor(networks, recipe, loader.device), set(loader.errors), iter(todo[::size])
        window_samples = windows.to_samples(recipe.windows.window_s, recipe.audio.sample_rate)
        for batch, probs in predictor.probs(loader.batches(index[todo], window_samples, size)):
            new = [audio_error for path, audio_error in list(loader.errors.items()) if path not in known]
            known |= {audio_error.path for audio_error in new}
            answers = BatchPredictions(int(next(places)), probs.numpy(), batch.valid.numpy(), new)
            resume_log.add(answers)
            yield _part(answers), answers
            tracker.advance(len(batch.valid))


def _part(answers: BatchPredictions) -> slice:
    return slice(answers.start, answers.start + len(answers.valid))


def predict_tracks(
    ensemble: Ensemble, recipe: Recipe, loader: WindowLoader, out: Path | None
) -> tuple[np.ndarray, np.ndarray]:
    """The judges' probabilities for each file of a stream, shape (N, C), and which files gave nothing, shape (N,).

    With `out`, what is known is kept beside it (`journal_path`) until the caller has written it.
    """
    num_files = len(loader.paths)
    index = windows.prediction_windows(np.arange(num_files), np.zeros(num_files, bool), recipe.audio, recipe.windows)
    metadata = {"networks": ensemble.digests, "batch": recipe.loader.predict_batch_size}
    metadata["files"] = [_file_signature(path) for path in loader.paths]
    sums = np.zeros((num_files, len(ensemble.networks), len(ensemble.class_names)))
    valid = np.zeros(num_files, bool)
    title = f"{len(ensemble.networks)} networks listen to {num_files} files"
    with (
        tempfile.TemporaryDirectory() as folder,
        ResumeLog(resume_log_path(out or Path(folder) / "out"), metadata) as resume_log,
    ):
        for part, answers in predict_windows(ensemble.networks, recipe, loader, index, resume_log, title):
            np.add.at(sums, index.tracks[part], answers.probs.swapaxes(0, 1))
            valid[index.tracks[part][answers.valid]] = True
    return ensemble.combine((sums * num_files / len(index)).swapaxes(0, 1)), ~valid


def resume_log_path(out: Path) -> Path:
    """Where the answers wait that are to be written to `out`."""
    return out.with_name(f".{out.name}.journal")


def _file_signature(path: str) -> list:
    """What tells whether a file is still the same; of a URL its name alone."""
    if is_url(path) or not os.path.exists(path):
        return [path]
    status = os.stat(path)
    return [path, status.st_size, status.st_mtime_ns]
