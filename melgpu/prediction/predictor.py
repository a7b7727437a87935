"""Predictions of several networks in one pass, logged batch by batch so that a killed prediction resumes.

A resumed prediction has the same batches as before, and so the same probabilities, to the bit.
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


class WindowPredictor:
    """K networks on a device, with the log-mel pictures that they were trained on."""

    def __init__(self, networks: list[tuple[Classifier, dict]], recipe: Recipe, device: torch.device):
        """From networks and their metadata. Raises InputError where one was trained on different pictures."""
        machine = recipe.machine
        self._features = LogMel(recipe.mel, recipe.audio.sample_rate, machine.feature_batch).to(device)
        parity_figures = parity.measure_parity(self._features, recipe.audio.sample_rate, device)
        for metadata in (metadata for model, metadata in networks if model.front_end is None):
            parity.check_same_pictures(
                parity_figures, metadata["parity"], f"{metadata['backbone']}, fold {metadata['fold']}"
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
    """Each batch's slice of `index` and its predictions: first those of the resume log, then new ones, added to it.

    A logged batch with windows that are not valid is predicted again: its file may be readable by now.
    """
    batch_size, remaining = recipe.loader.predict_batch_size, np.arange(len(index))
    with console.progress(title, len(index), "windows") as tracker:
        for predictions in resume_log.saved_batches():
            for audio_error in (audio_error for audio_error in predictions.errors if not audio_error.unusable):
                loader.report_error(audio_error)
            if predictions.valid.all():
                stop = predictions.start + len(predictions.valid)
                remaining = remaining[(remaining < predictions.start) | (remaining >= stop)]
                yield _batch_slice(predictions), predictions
        tracker.skip(len(index) - len(remaining))
        if len(remaining) == 0:
            return
        predictor, logged_paths = WindowPredictor(networks, recipe, loader.device), set(loader.errors)
        starts = iter(remaining[::batch_size])
        window_samples = windows.to_samples(recipe.windows.window_s, recipe.audio.sample_rate)
        for batch, probs in predictor.probs(loader.batches(index[remaining], window_samples, batch_size)):
            new_errors = [audio_error for path, audio_error in list(loader.errors.items()) if path not in logged_paths]
            logged_paths |= {audio_error.path for audio_error in new_errors}
            predictions = BatchPredictions(int(next(starts)), probs.numpy(), batch.valid.numpy(), new_errors)
            resume_log.add(predictions)
            yield _batch_slice(predictions), predictions
            tracker.advance(len(batch.valid))


def _batch_slice(predictions: BatchPredictions) -> slice:
    return slice(predictions.start, predictions.start + len(predictions.valid))


def predict_tracks(
    ensemble: Ensemble, recipe: Recipe, loader: WindowLoader, out: Path | None
) -> tuple[np.ndarray, np.ndarray]:
    """Final probabilities of each file of the loader, shape (N, C), and which files are unusable, shape (N,) bool.

    With `out`, the predictions so far are logged beside it (`resume_log_path`) until the caller has written it.
    """
    num_files = len(loader.paths)
    index = windows.prediction_windows(np.arange(num_files), np.zeros(num_files, bool), recipe.audio, recipe.windows)
    metadata = {"networks": ensemble.digests, "batch": recipe.loader.predict_batch_size}
    metadata["files"] = [_file_signature(path) for path in loader.paths]
    sums = np.zeros((num_files, len(ensemble.networks), len(ensemble.class_names)))
    valid = np.zeros(num_files, bool)
    title = f"{len(ensemble.networks)} networks predict {num_files} files"
    with (
        tempfile.TemporaryDirectory() as folder,
        ResumeLog(resume_log_path(out or Path(folder) / "out"), metadata) as resume_log,
    ):
        for part, predictions in predict_windows(ensemble.networks, recipe, loader, index, resume_log, title):
            np.add.at(sums, index.tracks[part], predictions.probs.swapaxes(0, 1))
            valid[index.tracks[part][predictions.valid]] = True
    return ensemble.combine((sums * num_files / len(index)).swapaxes(0, 1)), ~valid


def resume_log_path(out: Path) -> Path:
    """The resume log of a prediction that is to be written to `out`."""
    return out.with_name(f".{out.name}.resume_log")


def _file_signature(path: str) -> list:
    """Path, size and modification time, which change with the file; of a URL its name alone."""
    if is_url(path) or not os.path.exists(path):
        return [path]
    status = os.stat(path)
    return [path, status.st_size, status.st_mtime_ns]
