"""The worst misclassifications: tracks, their worst windows, and the log-mel pictures and audio of those."""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch

from melgpu.audio import blocks
from melgpu.audio.remote import is_url
from melgpu.data.loader import WindowLoader
from melgpu.data.manifest import Split
from melgpu.data.windows import WindowIndex, to_samples
from melgpu.errors import InputError
from melgpu.features.log_mel import LogMel
from melgpu.report import plots
from melgpu.runs import sampling
from melgpu.runs.formats import predictions
from melgpu.runs.run import Run
from melgpu.stacking.evaluation import RoundEvaluation

MAX_ERRORS = 12  # tracks; together with MAX_AUDIO_S a report of some MB
MAX_AUDIO_S = 300  # of all windows with audio
MP3_RATES = (16_000, 22_050, 24_000, 32_000, 44_100, 48_000)  # Hz, which every browser supports
PICTURE_SIZE = 200  # pixels, both ways


@dataclass(frozen=True)
class Misclassification:
    """A track whose predicted class is wrong; the classes are indices."""

    id: str
    split: Split
    fold: int
    true_class: int
    predicted_class: int
    true_class_probability: float
    predicted_class_probability: float


@dataclass(frozen=True)
class WorstWindow:
    """The window of a misclassified track with the smallest mean probability of the true class over the networks.

    row : of the manifest
    start_s, end_s : in the conformed track
    true_class_probability, predicted_class_probability : means over the networks
    """

    row: int
    start_s: float
    end_s: float
    true_class_probability: float
    predicted_class_probability: float


@dataclass(frozen=True)
class WindowMedia:
    """Log-mel picture and audio of a window, as `data:` URIs; None where there is none.

    duration_s : the file's duration, which may be less than a track's; None where it is not known
    error : the reason of the file's audio error; None where it has none
    """

    picture: str | None
    audio: str | None
    duration_s: float | None
    error: str | None


def worst_errors(evaluation: RoundEvaluation, max_errors: int = MAX_ERRORS) -> list[Misclassification]:
    """The misclassified tracks with known labels that have the smallest probability of the true class."""
    predicted = evaluation.final_probs.argmax(axis=1)
    wrong = np.flatnonzero((evaluation.labels >= 0) & (predicted != evaluation.labels))
    truth_probs = evaluation.final_probs[wrong, evaluation.labels[wrong]]
    worst = wrong[np.argsort(truth_probs, kind="stable")][:max_errors]  # stable: equal ones in their order
    return [
        _misclassification(evaluation, row, int(evaluation.labels[row]), int(predicted[row])) for row in worst.tolist()
    ]


def _misclassification(evaluation: RoundEvaluation, row: int, truth: int, predicted: int) -> Misclassification:
    probs = evaluation.final_probs[row].tolist()
    track = evaluation.ids[row], evaluation.splits[row], int(evaluation.folds[row])
    return Misclassification(*track, truth, predicted, probs[truth], probs[predicted])


def worst_windows(run: Run, round_number: int, errors: list[Misclassification]) -> list[WorstWindow]:
    """The worst window of each misclassified track. Raises InputError for damaged predictions or another run's."""
    rows = [_manifest_row(run, error) for error in errors]
    probs = mean_window_probs(run, round_number, rows, [error.fold for error in errors])
    return [_worst_window(run, *parts) for parts in zip(rows, errors, probs, strict=True)]


def _worst_window(run: Run, row: int, error: Misclassification, probs: np.ndarray) -> WorstWindow:
    window = int(probs[:, error.true_class].argmin())
    starts = sampling.prediction_windows(run, np.array([row])).starts  # in samples, as in the saved predictions
    start_s = float(starts[window]) / run.recipe.audio.sample_rate
    class_probs = probs[window, [error.true_class, error.predicted_class]].tolist()
    return WorstWindow(row, start_s, start_s + run.recipe.windows.window_s, *class_probs)


def _manifest_row(run: Run, error: Misclassification) -> int:
    """A track's row of the manifest. Raises InputError where it has none."""
    for row, key in enumerate(zip(run.manifest.ids, run.manifest.evaluated_splits, strict=True)):
        if key == (error.id, error.split):
            return row
    raise InputError(f"{run.folder}: {error.id} was evaluated, but is no track of the {error.split} set")


