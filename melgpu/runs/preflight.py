"""Validates the input of a run before any work: source lists, audio files, networks, weights, folders."""

import functools
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from melgpu import console, files
from melgpu.audio import duplicates, fingerprint, quarantine
from melgpu.audio.blocks import open_file
from melgpu.audio.duplicates import Duplicate
from melgpu.audio.quarantine import AudioError
from melgpu.audio.remote import absolute_path, is_url
from melgpu.audio.worker import CheckedFile
from melgpu.data import dataset_check, manifest_builder
from melgpu.data.lists.sources import SourceList, read_source
from melgpu.data.loader import WindowLoader, check_files
from melgpu.data.manifest import Manifest, Split
from melgpu.data.pcm_cache import PcmCache, open_cache
from melgpu.data.windows import to_samples
from melgpu.errors import InputError
from melgpu.recipe import Recipe
from melgpu.recipe_schema import MIN_SUBFOLDS
from melgpu.runs.checks import networks
from melgpu.runs.run import Run
from melgpu.tags.labels import read_tagged_folder


def check_writable(folder: Path) -> None:
    """Raise InputError if a run folder cannot be created."""
    existing = files.existing_parent(folder)  # the folder may not exist yet
    if not existing.is_dir():
        raise InputError(f"--run {folder}: {existing} is not a folder; choose another")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise InputError(f"--run {folder}: {existing} is not writable; choose another")


def check_before_decoding(source_lists: dict[Split, SourceList], recipe: Recipe) -> None:
    """Raise InputError with all problems of a new run that are found without decoding and without a download."""
    problems = _manifest_problems(_manifest_builder(source_lists, recipe), recipe)
    problems += _absent_files(source_lists, recipe)
    problems += networks.recipe_problems(recipe)
    if problems:
        console.say("The audio was not checked: nothing is decoded before these problems are mended")
        raise InputError(problems)


def build_manifest(
    source_lists: dict[Split, SourceList], recipe: Recipe, cache_folder: Path
) -> tuple[Manifest, list[AudioError], list[Duplicate]]:
    """Decode every file of the source lists (into the PCM cache, if there is room), and draw the folds.

    Returns the manifest, the audio errors for the quarantine, and the files with the same recording. Raises InputError
    with all problems of the audio.
    """
    paths = _listed_paths(source_lists)
    cache = _choose_cache(cache_folder, recipe, len(paths))
    checked = check_audio(paths, recipe, cache)
    audio_errors = {path: file.error for path, file in checked.items() if file.error}
    if audio_errors and recipe.loader.on_error == "raise":
        console.say("Audio errors stop a new run; --set loader.on_error=quarantine uses only their usable seconds")
        raise InputError(_locate_errors(audio_errors, source_lists))
    quarantine.check_error_rate(audio_errors, len(paths), recipe.loader.max_error_fraction)
    unusable = {path for path, audio_error in audio_errors.items() if audio_error.unusable}
    # Built again, now that the unusable files are known: they get no fold.
    tracks = _manifest_builder(source_lists, recipe)(unusable=unusable)
    if problems := too_few_validation_tracks(tracks, recipe):
        raise InputError(problems)
    _note_dense_classes(tracks, recipe)
    # Absolute paths, as the manifest has them: the loader's errors of later calls must replace these.
    quarantined = [replace(audio_error, path=absolute_path(audio_error.path)) for audio_error in audio_errors.values()]
    return tracks, quarantined, _find_duplicates(checked, recipe)


def _find_duplicates(checked: dict[str, CheckedFile], recipe: Recipe) -> list[Duplicate]:
    if not fingerprint.can_compare(recipe.audio.sample_rate, recipe.audio.track_s):
        console.say(f"note: {dataset_check.NOT_COMPARED}")  # only files of the same content are found
    return duplicates.find({absolute_path(path): file for path, file in checked.items()})


