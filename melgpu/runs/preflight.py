"""Validates the input of a run before any work: source lists, audio files, networks, weights, folders."""

import functools
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from melgpu import console, files
from melgpu.audio import duplicates, fingerprint, quarantine
from melgpu.audio.duplicates import Duplicate
from melgpu.audio.quarantine import AudioError
from melgpu.audio.remote import absolute_path, is_url
from melgpu.audio.worker import CheckedFile
from melgpu.data import dataset_check, manifest
from melgpu.data.loader import WindowLoader, check_files
from melgpu.data.manifest import Manifest, Split
from melgpu.data.pcm_cache import PcmCache, open_cache
from melgpu.data.sources import SourceList, read_source
from melgpu.data.windows import to_samples
from melgpu.errors import InputError
from melgpu.features.log_mel import LogMel
from melgpu.models import classifier
from melgpu.recipe import Recipe
from melgpu.recipe_schema import MIN_SUBFOLDS
from melgpu.runs.run import Run
from melgpu.tags.labels import read_tagged_folder


def check_writable(folder: Path) -> None:
    """Raise InputError if a run folder cannot be created."""
    existing = files.existing_parent(folder)  # the folder may not exist yet
    if not existing.is_dir():
        raise InputError(f"--run {folder}: {existing} is not a folder; choose another")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise InputError(f"--run {folder}: {existing} is not writable; choose another")


def build_manifest(
    source_lists: dict[Split, SourceList], recipe: Recipe, cache_folder: Path
) -> tuple[Manifest, list[AudioError], list[Duplicate] | None]:
    """Decode every file of the source lists (into the PCM cache, if there is room), and draw the folds.

    Returns the manifest, the audio errors for the quarantine, and the files with the same recording (None where the
    recipe's tracks cannot be compared). Raises InputError with all problems of tracks, audio,
    networks, weights and pictures.
    """
    folds = recipe.folds
    build = functools.partial(
        manifest.build, source_lists, folds.num_folds, folds.seed, small_classes=folds.small_classes
    )
    problems = _manifest_problems(build, recipe)
    problems += _missing_networks(recipe)
    problems += _collect_problems(LogMel, recipe.mel, recipe.audio.sample_rate)
    # Each file once, in order: several lists may name it.
    paths = list(dict.fromkeys(path for listed in source_lists.values() for path in listed.paths))
    # A run that cannot start needs no cache, but the problems of its files are reported with the others.
    cache = None if problems else _choose_cache(cache_folder, recipe, len(paths))
    checked = check_audio(paths, recipe, cache)
    audio_errors = {path: file.error for path, file in checked.items() if file.error}
    if audio_errors and recipe.loader.on_error == "raise":
        console.say("Audio errors stop a new run; --set loader.on_error=quarantine uses only their usable seconds")
        problems += _locate_errors(audio_errors, source_lists)
    if problems:
        raise InputError(problems)
    quarantine.check_error_rate(audio_errors, len(paths), recipe.loader.max_error_fraction)
    unusable = {path for path, audio_error in audio_errors.items() if audio_error.unusable}
    # Built again, now that the unusable files are known: they get no fold.
    tracks = build(unusable=unusable)
    if problems := too_few_validation_tracks(tracks, recipe):
        raise InputError(problems)
    _note_dense_classes(tracks, recipe)
    # Absolute paths, as the manifest has them: the loader's errors of later calls must replace these.
    quarantined = [replace(audio_error, path=absolute_path(audio_error.path)) for audio_error in audio_errors.values()]
    return tracks, quarantined, _find_duplicates(checked, recipe)


def _find_duplicates(checked: dict[str, CheckedFile], recipe: Recipe) -> list[Duplicate] | None:
    if not fingerprint.can_compare(recipe.audio.sample_rate, recipe.audio.track_s):
        console.say(f"note: {dataset_check.NOT_COMPARED}")
        return None
    return duplicates.find({absolute_path(path): file for path, file in checked.items()})


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
    audio_errors = quarantine.load_errors(run.quarantine_path)
    unusable = {audio_error.path for audio_error in audio_errors if audio_error.unusable}
    missing = [path for path in run.manifest.paths if path not in unusable and run.pcm_cache.find(path) is None]
    if missing:
        check_audio(missing, run.recipe, run.pcm_cache)


