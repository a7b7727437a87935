"""The worst mistakes: which tracks, which of their windows, what those look and sound like."""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch

from melgpu.audio import decode
from melgpu.audio.remote import is_url
from melgpu.data.loader import WindowLoader
from melgpu.data.windows import WindowIndex, to_samples
from melgpu.errors import InputError
from melgpu.features.log_mel import LogMel
from melgpu.report import plots
from melgpu.runs import predictions, sampling
from melgpu.runs.run import Run
from melgpu.stacking.evaluation import RoundEvaluation

MAX_ERRORS, MAX_AUDIO_S = 12, 300  # a page of some MB
MP3_RATES = (16_000, 22_050, 24_000, 32_000, 44_100, 48_000)  # Hz, which every browser plays
PICTURE_SIZE = 200  # pixels, both ways


@dataclass(frozen=True)
class Misclassification:
    """A track whose answer is wrong; `truth` and `answer` are class numbers, then the probabilities of both."""

    id: str
    split: str
    fold: int
    truth: int
    predicted: int
    truth_probability: float
    predicted_probability: float


@dataclass(frozen=True)
class WorstWindow:
    """The window of a mistake in which the networks find the truth least likely: their mean probabilities there.

    row : of the manifest
    start_s, end_s : in the conformed track
    """

    row: int
    start_s: float
    end_s: float
    truth_probability: float
    predicted_probability: float


@dataclass(frozen=True)
class WindowMedia:
    """What a window looks and sounds like, as `data:` URIs; None where there is nothing, for `flaw`'s reason.

    file_s : the file's own length, which may be less than a track's; None where it is not known
    """

    picture: str | None
    audio: str | None
    duration_s: float | None
    error: str | None


def worst_errors(judged: RoundEvaluation, most: int = MAX_ERRORS) -> list[Misclassification]:
    """The wrong answers among tracks with known labels that give the truth the smallest probability."""
    answers = judged.final_probs.argmax(axis=1)
    wrong = np.flatnonzero((judged.labels >= 0) & (answers != judged.labels))
    truth_probs = judged.final_probs[wrong, judged.labels[wrong]]
    chosen = wrong[np.argsort(truth_probs, kind="stable")][:most]
    return [_misclassification(judged, row, int(judged.labels[row]), int(answers[row])) for row in chosen.tolist()]


def _misclassification(judged: RoundEvaluation, row: int, truth: int, answer: int) -> Misclassification:
    probs = judged.final_probs[row].tolist()
    where = judged.ids[row], judged.splits[row], int(judged.folds[row])
    return Misclassification(*where, truth, answer, probs[truth], probs[answer])


def worst_windows(run: Run, round_number: int, found: list[Misclassification]) -> list[WorstWindow]:
    """The worst window of each mistake. Raises InputError where predictions are damaged or foreign."""
    rows = [_row(run, mistake) for mistake in found]
    probs = window_probs(run, round_number, rows, [mistake.fold for mistake in found])
    return [_worst_window(run, *parts) for parts in zip(rows, found, probs, strict=True)]


def _worst_window(run: Run, row: int, mistake: Misclassification, probs: np.ndarray) -> WorstWindow:
    place = int(probs[:, mistake.truth].argmin())
    start_s = float(sampling.prediction_windows(run, np.array([row])).starts[place]) / run.recipe.audio.sample_rate
    said = probs[place, [mistake.truth, mistake.predicted]].tolist()
    return WorstWindow(row, start_s, start_s + run.recipe.windows.window_s, *said)


def _row(run: Run, mistake: Misclassification) -> int:
    """A mistake's row of the manifest. Raises InputError where it has none."""
    wanted = mistake.id, "train" if mistake.split == "validation" else mistake.split
    for row, own in enumerate(zip(run.manifest.ids, run.manifest.splits, strict=True)):
        if own == wanted:
            return row
    raise InputError(f"{run.folder}: {mistake.id} was judged, but is no track of the {mistake.split} set")


def window_probs(run: Run, round_number: int, rows: list[int], folds: list[int]) -> list[np.ndarray]:
    """For each row of the manifest the mean over the networks that judge it, shape (windows, C), in order of time.

    Those are the networks of its own fold, or all (fold -1). Raises InputError.
    """
    counts = [len(sampling.prediction_windows(run, np.array([row]))) for row in rows]
    sums, networks = [np.zeros((count, len(run.class_names))) for count in counts], np.zeros(len(rows))
    for job in run.jobs(round_number):
        path = run.predictions_path(job)
        said = predictions.load(path)
        first = np.cumsum(said.num_windows) - said.num_windows
        if said.ids != run.manifest.ids or any(said.num_windows[row] != n for row, n in zip(rows, counts, strict=True)):
            raise InputError(f"{path}: not of this run's tracks and windows")
        for place in (place for place, fold in enumerate(folds) if fold in (-1, job.fold)):
            sums[place] += said.probs[first[rows[place]] :][: counts[place]]
            networks[place] += 1
    return [total / max(1, count) for total, count in zip(sums, networks, strict=True)]


def render_media(run: Run, chosen: list[WorstWindow]) -> Iterator[WindowMedia]:
    """What each window looks and sounds like; a file that cannot be read (any more) has a flaw."""
    plain = {"engine": "auto", "channels": "grey", "trainable": "none", "image_size": PICTURE_SIZE}
    features = LogMel(run.recipe.mel.model_copy(update=plain), run.recipe.audio.sample_rate)
    for number, (window, (wave, audio_error)) in enumerate(zip(chosen, load_waves(run, chosen), strict=True), start=1):
        if audio_error:
            yield WindowMedia(None, None, None, audio_error)
            continue
        picture = plots.window_picture(features(wave[None])[0, 0].numpy())
        short = number * run.recipe.windows.window_s <= MAX_AUDIO_S
        played = encode_mp3(wave.numpy(), run.recipe.audio.sample_rate) if short else None
        yield WindowMedia(picture, played, _file_duration_s(run.manifest.paths[window.row]), None)


def load_waves(run: Run, chosen: list[WorstWindow]) -> Iterator[tuple[torch.Tensor, str | None]]:
    """Each window, of different tracks, as the networks heard it, shape (T,); or silence, and why."""
    guarded = run.recipe.loader.model_copy(update={"on_error": "quarantine", "max_error_fraction": 1.0})
    starts = [to_samples(window.start_s, run.recipe.audio.sample_rate) for window in chosen]
    index = WindowIndex(np.array([window.row for window in chosen], np.int32), np.array(starts, np.int32))
    with WindowLoader(run.manifest.paths, run.recipe.audio, guarded, torch.device("cpu"), run.pcm_cache) as loader:
        for batch, window in zip(loader.batches(index, sampling.window_samples(run), 1), chosen, strict=True):
            audio_error = None if batch.valid[0] else loader.errors[run.manifest.paths[window.row]].reason
            yield batch.waves[0], audio_error


def _file_duration_s(path: str) -> float | None:
    return None if is_url(path) else decode.header_duration_s(Path(path))


def encode_mp3(wave: np.ndarray, sample_rate: int) -> str:
    """A window, shape (T,), as mp3, at a rate that every browser plays."""
    rate = next((rate for rate in MP3_RATES if rate >= sample_rate), MP3_RATES[-1])
    if rate != sample_rate:
        wave = soxr.resample(wave, sample_rate, rate)
    file = io.BytesIO()
    with soundfile.SoundFile(file, "w", rate, 1, format="MP3") as encoder:
        encoder.write(wave / max(1.0, float(np.abs(wave).max())))
    return plots.data_uri("audio/mpeg", file.getvalue())
