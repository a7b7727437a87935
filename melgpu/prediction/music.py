"""Class predictions of music files: the most likely classes in a table, all in a CSV, or a timeline of each file."""

import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from rich.box import SIMPLE
from rich.markup import escape
from rich.table import Table

from melgpu import console, files
from melgpu.audio.quarantine import AudioError, has_usable_audio
from melgpu.audio.remote import is_url
from melgpu.console import Tracker
from melgpu.data.loader import WindowLoader
from melgpu.data.sources import AUDIO_SUFFIXES, find_audio, is_utf8
from melgpu.errors import InputError
from melgpu.prediction import timeline_plot
from melgpu.prediction.ensemble import Ensemble, load_ensemble
from melgpu.prediction.predictor import WindowPredictor, predict_tracks, resume_log_path
from melgpu.prediction.timeline import Timeline, expected_windows
from melgpu.runs.run import Run


def predict_files(run: Run, music: list[str], out: Path | None, device: torch.device) -> list[str]:
    """Show the most likely classes of music files, and write all to `out`; returns the problems with files.

    Raises InputError where no file has usable audio.
    """
    if out:
        check_replaceable(out)  # fail before hours of prediction
    ensemble = load_ensemble(run)
    paths, problems = find_music(music)
    # Any number of files may be unreadable: they are reported at the end, and the others are predicted.
    overrides = {"pcm_cache": "off", "on_error": "quarantine", "max_error_fraction": 1.0}
    loader_spec = run.recipe.loader.model_copy(update=overrides)
    # Features and windows are those of the checkpoints; settings of loader and machine are the run's.
    recipe = ensemble.recipe.model_copy(update={"loader": loader_spec, "machine": run.recipe.machine})
    with WindowLoader(paths, recipe.audio, recipe.loader, device) as loader:
        if paths:
            probs, unusable = predict_tracks(ensemble, recipe, loader, out)
    problems += [str(audio_error) for audio_error in loader.errors.values()]
    if not paths or unusable.all():
        raise InputError(problems)
    console.show(prediction_table(paths, probs, ensemble.class_names, unusable))
    if out:
        write_predictions(out, paths, probs, ensemble.class_names, loader.errors)
        resume_log_path(out).unlink(missing_ok=True)  # the table contains its predictions
        console.say(f"Probabilities of all classes: {out}")
    for problem in problems:
        console.say(f"error: {problem}")
    return problems


def write_timelines(run: Run, music: list[str], folder: Path, device: torch.device) -> list[str]:
    """Write the timeline of each music file, from start to end; returns the problems with files.

    Raises InputError where no file has usable audio.
    """
    ensemble = load_ensemble(run)
    paths, problems = find_music(music)
    recipe = ensemble.recipe.model_copy(update={"machine": run.recipe.machine})
    predictor = WindowPredictor(ensemble.networks, recipe, device)
    audio = ensemble.recipe.audio
    spec = ensemble.recipe.windows
    batch_size = run.recipe.loader.predict_batch_size
    folder.mkdir(parents=True, exist_ok=True)  # fail before hours of prediction
    window_counts = [expected_windows(path, audio, spec) for path in paths]
    written = []
    title = f"{len(ensemble.networks)} networks predict {len(paths)} files from start to end"
    with console.progress(title, sum(window_counts), "windows") as tracker:
        names = timeline_plot.distinct_names(paths)
        for path, name, count in zip(paths, names, window_counts, strict=True):
            timeline = Timeline(path, audio, spec, device)
            done_before = tracker.done
            if write_timeline(timeline, ensemble, predictor, batch_size, folder / name, tracker):
                written.append(f"{path}: {folder / name}.csv and .png")
            tracker.skip(done_before + count - tracker.done)  # the header may claim a wrong length
            if timeline.error:  # perhaps of a file whose beginning was usable, and is written
                problems.append(timeline.error)
    if not written:
        raise InputError(problems)
    for line in written:
        console.say(line)
    for problem in problems:
        console.say(f"error: {problem}")
    return problems


