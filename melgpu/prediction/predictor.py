"""Predictions of several networks in one pass, logged batch by batch so that a killed prediction resumes.

A resumed prediction has the same batches as before, and so the same probabilities, to the bit.
"""

import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from melgpu import console
from melgpu.audio.remote import is_url
from melgpu.data import windows
from melgpu.data.batch import Batch
from melgpu.data.loader import WindowLoader
from melgpu.data.windows import WindowIndex
from melgpu.errors import InputError
from melgpu.features import engines, parity
from melgpu.features.log_mel import LogMel
from melgpu.features.memory import in_parts_that_fit
from melgpu.models import classifier, inference
from melgpu.models.classifier import LoadedNetwork
from melgpu.prediction.ensemble import Ensemble
from melgpu.prediction.resume_log import BatchPredictions, ResumeLog
from melgpu.recipe import Recipe


class WindowPredictor:
    """K networks on a device, with the log-mel pictures that they were trained on."""

    def __init__(self, networks: list[LoadedNetwork], recipe: Recipe, device: torch.device):
        """Raises InputError where a network was trained on different pictures."""
        machine = recipe.machine
        self._features = LogMel(recipe.mel, recipe.audio.sample_rate, machine.feature_batch).to(device)
        resolved = engines.resolve_engine(self._features, recipe.audio.sample_rate, device)
        for note in resolved.notes:
            console.say(note)
        for network in networks:
            parity.check_same_pictures(resolved.parity, network.metadata.parity, network.metadata.name)
        self._flip = recipe.predict.flip
        self._bfloat16 = classifier.use_bfloat16(recipe.optim.precision, device)
        self._models = [network.model.to(device) for network in networks]
        self._memory_format = torch.channels_last if machine.channels_last else torch.contiguous_format
        for model in self._models:
            model.set_memory_format(machine.channels_last)

    def probs(self, batches: Iterable[Batch]) -> Iterator[tuple[Batch, Tensor]]:
        """Probabilities, shape (K, B, C), on the CPU, of each batch's windows; see `inference.window_probs`."""
        return inference.window_probs(self._models, self._features, batches, self._flip, self._bfloat16)

    @torch.inference_mode()
    def pooled_features(self, batches: Iterable[Batch]) -> Iterator[tuple[Batch, Tensor]]:
        """What the networks' heads get of each batch's windows, shape (B, D), float32, on the CPU; without flips.

        D is the sum over all networks, in their order. Raises InputError where a network's output is NaN.
        """
        bodies = [nn.Sequential(model.input_norm, model.body).eval() for model in self._models]
        for batch in batches:
            pictures = self._features(batch.waves).contiguous(memory_format=self._memory_format)
            with torch.autocast(pictures.device.type, torch.bfloat16, enabled=self._bfloat16):
                features = torch.cat([in_parts_that_fit(body, pictures) for body in bodies], dim=1)
            features = features.float().cpu()
            if features.isnan().any():
                raise InputError("a network's output is NaN: its training has diverged")
            yield batch, features


def predict_windows(
    networks: list[LoadedNetwork],
    recipe: Recipe,
    loader: WindowLoader,
    index: WindowIndex,
    resume_log: ResumeLog,
    title: str,
) -> Iterator[tuple[slice, BatchPredictions]]:
    """Each batch's slice of `index` and its predictions: first those of the resume log, then new ones, added to it.

    A logged batch with windows that are not valid is predicted again: its file may be readable by now.
    """
    remaining = np.arange(len(index))
    with console.progress(title, len(index), "windows") as tracker:
        for predictions in resume_log.saved_batches():
            # A file that is used up to its error may not be decoded again. An unusable one is: its windows are not
            # valid, and if it is still unusable then, the loader reports it anew.
            for audio_error in predictions.errors:
                if not audio_error.unusable:
                    loader.report_error(audio_error)
            if predictions.valid.all():
                stop = predictions.start + len(predictions.valid)
                remaining = remaining[(remaining < predictions.start) | (remaining >= stop)]
                yield _batch_slice(predictions), predictions
        tracker.skip(len(index) - len(remaining))
        if len(remaining) == 0:
            return
        predictor = WindowPredictor(networks, recipe, loader.device)
        for predictions in _predict_remaining(predictor, recipe, loader, index, remaining):
            resume_log.add(predictions)  # before the yield, where the caller may stop
            yield _batch_slice(predictions), predictions
            tracker.advance(len(predictions.valid))


