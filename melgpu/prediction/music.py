"""Class predictions of music files: the most likely classes on the console, all in a file, or a timeline of each."""

import contextlib
import functools
import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from rich.box import SIMPLE
from rich.markup import escape
from rich.table import Table

from melgpu import console
from melgpu.audio.remote import is_url
from melgpu.audio.walk import AudioWalk, summarize_ignored
from melgpu.console import Tracker
from melgpu.data.loader import WindowLoader
from melgpu.errors import InputError
from melgpu.prediction import tagging, timeline_plot
from melgpu.prediction.api import Model
from melgpu.prediction.embedding import Embedding, write_embeddings
from melgpu.prediction.ensemble import Ensemble, load_ensemble, run_digests
from melgpu.prediction.predictor import TrackPredictor, WindowPredictor, recipe_for_new_music, resume_log_path
from melgpu.prediction.table import UNSURE, PredictionTable, TableMetadata, file_status, used_seconds, write_table
from melgpu.prediction.tagging import TagWriting
from melgpu.prediction.timeline import Timeline, expected_windows
from melgpu.runs.run import Run

NUM_LEAST_SURE = 5  # files in the summary


def predict_files(
    run: Run,
    music: list[str],
    out: Path | None,
    device: torch.device,
    min_confidence: float = 0.0,
    tags: TagWriting | None = None,
) -> list[str]:
    """Show the most likely classes of music files, and write `out`, if given; returns the problems with files.

    `out` has passed `table.check_out`; labels with a confidence below `min_confidence` are `unsure`. With `tags`, the
    genre tags of the files are changed, or what would be is shown. Raises InputError where no file has usable audio.
    """
    if tags:
        tagging.check_classes(run.class_names)
    if min_confidence and UNSURE in run.class_names:
        raise InputError(f"--min-confidence writes {UNSURE}, which is the name of a class of this run")
    ensemble = load_ensemble(run)
    console.say(f"Predicted by {ensemble.description}")
    paths, problems = find_music(music)
    predictions = _predict(run, ensemble, paths, out, device, min_confidence)
    problems += [str(error) for error in predictions.errors if error]
    if not predictions.usable.any():
        raise InputError(problems)
    save = None
    if out:  # before anything is shown: whatever happens to the terminal, the results are saved
        save = functools.partial(write_table, out, metadata=TableMetadata(digests=run_digests(run)))
        save(predictions)
        resume_log_path(out).unlink(missing_ok=True)  # the table contains its predictions
    show_predictions(predictions, problems)
    if tags:
        problems += tagging.write_tags(predictions, tags, save)
    if out:
        console.say(f"Probabilities of all classes: {out}")
    return problems


def _predict(
    run: Run, ensemble: Ensemble, paths: list[str], out: Path | None, device: torch.device, min_confidence: float
) -> PredictionTable:
    """Predictions of music files of any number, none included."""
    recipe = recipe_for_new_music(ensemble, run.recipe)
    statuses = [file_status(path) for path in paths]  # before decoding: a file that changes meanwhile is another
    predictor = TrackPredictor(ensemble, recipe, device)
    networks = console.counted(len(ensemble.networks), "network")
    title = f"predicting {console.counted(len(paths), 'file')} with {networks}"
    probs = np.empty((0, len(ensemble.class_names)), np.float32)
    with (
        WindowLoader(paths, recipe.audio, recipe.loader, device) as loader,
        tempfile.TemporaryDirectory() as folder,  # for the log of a prediction that is not written to a file
    ):
        if paths:
            log = resume_log_path(out or Path(folder) / "out")
            with console.progress(title, len(paths) * predictor.windows_per_track, "windows") as tracker:
                probs = predictor.predict(loader, log, tracker)
    errors = [loader.errors.get(path) for path in paths]
    files_with_errors = zip(paths, errors, strict=True)
    used_s = [used_seconds(path, error, recipe.audio.track_s) for path, error in files_with_errors]
    return PredictionTable(paths, ensemble.class_names, probs, errors, used_s, statuses, min_confidence)


def write_timelines(run: Run, music: list[str], folder: Path, device: torch.device) -> list[str]:
    """Write the timeline of each music file, from start to end; returns the problems with files.

    Raises InputError where no file has usable audio.
    """
    ensemble = load_ensemble(run)
    console.say(f"Predicted by {ensemble.description}")
    paths, problems = find_music(music)
    recipe = ensemble.recipe.model_copy(update={"machine": run.recipe.machine})
    predictor = WindowPredictor(ensemble.networks, recipe, device)
    audio = ensemble.recipe.audio
    spec = ensemble.recipe.windows
    batch_size = run.recipe.loader.predict_batch_size
    folder.mkdir(parents=True, exist_ok=True)  # fail before hours of prediction
    window_counts = [expected_windows(path, audio, spec) for path in paths]
    written = []
    title = f"predicting {len(paths)} files from start to end"
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


