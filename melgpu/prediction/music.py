"""Music files to the likeliest classes, in a table, a CSV, or along each file."""

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
from melgpu.audio.quarantine import AudioError
from melgpu.audio.remote import is_url
from melgpu.console import Tracker
from melgpu.data.loader import WindowLoader
from melgpu.data.sources import AUDIO_SUFFIXES, find_audio, is_utf8
from melgpu.errors import InputError
from melgpu.prediction import timeline_plot
from melgpu.prediction.ensemble import Ensemble, load_ensemble
from melgpu.prediction.predictor import Predictor, predict_tracks, resume_log_path
from melgpu.prediction.timeline import Timeline, expected_windows
from melgpu.runs.run import Run


def predict_files(run: Run, music: list[str], out: Path | None, device: torch.device) -> list[str]:
    """Show the likeliest classes of music files, and write all to `out`; the problems with files, if there are any.

    Raises InputError where there is nothing to show.
    """
    if out:
        check_replaceable(out)
    ensemble = load_ensemble(run)
    paths, problems = find_music(music)
    guarded = {"pcm_cache": "off", "on_error": "quarantine", "max_error_fraction": 1.0}
    spec = run.recipe.loader.model_copy(update=guarded)
    recipe = ensemble.recipe.model_copy(update={"loader": spec, "machine": run.recipe.machine})
    with WindowLoader(paths, recipe.audio, recipe.loader, device) as loader:
        if paths:
            probs, unusable = predict_tracks(ensemble, recipe, loader, out)
    problems += [str(audio_error) for audio_error in loader.errors.values()]
    if not paths or unusable.all():
        raise InputError(problems)
    console.show(prediction_table(paths, probs, ensemble.class_names, unusable))
    if out:
        write_predictions(out, paths, probs, ensemble.class_names, loader.errors)
        resume_log_path(out).unlink(missing_ok=True)
        console.say(f"Probabilities of all classes: {out}")
    for problem in problems:
        console.say(f"broken: {problem}")
    return problems


def write_timelines(run: Run, music: list[str], folder: Path, device: torch.device) -> list[str]:
    """Write the classes along each music file, from end to end; the problems with files, if there are any.

    Raises InputError where there is nothing to write.
    """
    ensemble = load_ensemble(run)
    paths, problems = find_music(music)
    recipe = ensemble.recipe.model_copy(update={"machine": run.recipe.machine})
    predictor = Predictor(ensemble.networks, recipe, device)
    audio, spec = ensemble.recipe.audio, ensemble.recipe.windows
    batch_size = run.recipe.loader.predict_batch_size
    folder.mkdir(parents=True, exist_ok=True)  # an error now rather than after hours
    expected = [expected_windows(path, audio, spec) for path in paths]
    written = []
    title = f"{len(ensemble.networks)} networks predict {len(paths)} files from end to end"
    with console.progress(title, sum(expected), "windows") as tracker:
        for path, name, count in zip(paths, timeline_plot.distinct_names(paths), expected, strict=True):
            timeline = Timeline(path, audio, spec, device)
            before = tracker.done
            if write_timeline(timeline, ensemble, predictor, batch_size, folder / name, tracker):
                written.append(f"{path}: {folder / name}.csv and .png")
            tracker.skip(before + count - tracker.done)  # a header may be wrong about the length
            if timeline.error:
                problems.append(timeline.error)
    if not written:
        raise InputError(problems)
    for line in written:
        console.say(line)
    for problem in problems:
        console.say(f"broken: {problem}")
    return problems


def write_timeline(
    timeline: Timeline, ensemble: Ensemble, predictor: Predictor, batch_size: int, out: Path, tracker: Tracker
) -> bool:
    """Write OUT.csv and OUT.png of one file; False and nothing where it holds no usable audio."""
    spans_s, probs = [], []
    with contextlib.closing(timeline.batches(batch_size)) as batches:
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
    """Every audio file or URL named or below a folder named, each once, and what is wrong with other names."""
    paths, problems = [], []
    for name in names:
        found = [str(path) for path in find_audio(Path(name))] if Path(name).is_dir() else [name]
        if not found:
            problems.append(f"{name}: no audio files ({' '.join(AUDIO_SUFFIXES)}) in this folder")
        for path in found:
            if is_utf8(path):
                paths.append(path)
            else:
                problems.append(f"{path!r}: the file's name is not UTF-8")
    return list(dict.fromkeys(paths)), problems


def prediction_table(
    paths: Sequence[str], probs: np.ndarray, class_names: Sequence[str], unusable: Sequence[bool]
) -> Table:
    """The three likeliest classes of each file, named from the folder that they share; probs (N, C)."""
    table = Table("file", "likeliest", "second", "third", box=SIMPLE)
    here = [path for path in paths if not is_url(path)]
    shared = os.path.commonpath([Path(path).absolute().parent for path in here]) if here else ""
    for path, class_probs, has_no_audio in zip(paths, probs, unusable, strict=True):
        likeliest = class_probs.argsort()[::-1][:3]
        cells = [f"{escape(class_names[c])} {class_probs[c]:.0%}" for c in likeliest]
        name = path if is_url(path) else os.path.relpath(path, shared)
        table.add_row(escape(name), *(["not readable"] if has_no_audio else cells))
    return table


def check_replaceable(out: Path) -> None:
    """Raise InputError where `write_answers` would replace anything but what it has written itself."""
    if out.is_dir():
        raise InputError(f"--out {out}: a folder; name a file in it")
    if out.exists():
        with files.read_csv(out, "an earlier result of this script, which alone --out may replace") as (header, _):
            if (header[:1], header[-1:]) != (["file"], ["error"]):
                raise ValueError(f"its columns are {', '.join(header)}")


def write_predictions(
    out: Path,
    paths: Sequence[str],
    probs: np.ndarray,
    class_names: Sequence[str],
    audio_errors: Mapping[str, AudioError],
) -> None:
    """Probabilities of all classes, (N, C), one row a file; empty cells for one that gave nothing."""
    rows = (_prediction_row(path, own, audio_errors.get(path)) for path, own in zip(paths, probs, strict=True))
    files.write_csv(out, ["file", *class_names, "error"], rows)


def _prediction_row(path: str, probs: np.ndarray, audio_error: AudioError | None) -> list[str]:
    cells = [""] * len(probs) if audio_error and audio_error.unusable else [f"{p:.6f}" for p in probs]
    return [path, *cells, audio_error.reason if audio_error else ""]