def load_to_device(loader: WindowLoader, rows: np.ndarray) -> None:
    """Load the tracks of these rows from the PCM cache into the device cache."""
    with console.progress(f"loading the PCM cache into {loader.device}", len(rows), "tracks") as tracker:
        for _ in loader.load_to_device(rows):
            tracker.advance(1)


def check_dataset(source_lists: dict[Split, SourceList], recipe: Recipe) -> int:
    """Report on a data set: its lists, and as much of each file as a track needs; returns the number of problems."""
    try:
        folds = recipe.folds
        tracks = manifest.build(source_lists, folds.num_folds, folds.seed, small_classes=folds.small_classes)
    except InputError as error:
        paths = [path for listed in source_lists.values() for path in listed.paths]
        return _inspect_dataset(paths, None, recipe, error.problems)
    return check_manifest(tracks, recipe)


def check_manifest(tracks: Manifest, recipe: Recipe) -> int:
    """Like `check_dataset`, for the tracks of a run."""
    return _inspect_dataset(tracks.paths, tracks, recipe, too_few_validation_tracks(tracks, recipe))


def _inspect_dataset(
    paths: Sequence[str], tracks: Manifest | None, recipe: Recipe, manifest_problems: Sequence[str]
) -> int:
    summaries = []
    with console.progress("inspecting the audio files", len(paths), "files") as tracker:
        for summary in dataset_check.inspect_files(paths, recipe.audio, recipe.loader):
            summaries.append(summary)
            tracker.advance(1)
    audio_problems = [
        f"{path}: {summary.error}" for path, summary in zip(paths, summaries, strict=True) if summary.error
    ]
    problems = [*manifest_problems, *audio_problems, *_unknown_networks(recipe)]
    dataset_check.print_report(paths, summaries, tracks, recipe, problems)
    return len(problems)


def _locate_errors(audio_errors: dict[str, AudioError], source_lists: dict[Split, SourceList]) -> Iterator[str]:
    """Audio errors as problems, each with its line in a source list."""
    for listed in source_lists.values():
        for path, line in zip(listed.paths, listed.locations, strict=True):
            if path in audio_errors:
                # In a folder of class folders the location is the file itself.
                yield str(audio_errors[path]) if line == path else f"{line}: {audio_errors[path]}"


def _missing_networks(recipe: Recipe) -> list[str]:
    """Problems of unknown or unsuitable networks, and of their weights; downloads missing weights."""
    names = _networks(recipe)
    unsuitable = _unknown_networks(recipe)
    if not unsuitable:  # an unknown network cannot be tried
        unsuitable = [
            problem for name in names for problem in _collect_problems(classifier.check_forward, name, recipe)
        ]
    if unsuitable or not recipe.backbone.pretrained:
        return unsuitable
    return missing_weights(recipe)


def missing_weights(recipe: Recipe) -> list[str]:
    """Problems of ImageNet weights that cannot be had; downloads them."""
    spec = recipe.backbone
    names = _networks(recipe)
    if spec.weights_dir:
        folder = Path(spec.weights_dir)
        return [problem for name in names for problem in _collect_problems(classifier.find_weights, name, folder)]
    problems = []
    with console.progress("downloading ImageNet weights", len(names), "networks") as tracker:
        for name in names:
            # With any number of classes: the head has no pretrained weights.
            problems = _collect_problems(classifier.build, name, 2, recipe)  # the weights stay in the hub's cache
            tracker.advance(1, name)
            if problems:
                break  # the other downloads would fail too
    return problems


def _networks(recipe: Recipe) -> list[str]:
    return sorted({name for spec in recipe.rounds for name in spec.backbones})


def _unknown_networks(recipe: Recipe) -> list[str]:
    names = sorted({*_networks(recipe), *recipe.optim_overrides})
    return [problem for name in names for problem in _collect_problems(classifier.find_backbone, name)]


def _collect_problems(function: Callable, *arguments: object) -> list[str]:
    """The problems of the InputError that a call raises, if any."""
    try:
        function(*arguments)
    except InputError as error:
        return error.problems
    return []


def _note_dense_classes(tracks: Manifest, recipe: Recipe) -> None:
    unknown = [name for name in recipe.windows.dense_classes if name not in tracks.class_names]
    if unknown:
        console.say(
            f"note: windows.dense_classes names {', '.join(unknown)}, which are not among the labels; "
            f"all other classes get a window every {recipe.windows.hop_s:g} s"
        )