def _manifest_builder(source_lists: dict[Split, SourceList], recipe: Recipe) -> Callable[..., Manifest]:
    folds = recipe.folds
    return functools.partial(
        manifest_builder.build, source_lists, folds.num_folds, folds.seed, small_classes=folds.small_classes
    )


def _listed_paths(source_lists: dict[Split, SourceList]) -> list[str]:
    """Each file once, in order: several lists may name it."""
    return list(dict.fromkeys(path for listed in source_lists.values() for path in listed.paths))


def _absent_files(source_lists: dict[Split, SourceList], recipe: Recipe) -> list[str]:
    """Problems of files that are not there or empty, if their audio errors would stop the run."""
    paths = _listed_paths(source_lists)
    errors = {}
    for path in paths:
        reasons = [] if is_url(path) else networks.collect_problems(_open_and_close, path)
        if reasons:
            errors[path] = AudioError(path, reasons[0], 0.0)
    if recipe.loader.on_error == "raise":
        return list(_locate_errors(errors, source_lists))
    return networks.collect_problems(quarantine.check_error_rate, errors, len(paths), recipe.loader.max_error_fraction)


def _open_and_close(path: str) -> None:
    open_file(Path(path)).close()


def _choose_cache(folder: Path, recipe: Recipe, num_tracks: int) -> PcmCache | None:
    """The PCM cache of a new run; what `loader.pcm_cache = "auto"` chose is said."""
    cache = open_cache(folder, recipe.audio, recipe.loader, num_tracks)
    if recipe.loader.pcm_cache == "auto":
        gigabytes = 4e-9 * num_tracks * to_samples(recipe.audio.track_s, recipe.audio.sample_rate)
        tracks = f"{console.counted(num_tracks, 'track')}, {gigabytes:.1f} GB"
        if cache:
            console.say(f"Decoded audio is kept in {folder} ({tracks}), for all epochs")
        else:
            console.say(f"No room for decoded audio ({tracks}): files are decoded anew in each epoch")
    return cache


def _manifest_problems(build: Callable[[], Manifest], recipe: Recipe) -> list[str]:
    try:
        return too_few_validation_tracks(build(), recipe)
    except InputError as error:
        return error.problems


def too_few_validation_tracks(tracks: Manifest, recipe: Recipe) -> list[str]:
    """One problem for each stack, or fold of a round without stackers, whose last step could not be done."""
    problems = []
    for round_number, spec in enumerate(recipe.rounds, start=1):
        needed = MIN_SUBFOLDS if spec.blend else 1
        for folds in recipe.fold_groups(round_number):
            count = int(np.isin(tracks.folds, folds).sum())
            if count < needed:
                problems.append(
                    f"round {round_number}, fold {', '.join(map(str, folds))}: {count} validation tracks, where "
                    f"{needed} are needed: add tracks, use fewer folds (--set folds.num_folds=2), or stack nothing "
                    "(--recipe quick)"
                )
    return problems


def read_sources(
    sources: dict[Split, Path | None],
    data: str | None,
    fold_column: str | None = None,
    labels_from_tags: str | None = None,
) -> dict[Split, SourceList]:
    """The source lists of all splits; what is ignored in them is said. Raises InputError with all their problems."""
    source_lists: dict[Split, SourceList] = {}
    problems = []
    if data and not is_url(data) and not Path(data).is_dir():
        problems.append(f"--data {data}: no such folder")
    for split, source in sources.items():
        if source:
            try:
                if labels_from_tags and split is Split.TRAIN:
                    source_lists[split] = read_tagged_folder(source, fold_column)
                else:
                    source_lists[split] = read_source(source, data, split is Split.TRAIN, fold_column)
            except InputError as error:
                problems += error.problems
                continue
            for note in source_lists[split].notes:
                console.say(f"note: {note}")
    if problems:
        raise InputError(problems)
    return source_lists