def _predict_remaining(
    predictor: WindowPredictor, recipe: Recipe, loader: WindowLoader, index: WindowIndex, remaining: np.ndarray
) -> Iterator[BatchPredictions]:
    """Predictions of the windows at the positions `remaining` of `index`, shape (R,).

    Whole batches were logged, so that the rest falls into the same batches as without an interruption.
    """
    batch_size = recipe.loader.predict_batch_size
    starts = iter(remaining[::batch_size])
    window_samples = windows.to_samples(recipe.windows.window_s, recipe.audio.sample_rate)
    batches = loader.batches(index[remaining], window_samples, batch_size)
    for batch, probs in predictor.probs(batches):
        yield BatchPredictions(int(next(starts)), probs.numpy(), batch.valid.numpy(), batch.errors)


def _batch_slice(predictions: BatchPredictions) -> slice:
    return slice(predictions.start, predictions.start + len(predictions.valid))


def recipe_for_new_music(ensemble: Ensemble, run_recipe: Recipe) -> Recipe:
    """The recipe by which an ensemble predicts new files, of which any number may be unreadable.

    Features and windows are those of the checkpoints; settings of loader and machine are the run's.
    """
    overrides = {"pcm_cache": "off", "on_error": "quarantine", "max_error_fraction": 1.0}
    loader_spec = run_recipe.loader.model_copy(update=overrides)
    return ensemble.recipe.model_copy(update={"loader": loader_spec, "machine": run_recipe.machine})


def predict_tracks(
    ensemble: Ensemble, recipe: Recipe, loader: WindowLoader, out: Path | None
) -> tuple[np.ndarray, np.ndarray]:
    """Final probabilities of each file of the loader, shape (N, C), and which files are unusable, shape (N,) bool.

    With `out`, the predictions so far are logged beside it (`resume_log_path`) until the caller has written it.
    """
    num_files = len(loader.paths)
    is_public = np.zeros(num_files, bool)
    index = windows.prediction_windows(np.arange(num_files), is_public, recipe.audio, recipe.windows)
    # All that the predictions depend on: with other networks, batches or files the log is begun anew.
    metadata = {"networks": ensemble.digests, "batch": recipe.loader.predict_batch_size}
    metadata["files"] = [_file_signature(path) for path in loader.paths]
    sums = np.zeros((num_files, len(ensemble.networks), len(ensemble.class_names)))
    valid = np.zeros(num_files, bool)
    networks = console.counted(len(ensemble.networks), "network")
    title = f"predicting {console.counted(num_files, 'file')} with {networks}"
    with (
        tempfile.TemporaryDirectory() as folder,  # for the log of a prediction that is not written to a file
        ResumeLog(resume_log_path(out or Path(folder) / "out"), metadata) as resume_log,
    ):
        for part, predictions in predict_windows(ensemble.networks, recipe, loader, index, resume_log, title):
            tracks = index.tracks[part]
            np.add.at(sums, tracks, predictions.probs.swapaxes(0, 1))  # `sums[tracks] +=` would count repeats once
            valid[tracks[predictions.valid]] = True
    means = sums * num_files / len(index)  # (N, K, C); each file has len(index) / num_files windows
    return ensemble.combine(means.swapaxes(0, 1)), ~valid


def resume_log_path(out: Path) -> Path:
    """The resume log of a prediction that is to be written to `out`."""
    return out.with_name(f".{out.name}.resume_log")


def _file_signature(path: str) -> list:
    """Path, size and modification time, which change with the file; of a URL its name alone."""
    if is_url(path) or not os.path.exists(path):
        return [path]
    status = os.stat(path)
    return [path, status.st_size, status.st_mtime_ns]
