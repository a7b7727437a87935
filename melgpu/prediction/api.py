"""The Python API behind `melgpu.load`: music files or waveforms to class probabilities and embeddings.

Music is conformed to the recipe's `track_s`, and its answer is the mean over its windows, as by `predict.py`. Nothing
is printed, and no file is written.
"""

import contextlib
import itertools
import math
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from melgpu.audio import decode
from melgpu.audio.quarantine import AudioError, has_usable_audio
from melgpu.audio.walk import AudioWalk
from melgpu.cli import select_device
from melgpu.data import windows
from melgpu.data.batch import Batch
from melgpu.data.loader import WindowLoader
from melgpu.features.front_end import INT16_SCALE
from melgpu.prediction.embedding import Embedding
from melgpu.prediction.ensemble import Ensemble, load_ensemble
from melgpu.prediction.predictor import WindowPredictor, recipe_for_new_music
from melgpu.recipe import Recipe
from melgpu.recipe_schema import AudioSpec
from melgpu.runs.folder import open_run

CHUNK_FILES = 256  # loaded by the same processes; bounds the memory of a list of any length

AudioPaths = str | Path | Iterable[str | Path]
BatchOutputs = Iterator[tuple[Batch, Tensor]]  # of the windows of each batch, shape (B, ...)


@dataclass(frozen=True)
class Prediction:
    """The prediction of a file, or of a waveform.

    path : as it was given; of a file in a folder, with the folder; empty for a waveform
    label : the most likely class; None without usable audio
    confidence : the probability of the label; None without usable audio
    probabilities : of all classes; empty without usable audio
    error : what is wrong with the file; with a label, the file was used up to the error; None if nothing is wrong
    """

    path: str
    label: str | None
    confidence: float | None
    probabilities: dict[str, float]
    error: str | None


@dataclass(frozen=True)
class _FileMean:
    """The mean over a file's windows, shape (...); None without usable audio, or before it is computed."""

    path: str
    mean: np.ndarray | None = None
    error: str | None = None


def load(run: str | Path, device: str = "auto") -> "Model":
    """The trained networks of a run, to predict music.

    run : the run folder of `train.py`. The latest stacked round predicts, with its stackers; before a round is stacked,
        the mean of the networks of the first round that are trained so far
    device : `cpu`, `cuda`, `cuda:1`, ...; `auto` is a GPU if there is one

    Raises InputError, a ValueError, where there is no such run or device, or no trained network.
    """
    torch_device = select_device(device)  # fails before the networks are read
    opened = open_run(Path(run))
    ensemble = load_ensemble(opened)
    return Model(ensemble, recipe_for_new_music(ensemble, opened.recipe), torch_device)