def check_audio(paths: list[str], recipe: Recipe, cache: PcmCache | None) -> dict[str, CheckedFile]:
    """Audio errors and fingerprints by path, found by decoding as much of each file as the recipe uses."""
    checked = {}
    title = "decoding into the PCM cache" if cache else "checking the audio files"
    with console.progress(title, len(paths), "files") as tracker:
        for path, file in zip(paths, check_files(paths, recipe.audio, recipe.loader, cache), strict=True):
            tracker.advance(1)
            checked[path] = file
    return checked


def fill_cache(run: Run) -> None:
    """Decode the tracks that are not in a run's PCM cache, except unusable files: the loader will report those."""
    if run.pcm_cache is None:
        return
    audio_errors = quarantine.load_errors(run.paths.quarantine)
    unusable = {audio_error.path for audio_error in audio_errors if audio_error.unusable}
    missing = [path for path in run.manifest.paths if path not in unusable and run.pcm_cache.find(path) is None]
    if missing:
        check_audio(missing, run.recipe, run.pcm_cache)


def load_to_device(loader: WindowLoader, rows: np.ndarray) -> None:
    """Load the tracks of these rows from the PCM cache into the device cache."""
    with console.progress(f"loading the PCM cache into {loader.device}", len(rows), "tracks") as tracker:
        for _ in loader.load_to_device(rows):
            tracker.advance(1)


def check_dataset(source_lists: dict[Split, SourceList], recipe: Recipe, is_new: bool = True) -> int:
    """Report on a data set: its lists, and as much of each file as a track needs; returns the number of problems.

    is_new : whether the networks and weights of the recipe are tried, too
    """
    recipe_problems = networks.recipe_problems(recipe) if is_new else []
    try:
        tracks = _manifest_builder(source_lists, recipe)()
    except InputError as error:
        paths = [path for listed in source_lists.values() for path in listed.paths]
        return _inspect_dataset(paths, None, recipe, [*error.problems, *recipe_problems])
    problems = [*too_few_validation_tracks(tracks, recipe), *recipe_problems]
    return _inspect_dataset(tracks.paths, tracks, recipe, problems)


def check_manifest(tracks: Manifest, recipe: Recipe) -> int:
    """Like `check_dataset`, for the tracks of a run."""
    return _inspect_dataset(tracks.paths, tracks, recipe, too_few_validation_tracks(tracks, recipe))


def _inspect_dataset(
    paths: Sequence[str], tracks: Manifest | None, recipe: Recipe, known_problems: Sequence[str]
) -> int:
    for problem in known_problems:  # now rather than after all files are decoded
        console.say(f"problem: {problem}")
    summaries = []
    with console.progress("inspecting the audio files", len(paths), "files") as tracker:
        for summary in dataset_check.inspect_files(paths, recipe.audio, recipe.loader):
            summaries.append(summary)
            tracker.advance(1)
    audio_problems = [
        f"{path}: {summary.error}" for path, summary in zip(paths, summaries, strict=True) if summary.error
    ]
    problems = [*known_problems, *audio_problems]
    dataset_check.print_report(paths, summaries, tracks, recipe, problems)
    return len(problems)


def _locate_errors(audio_errors: dict[str, AudioError], source_lists: dict[Split, SourceList]) -> Iterator[str]:
    """Audio errors as problems, each with its line in a source list."""
    for listed in source_lists.values():
        for path, line in zip(listed.paths, listed.locations, strict=True):
            if path in audio_errors:
                # In a folder of class folders the location is the file itself.
                yield str(audio_errors[path]) if line == path else f"{line}: {audio_errors[path]}"


def _note_dense_classes(tracks: Manifest, recipe: Recipe) -> None:
    unknown = [name for name in recipe.windows.dense_classes if name not in tracks.class_names]
    if unknown:
        console.say(
            f"note: windows.dense_classes names {', '.join(unknown)}, which are not among the labels; "
            f"all other classes get a window every {recipe.windows.hop_s:g} s"
        )
