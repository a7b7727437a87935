"""An exported file against the network itself on real audio: differences of probabilities, labels, speed."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from melgpu import console
from melgpu.audio import decode, worker
from melgpu.data import windows
from melgpu.data.batch import Batch
from melgpu.errors import InputError
from melgpu.export.metadata import ExportOptions, Form
from melgpu.models.classifier import LoadedNetwork
from melgpu.prediction.predictor import WindowPredictor
from melgpu.recipe import Recipe
from melgpu.runs.job import Job
from melgpu.runs.run import Run

MAX_DIFFERENCE = 1e-3  # of a probability, in float32
NUM_TRACKS = {"windows": 8, "track": 3}
MAX_WINDOWS_PER_TRACK = 3
SHORT_S = 7.0  # of a piece that the whole-track form has to repeat
EXCESS_S = 5.0  # beyond track_s, of a wave that it has to cut

# From waves (B, T) to probabilities (B, C); in the form for tracks from a wave (T,) to (C,).
Probs = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class TimedPredictions:
    """Class probabilities of each input, shape (N, C), and the median time of one, in s."""

    probs: np.ndarray
    seconds: float


@dataclass(frozen=True)
class Comparison:
    """The largest difference of a probability, and how many of all labels agree."""

    max_difference: float
    same_labels: int
    num_inputs: int


def validation_paths(run: Run, job: Job, count: int) -> list[str]:
    """Some of the tracks that the network was not trained on, evenly spaced."""
    _, rows = run.manifest.fold_rows(job.fold)
    chosen = np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int)
    return [run.manifest.paths[row] for row in rows[chosen]]


def load_inputs(paths: Sequence[str], recipe: Recipe, form: Form) -> list[np.ndarray]:
    """What an exported file is tried on: windows, shape (T,), and silence, or waves, with a short and a long one.

    Files that cannot be read are said. Raises InputError where there is none that can be.
    """
    audio = recipe.audio
    waves = []
    for path in paths:
        decoded = worker.read_track(path, audio.sample_rate, audio.track_s, audio.min_s)
        if len(decoded.wave):
            waves.append(decoded.wave)
        else:
            console.say(f"note: not checked on {path}: {decoded.error}")
    if not waves:
        raise InputError("no music to check the file on: name files that can be read with --audio")
    if form == "track":
        short = waves[0][: windows.to_samples(SHORT_S, audio.sample_rate)]
        # Decoding ends at track_s: no wave is longer by itself.
        long = np.resize(waves[0], windows.to_samples(audio.track_s + EXCESS_S, audio.sample_rate))
        return [*waves, short, long]
    tracks = [decode.conform(wave, windows.to_samples(audio.track_s, audio.sample_rate)) for wave in waves]
    inputs = [window for track in tracks for window in _some(cut_windows(track, recipe))]
    return [*inputs, np.zeros_like(inputs[0])]


def cut_windows(track: np.ndarray, recipe: Recipe) -> np.ndarray:
    """The windows, shape (W, T), of a track of `track_s`."""
    index = windows.prediction_windows(np.zeros(1), np.zeros(1, bool), recipe.audio, recipe.windows)
    window_samples = windows.to_samples(recipe.windows.window_s, recipe.audio.sample_rate)
    return np.stack([track[start : start + window_samples] for start in index.starts])


def _some(track_windows: np.ndarray) -> np.ndarray:
    return track_windows[:: -(-len(track_windows) // MAX_WINDOWS_PER_TRACK)]


def network_probs(network: LoadedNetwork, form: Form) -> Probs:
    """The probabilities that `predict.py` gives on a CPU, in float32."""
    recipe = network.metadata.recipe
    optim = recipe.optim.model_copy(update={"precision": "float32"})
    predictor = WindowPredictor([network], recipe.model_copy(update={"optim": optim}), torch.device("cpu"))
    track_samples = windows.to_samples(recipe.audio.track_s, recipe.audio.sample_rate)

    def window_probs(waves: np.ndarray) -> np.ndarray:
        zeros = torch.zeros(len(waves), dtype=torch.int64)
        batch = Batch(torch.from_numpy(waves), zeros, zeros, torch.ones(len(waves), dtype=torch.bool))
        ((_, probs),) = predictor.probs([batch])  # (1, B, C)
        return probs[0].numpy()

    def track_probs(wave: np.ndarray) -> np.ndarray:
        return window_probs(cut_windows(decode.conform(wave, track_samples), recipe)).mean(axis=0)

    return window_probs if form == "windows" else track_probs


def predict(probs: Probs, inputs: Sequence[np.ndarray], form: Form) -> TimedPredictions:
    """The predictions of a network or of an exported file, one input at a time."""
    seconds = []
    input_probs = []
    for wave in inputs:
        start = time.perf_counter()
        input_probs.append(probs(wave[None])[0] if form == "windows" else probs(wave))
        seconds.append(time.perf_counter() - start)
    return TimedPredictions(np.stack(input_probs), float(np.median(seconds)))


def compare(actual: TimedPredictions, expected: TimedPredictions, options: ExportOptions) -> Comparison:
    """How an exported file agrees. Raises InputError above MAX_DIFFERENCE in float32, and for NaN in any precision."""
    differences = np.abs(actual.probs - expected.probs)
    max_difference = float(differences.max())
    limit = MAX_DIFFERENCE if options.precision == "float32" else 1.0
    if not max_difference <= limit:  # NaN is not less
        raise InputError(
            f"not written: its probabilities differ from the network's by up to {max_difference:.2g} "
            f"(allowed: {limit:g}); see what differs with another --format, and report it"
        )
    same = actual.probs.argmax(axis=1) == expected.probs.argmax(axis=1)
    return Comparison(max_difference, int(same.sum()), len(same))