class Model:
    """The trained networks of a run; made by `melgpu.load`.

    class_names : in the order of the probabilities
    description : which networks predict, such as `2 of 6 networks, not stacked` or `6 networks, stacked`
    """

    def __init__(self, ensemble: Ensemble, recipe: Recipe, device: torch.device):
        self.class_names = list(ensemble.class_names)
        self.description = ensemble.description
        self._ensemble = ensemble
        self._recipe = recipe
        self._device = device
        self._predictor = WindowPredictor(ensemble.networks, recipe, device)

    def predict(self, paths: AudioPaths) -> Iterator[Prediction]:
        """A prediction of each file, in the order given; the audio files of a folder are sorted by name.

        paths : files, folders or URLs, or one of them; a generator without end is read 256 files ahead

        A file that cannot be read has an `error`; none is raised, so that any number of files may be wrong.
        """
        with contextlib.closing(self._file_means(paths, self._window_probs)) as file_means:
            for file in file_means:
                yield self._prediction(file)

    def predict_waveform(self, wave: np.ndarray | Tensor, sample_rate: int) -> Prediction:
        """The prediction of a waveform, the same as of a file that contains it.

        wave : shape (T,) or (channels, T), float in [-1, 1] or int16; any length, of which the first `track_s` of the
            recipe are used
        sample_rate : in Hz

        Raises ValueError for another shape or dtype, samples that are not finite or absurdly large, and no samples.
        """
        track = _to_track(wave, sample_rate, self._recipe.audio)
        outputs = [output for _, output in self._window_probs(self._track_batches(track))]
        return self._prediction(_FileMean("", torch.cat(outputs).numpy().mean(axis=0, dtype=np.float64)))

    def embed(self, paths: AudioPaths) -> Iterator[Embedding]:
        """An embedding of each file, in the order of `predict`; files that cannot be read have an `error`.

        The mean over windows of the pooled features in front of the networks' heads, of all networks together.
        """
        with contextlib.closing(self._file_means(paths, self._predictor.pooled_features)) as file_means:
            for file in file_means:
                vector = None if file.mean is None else file.mean.astype(np.float32)
                yield Embedding(file.path, vector, file.error)

    def _prediction(self, file: _FileMean) -> Prediction:
        """The prediction of a file from its mean probabilities by each network, shape (K, C)."""
        if file.mean is None:
            return Prediction(file.path, None, None, {}, file.error)
        probs = self._ensemble.combine(file.mean[:, None])[0]
        probabilities = dict(zip(self.class_names, probs.tolist(), strict=True))
        label = self.class_names[int(probs.argmax())]
        return Prediction(file.path, label, probabilities[label], probabilities, file.error)

    def _window_probs(self, batches: Iterable[Batch]) -> BatchOutputs:
        """Probabilities of each batch's windows by each network, shape (B, K, C)."""
        for batch, probs in self._predictor.probs(batches):
            yield batch, probs.swapaxes(0, 1)

    def _file_means(
        self, paths: AudioPaths, compute: Callable[[Iterable[Batch]], BatchOutputs]
    ) -> Generator[_FileMean]:
        """The mean over each file's windows of what `compute` makes of them."""
        # A path is not a list of its characters.
        walk = AudioWalk([paths] if isinstance(paths, str | Path) else paths)
        remaining = (_FileMean(found.path, error=found.error) for found in walk)
        while chunk := list(itertools.islice(remaining, CHUNK_FILES)):
            to_load = [file.path for file in chunk if not file.error]
            with contextlib.closing(self._loaded_means(to_load, compute)) as means:
                for file in chunk:
                    yield file if file.error else next(means)

    def _loaded_means(
        self, paths: list[str], compute: Callable[[Iterable[Batch]], BatchOutputs]
    ) -> Generator[_FileMean]:
        if not paths:
            return
        recipe = self._recipe
        is_public = np.zeros(len(paths), bool)
        index = windows.prediction_windows(np.arange(len(paths)), is_public, recipe.audio, recipe.windows)
        windows_per_file = len(index) // len(paths)
        window_samples = windows.to_samples(recipe.windows.window_s, recipe.audio.sample_rate)
        remaining = iter(paths)
        errors: dict[str, AudioError] = {}
        window_outputs: list[np.ndarray] = []  # of files that are not complete
        with (
            WindowLoader(paths, recipe.audio, recipe.loader, self._device) as loader,
            # Closed before the loader: a thread decodes ahead.
            contextlib.closing(loader.batches(index, window_samples, recipe.loader.predict_batch_size)) as batches,
        ):
            for batch, outputs in compute(batches):
                errors.update((error.path, error) for error in batch.errors)
                window_outputs.extend(outputs.numpy())
                while len(window_outputs) >= windows_per_file:
                    mean = np.stack(window_outputs[:windows_per_file]).mean(axis=0, dtype=np.float64)
                    del window_outputs[:windows_per_file]
                    path = next(remaining)
                    error = errors.get(path)
                    yield _FileMean(path, mean if has_usable_audio(error) else None, error.reason if error else None)

    def _track_batches(self, track: np.ndarray) -> Iterator[Batch]:
        """The windows of a conformed track, shape (samples of a track,)."""
        recipe = self._recipe
        index = windows.prediction_windows(np.zeros(1), np.zeros(1, bool), recipe.audio, recipe.windows)
        window_samples = windows.to_samples(recipe.windows.window_s, recipe.audio.sample_rate)
        for starts in torch.from_numpy(index.starts).long().split(recipe.loader.predict_batch_size):
            waves = np.stack([track[start : start + window_samples] for start in starts.tolist()])
            is_valid = torch.ones(len(starts), dtype=torch.bool)
            yield Batch(torch.from_numpy(waves).to(self._device), torch.zeros_like(starts), starts, is_valid)


def _to_track(wave: np.ndarray | Tensor, sample_rate: int, audio: AudioSpec) -> np.ndarray:
    """A waveform as the decoder would give it: mono, resampled, conformed to `track_s`. Raises ValueError."""
    samples = wave.detach().cpu().numpy() if isinstance(wave, Tensor) else np.asarray(wave)
    low, high = decode.SAMPLE_RATE_LIMITS
    if not low <= sample_rate <= high:
        raise ValueError(f"sample_rate {sample_rate}; expected {low:,} to {high:,} Hz")
    if samples.ndim not in (1, 2):
        raise ValueError(f"wave of shape {samples.shape}; expected (T,) or (channels, T)")
    if 0 in samples.shape:
        raise ValueError(f"wave of shape {samples.shape}; it has no samples")
    channels, num_samples = samples.shape if samples.ndim == 2 else (1, len(samples))
    if channels > num_samples:
        raise ValueError(f"wave of shape {samples.shape}; expected (channels, T): transpose it")
    if samples.dtype == np.int16:
        samples = samples * np.float32(INT16_SCALE)
    if samples.dtype.kind != "f":
        raise ValueError(f"wave of dtype {samples.dtype}; expected float in [-1, 1], or int16")
    if not np.abs(samples).max() < decode.MAX_AMPLITUDE:  # NaN is not less
        raise ValueError(f"wave {decode.INVALID_SAMPLES}")
    if num_samples < min(audio.min_s, audio.track_s) * sample_rate:
        raise ValueError(f"wave of {num_samples / sample_rate:.3f} s; expected at least {audio.min_s:g} s")
    num_used = math.ceil((audio.track_s + decode.TAIL_S) * sample_rate)
    channel_sum = samples.reshape(channels, -1)[:, :num_used].sum(axis=0, dtype=np.float32)
    resampled = decode.resampled_mean(channel_sum, channels, sample_rate, audio.sample_rate)
    return decode.conform(resampled, windows.to_samples(audio.track_s, audio.sample_rate))