def write_timeline(
    timeline: Timeline, ensemble: Ensemble, predictor: WindowPredictor, batch_size: int, out: Path, tracker: Tracker
) -> bool:
    """Write OUT.csv and OUT.png of one file; returns False and writes nothing where it has no usable audio."""
    spans_s = []
    probs = []
    with contextlib.closing(timeline.batches(batch_size)) as batches:  # ends the thread that decodes ahead
        for batch, window_probs in predictor.probs(batches):
            spans_s.append(timeline.span_s(batch.starts))
            probs.append(ensemble.combine(window_probs.numpy()))
            tracker.advance(len(batch.starts), out.name)
    if not probs:
        return False
    title = Path(timeline.path).name
    timeline_plot.save(out, title, np.concatenate(spans_s), np.concatenate(probs), ensemble.class_names)
    return True


def find_music(names: list[str]) -> tuple[list[str], list[str]]:
    """Paths of all audio files and URLs among `names` or in folders among them, each once; problems of the others."""
    paths = []
    problems = []
    for name in names:
        is_folder = Path(name).is_dir()
        candidates = [str(path) for path in find_audio(Path(name))] if is_folder else [name]
        if not candidates:
            problems.append(f"{name}: no audio files ({' '.join(AUDIO_SUFFIXES)}) in this folder")
        for path in candidates:
            if is_utf8(path):  # others could not be written to any result
                paths.append(path)
            else:
                problems.append(f"{path!r}: the file's name is not UTF-8")
    return list(dict.fromkeys(paths)), problems  # a dict keeps their order


def prediction_table(
    paths: Sequence[str], probs: np.ndarray, class_names: Sequence[str], unusable: np.ndarray
) -> Table:
    """The three most likely classes of each file, its path relative to the common folder.

    probs (N, C); unusable (N,) bool.
    """
    table = Table("file", "most likely", "second", "third", box=SIMPLE)
    local_paths = [path for path in paths if not is_url(path)]
    parents = [Path(path).absolute().parent for path in local_paths]
    common_folder = os.path.commonpath(parents) if parents else ""  # commonpath raises for an empty list
    for path, class_probs, is_unusable in zip(paths, probs, unusable, strict=True):
        top_classes = class_probs.argsort()[::-1][:3]
        cells = [f"{escape(class_names[c])} {class_probs[c]:.0%}" for c in top_classes]
        name = path if is_url(path) else os.path.relpath(path, common_folder)
        row = ["not readable"] if is_unusable else cells
        table.add_row(escape(name), *row)
    return table


def check_replaceable(out: Path) -> None:
    """Raise InputError where `write_predictions` would replace a file that it has not written."""
    if out.is_dir():
        raise InputError(f"--out {out}: a folder; name a file in it")
    if out.exists():
        with files.read_csv(out, "an earlier result of this script, which alone --out may replace") as (header, _):
            # The class names between them may be another run's. ValueError: read_csv says what the file is not.
            if (header[:1], header[-1:]) != (["file"], ["error"]):
                raise ValueError(f"its columns are {', '.join(header)}")


def write_predictions(
    out: Path,
    paths: Sequence[str],
    probs: np.ndarray,
    class_names: Sequence[str],
    audio_errors: Mapping[str, AudioError],
) -> None:
    """Probabilities of all classes, (N, C), one row per file; empty cells for an unusable file."""
    rows = (
        _prediction_row(path, file_probs, audio_errors.get(path)) for path, file_probs in zip(paths, probs, strict=True)
    )
    files.write_csv(out, ["file", *class_names, "error"], rows)


def _prediction_row(path: str, probs: np.ndarray, audio_error: AudioError | None) -> list[str]:
    cells = [f"{p:.6f}" for p in probs] if has_usable_audio(audio_error) else [""] * len(probs)
    reason = audio_error.reason if audio_error else ""
    return [path, *cells, reason]