def embed_files(run: Run, music: list[str], out: Path, device: torch.device) -> list[str]:
    """Write the embedding of each music file to `out`, a Parquet file; returns the problems with files.

    `out` has passed `table.check_embed`. Raises InputError where no file has usable audio.
    """
    ensemble = load_ensemble(run)
    paths, problems = find_music(music)
    model = Model(ensemble, recipe_for_new_music(ensemble, run.recipe), device)
    with console.progress(f"embedding {len(paths)} files", len(paths), "files") as tracker:
        write_embeddings(out, _tracked(model.embed(paths), tracker, problems))
    console.say(f"Embeddings: {out}")
    for problem in problems:
        console.say(f"error: {problem}")
    return problems


def _tracked(embeddings: Iterable[Embedding], tracker: Tracker, problems: list[str]) -> Iterator[Embedding]:
    """The embeddings, with progress; errors are added to `problems`, and raised where no file has usable audio."""
    num_usable = 0
    for embedding in embeddings:
        tracker.advance(1, Path(embedding.path).name)
        num_usable += embedding.vector is not None
        if embedding.error:
            problems.append(f"{embedding.path}: {embedding.error}")
        yield embedding
    if not num_usable:  # while the file is not complete, so that none is left
        raise InputError(problems)


def find_music(names: list[str]) -> tuple[list[str], list[str]]:
    """Paths of all audio files and URLs among `names` or in folders among them, each once; problems of the others.

    Says what was ignored in folders.
    """
    walk = AudioWalk(names)
    paths: dict[str, None] = {}  # a dict keeps their order
    problems = []
    for found in walk:
        if found.error:
            problems.append(str(found))
        else:
            paths[found.path] = None
    if summary := summarize_ignored(walk.ignored):
        console.say(f"note: {summary}")
    return list(paths), problems


def show_predictions(predictions: PredictionTable, problems: Sequence[str]) -> None:
    """Print the most likely classes of each file and the problems; last, for several files, a summary."""
    console.show(prediction_table(predictions))
    for problem in problems:
        console.say(f"error: {problem}")
    if len(predictions.paths) > 1:
        console.show(label_table(predictions))
        console.show(least_sure_table(predictions))
        if problems:
            console.say(f"Errors, listed above: {len(problems)}")


def prediction_table(predictions: PredictionTable) -> Table:
    """The three most likely classes of each file."""
    table = Table("file", "most likely", "second", "third", box=SIMPLE)
    names = _short_names(predictions.paths)
    rows = zip(names, predictions.probs, predictions.labels, strict=True)
    for name, class_probs, label in rows:
        cells = _most_likely(class_probs, predictions.class_names, 3)
        if label is None:
            cells = ["not readable"]
        elif label == UNSURE:
            cells[0] = f"{UNSURE} ({cells[0]})"
        table.add_row(escape(name), *cells)
    return table


def label_table(predictions: PredictionTable) -> Table:
    """The number of files with each label, the most frequent one first."""
    labels = [label for label in predictions.labels if label is not None]
    table = Table("label", f"{len(labels)} files", box=SIMPLE)
    for label, count in Counter(labels).most_common():
        table.add_row(escape(label), str(count))
    return table


def least_sure_table(predictions: PredictionTable) -> Table:
    """The files with the smallest confidences, and their two most likely classes."""
    table = Table("least sure", "most likely", "second", box=SIMPLE)
    names = _short_names(predictions.paths)
    usable_rows = np.flatnonzero(predictions.usable)
    order = predictions.confidences[usable_rows].argsort(kind="stable")
    for row in usable_rows[order[:NUM_LEAST_SURE]].tolist():
        table.add_row(escape(names[row]), *_most_likely(predictions.probs[row], predictions.class_names, 2))
    return table


def _most_likely(probs: np.ndarray, class_names: Sequence[str], count: int) -> list[str]:
    """The `count` most likely classes with their probabilities, escaped; probs (C,)."""
    top_classes = (-probs).argsort(kind="stable")[:count]  # of equal ones the first, like argmax
    return [f"{escape(class_names[c])} {probs[c]:.0%}" for c in top_classes]


def _short_names(paths: Sequence[str]) -> list[str]:
    """Paths relative to their common folder; URLs as they are."""
    parents = [Path(path).absolute().parent for path in paths if not is_url(path)]
    common_folder = os.path.commonpath(parents) if parents else ""  # commonpath raises for an empty list
    return [path if is_url(path) else os.path.relpath(path, common_folder) for path in paths]
