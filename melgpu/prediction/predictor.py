"""Predictions of several networks in one pass, logged batch by batch so that a killed prediction resumes.

A resumed prediction has the same batches as before, and so the same probabilities, to the bit.
"""

import functools
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from melgpu import console
from melgpu.audio.remote import is_url
from melgpu.console import Tracker
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

    def probs(self, batches: Iterable[Batch], min_batch: int = 0) -> Iterator[tuple[Batch, Tensor]]:
        """Probabilities, shape (K, B, C), on the CPU, of each batch's windows; see `inference.window_probs`."""
        return inference.window_probs(self._models, self._features, batches, self._flip, self._bfloat16, min_batch)

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
    make_predictor: Callable[[], WindowPredictor],
    recipe: Recipe,
    loader: WindowLoader,
    index: WindowIndex,
    resume_log: ResumeLog,
    tracker: Tracker,
    min_batch: int = 0,
) -> Iterator[tuple[slice, BatchPredictions]]:
    """Each batch's slice of `index` and its predictions: first those of the resume log, then new ones, added to it.

    A logged batch with windows that are not valid is predicted again: its file may be readable by now. The predictor is
    made where a batch is missing. `min_batch`, see `inference.window_probs`.
    """
    remaining = np.arange(len(index))
    for predictions in resume_log.saved_batches():
        # A file that is used up to its error may not be decoded again. An unusable one is: its windows are not valid,
        # and if it is still unusable then, the loader reports it anew.
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
    for predictions in _predict_remaining(make_predictor(), recipe, loader, index, remaining, min_batch):
        resume_log.add(predictions)  # before the yield, where the caller may stop
        yield _batch_slice(predictions), predictions
        tracker.advance(len(predictions.valid))


def _predict_remaining(
    predictor: WindowPredictor,
    recipe: Recipe,
    loader: WindowLoader,
    index: WindowIndex,
    remaining: np.ndarray,
    min_batch: int,
) -> Iterator[BatchPredictions]:
    """Predictions of the windows at the positions `remaining` of `index`, shape (R,).

    Whole batches were logged, so that the rest falls into the same batches as without an interruption.
    """
    batch_size = recipe.loader.predict_batch_size
    starts = iter(remaining[::batch_size])
    window_samples = windows.to_samples(recipe.windows.window_s, recipe.audio.sample_rate)
    batches = loader.batches(index[remaining], window_samples, batch_size)
    for batch, probs in predictor.probs(batches, min_batch):
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


class TrackPredictor:
    """The networks and stacks of an ensemble on a device: music files to the final probabilities of each.

    `recipe` is that of `recipe_for_new_music`; `windows_per_track`, as every file is conformed to one length.
    """

    def __init__(self, ensemble: Ensemble, recipe: Recipe, device: torch.device):
        self.ensemble = ensemble
        self.recipe = recipe
        self.device = device
        self.windows_per_track = len(self._index(1))

    @functools.cached_property
    def _window_predictor(self) -> WindowPredictor:
        return WindowPredictor(self.ensemble.networks, self.recipe, self.device)

    def _index(self, num_files: int) -> WindowIndex:
        is_public = np.zeros(num_files, bool)
        return windows.prediction_windows(np.arange(num_files), is_public, self.recipe.audio, self.recipe.windows)

    def predict(self, loader: WindowLoader, log: Path, tracker: Tracker, pad: bool = False) -> np.ndarray:
        """Final probabilities of each file of the loader, shape (N, C), float32; those of unusable ones say nothing.

        Predictions so far are in the resume log at `log`, which the caller deletes. The last batch is computed as one
        of full size where there is one before it, or `pad` says so; tracks have the same probabilities in either.
        """
        num_files = len(loader.paths)
        index = self._index(num_files)
        batch_size = self.recipe.loader.predict_batch_size
        networks = self.ensemble.networks
        # All that the predictions depend on: with other networks, batches or files the log is begun anew.
        metadata = {"networks": self.ensemble.digests, "batch": batch_size}
        metadata["files"] = [_file_signature(path) for path in loader.paths]
        sums = np.zeros((num_files, len(networks), len(self.ensemble.class_names)))
        min_batch = batch_size if pad or len(index) > batch_size else 0
        with ResumeLog(log, metadata) as resume_log:
            predicted = predict_windows(
                lambda: self._window_predictor, self.recipe, loader, index, resume_log, tracker, min_batch
            )
            for part, predictions in predicted:
                # `sums[tracks] +=` would count repeats once
                np.add.at(sums, index.tracks[part], predictions.probs.swapaxes(0, 1))
        means = sums / self.windows_per_track  # (N, K, C)
        return self.ensemble.combine(means.swapaxes(0, 1)).astype(np.float32)


def resume_log_path(out: Path) -> Path:
    """The resume log of a prediction that is to be written to `out`."""
    return out.with_name(f".{out.name}.resume_log")


def _file_signature(path: str) -> list:
    """Path, size and modification time, which change with the file; of a URL its name alone."""
    if is_url(path) or not os.path.exists(path):
        return [path]
    status = os.stat(path)
    return [path, status.st_size, status.st_mtime_ns]