def mean_window_probs(run: Run, round_number: int, rows: list[int], folds: list[int]) -> list[np.ndarray]:
    """For each row of the manifest the mean over the networks that predict it, shape (windows, C), in order of time.

    Those are the networks of its own fold, or all (fold -1). Raises InputError.
    """
    counts = [len(sampling.prediction_windows(run, np.array([row]))) for row in rows]
    sums = [np.zeros((count, len(run.class_names))) for count in counts]
    num_networks = np.zeros(len(rows))
    for job in run.jobs(round_number):
        path = run.paths.predictions(job)
        predicted = predictions.load(path)
        offsets = np.cumsum(predicted.num_windows) - predicted.num_windows  # of each track's first window
        if predicted.ids != run.manifest.ids or any(
            predicted.num_windows[row] != count for row, count in zip(rows, counts, strict=True)
        ):
            raise InputError(f"{path}: not of this run's tracks and windows")
        for i, fold in enumerate(folds):
            if fold in (-1, job.fold):  # networks of other folds were trained on the track
                sums[i] += predicted.probs[offsets[rows[i]] :][: counts[i]]
                num_networks[i] += 1
    return [total / max(1, count) for total, count in zip(sums, num_networks, strict=True)]


def render_media(run: Run, windows: list[WorstWindow]) -> Iterator[WindowMedia]:
    """Log-mel picture and audio of each window; the audio error of a file that cannot be read (any more)."""
    # The networks' picture, but small and in one channel.
    overrides = {"engine": "auto", "channels": "grey", "image_size": PICTURE_SIZE}
    features = LogMel(run.recipe.mel.model_copy(update=overrides), run.recipe.audio.sample_rate)
    loaded = zip(windows, load_waves(run, windows), strict=True)
    for count, (window, (wave, audio_error)) in enumerate(loaded, start=1):
        if audio_error:
            yield WindowMedia(None, None, None, audio_error)
            continue
        picture = plots.window_picture(features(wave[None])[0, 0].numpy())
        has_audio = count * run.recipe.windows.window_s <= MAX_AUDIO_S  # windows come worst first
        audio = encode_mp3(wave.numpy(), run.recipe.audio.sample_rate) if has_audio else None
        yield WindowMedia(picture, audio, _file_duration_s(run.manifest.paths[window.row]), None)


def load_waves(run: Run, windows: list[WorstWindow]) -> Iterator[tuple[torch.Tensor, str | None]]:
    """Samples of each window, of different tracks, as the networks get them, shape (T,); or zeros and the error."""
    # Files may have been deleted or damaged since: that is shown in the report and does not prevent it.
    loader_spec = run.recipe.loader.model_copy(update={"on_error": "quarantine", "max_error_fraction": 1.0})
    starts = [to_samples(window.start_s, run.recipe.audio.sample_rate) for window in windows]
    rows = [window.row for window in windows]
    index = WindowIndex(np.array(rows, np.int32), np.array(starts, np.int32))
    cpu = torch.device("cpu")
    paths = run.manifest.paths
    with WindowLoader(paths, run.recipe.audio, loader_spec, cpu, run.pcm_cache) as loader:
        batches = loader.batches(index, sampling.window_samples(run), 1)
        for batch in batches:
            audio_error = None if batch.valid[0] else batch.errors[0].reason  # of the only track of this batch
            yield batch.waves[0], audio_error


def _file_duration_s(path: str) -> float | None:
    return None if is_url(path) else blocks.header_duration_s(Path(path))


def encode_mp3(wave: np.ndarray, sample_rate: int) -> str:
    """A window, shape (T,), as mp3, at a rate that every browser supports."""
    rate = next((rate for rate in MP3_RATES if rate >= sample_rate), MP3_RATES[-1])
    if rate != sample_rate:
        wave = soxr.resample(wave, sample_rate, rate)
    file = io.BytesIO()
    with soundfile.SoundFile(file, "w", rate, 1, format="MP3") as encoder:
        # Decoded lossy audio may exceed full scale, where the encoder would clip it.
        encoder.write(wave / max(1.0, float(np.abs(wave).max())))
    return plots.data_uri("audio/mpeg", file.getvalue())
