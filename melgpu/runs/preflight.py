"""Everything that can be wrong with a run's input, found and listed before anything is done."""

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from melgpu import console
from melgpu.audio import quarantine
from melgpu.audio.quarantine import AudioError
from melgpu.audio.remote import absolute_path, is_url
from melgpu.data import dataset_check, manifest
from melgpu.data.loader import WindowLoader, check_files
from melgpu.data.manifest import Manifest
from melgpu.data.pcm_cache import PcmCache
from melgpu.data.sources import SourceList, read_source
from melgpu.errors import InputError
from melgpu.features.log_mel import LogMel
from melgpu.models import classifier
from melgpu.recipe import Recipe
from melgpu.runs.run import Run


def check_writable(folder: Path) -> None:
    """Raise InputError where no run can be made."""
    place = next(one for one in (folder, *folder.absolute().parents) if one.exists())
    if not place.is_dir():
        raise InputError(f"--run {folder}: {place} is no folder; choose another")
    if not os.access(place, os.W_OK | os.X_OK):
        raise InputError(f"--run {folder}: {place} is not yours to write to; choose another")


def build_manifest(
    sources: dict[str, Path | None], data: str | None, recipe: Recipe, cache: PcmCache | None = None
) -> tuple[Manifest, list[AudioError]]:
    """Read the lists of all splits, decode every file (into the bank, where there is one), and draw the folds.

    Returns the tracks and the flaws of files that go into quarantine. Raises InputError with all problems: of form if
    there are any, else of tracks, audio, weights and pictures.
    """
    listings = read_sources(sources, data)
    problems = _problems_of(manifest.build, listings, recipe.folds.num_folds, recipe.folds.seed)
    problems += [*_missing_networks(recipe), *_problems_of(LogMel, recipe.mel, recipe.audio.sample_rate)]
    paths = list(dict.fromkeys(path for one in listings.values() for path in one.paths))
    audio_errors = find_errors(paths, recipe, None if problems else cache)
    if audio_errors and recipe.loader.on_error == "raise":
        console.say("Broken files stop a new run; it goes on without them with --set loader.on_error=quarantine")
        problems += _located(audio_errors, listings)
    if problems:
        raise InputError(problems)
    quarantine.check_error_rate(audio_errors, len(paths), recipe.loader.max_error_fraction)
    unusable = {path for path, audio_error in audio_errors.items() if audio_error.unusable}
    tracks = manifest.build(listings, recipe.folds.num_folds, recipe.folds.seed, unusable)
    _note_dense_classes(tracks, recipe)
    return tracks, [replace(audio_error, path=absolute_path(audio_error.path)) for audio_error in audio_errors.values()]


def read_sources(sources: dict[str, Path | None], data: str | None) -> dict[str, SourceList]:
    """The lists of all splits. Raises InputError with what is wrong with their form."""
    listings, problems = {}, []
    if data and not is_url(data) and not Path(data).is_dir():
        problems.append(f"--data {data}: no such folder")
    for split, source in sources.items():
        if source:
            try:
                listings[split] = read_source(source, data, labelled=split == "train")
            except InputError as error:
                problems += error.problems
    if problems:
        raise InputError(problems)
    return listings


def find_errors(paths: list[str], recipe: Recipe, cache: PcmCache | None) -> dict[str, AudioError]:
    """What is wrong with audio files, by path, found by decoding as much of them as the recipe uses."""
    audio_errors = {}
    title = "decoding into the bank" if cache else "looking at the audio files"
    with console.progress(title, len(paths), "files") as tracker:
        for path, audio_error in zip(paths, check_files(paths, recipe.audio, recipe.loader, cache), strict=True):
            tracker.advance(1)
            if audio_error:
                audio_errors[path] = audio_error
    return audio_errors


def fill_cache(run: Run) -> None:
    """Decode what a run's bank lacks, but for files that gave nothing before: of those the stream will say so."""
    if run.pcm_cache is None:
        return
    unusable = {audio_error.path for audio_error in quarantine.load_errors(run.quarantine_path) if audio_error.unusable}
    missing = [path for path in run.manifest.paths if path not in unusable and run.pcm_cache.find(path) is None]
    if missing:
        find_errors(missing, run.recipe, run.pcm_cache)


def load_to_device(loader: WindowLoader, rows: np.ndarray) -> None:
    """Bring the tracks of these rows from the bank into the device's memory, where the recipe says so."""
    if loader.spec.pcm_cache != "gpu":
        return
    with console.progress(f"loading the bank into {loader.device}", len(rows), "tracks") as tracker:
        for _ in loader.load_to_device(rows):
            tracker.advance(1)


def check_dataset(what: Manifest | dict[str, SourceList], recipe: Recipe) -> int:
    """Report what the lists and the first seconds of every file say of a data set; how many problems it has."""
    tracks, problems = what, []
    if not isinstance(what, Manifest):
        folds = recipe.folds.num_folds, recipe.folds.seed
        problems = _problems_of(manifest.build, what, *folds)
        tracks = None if problems else manifest.build(what, *folds)
    paths = tracks.paths if tracks else [path for one in what.values() for path in one.paths]
    found = []
    with console.progress("listening to the beginning of each file", len(paths), "files") as tracker:
        for one in dataset_check.inspect_files(paths, recipe.loader.workers, recipe.loader.timeout_s):
            found.append(one)
            tracker.advance(1)
    problems += [f"{path}: {one.error}" for path, one in zip(paths, found, strict=True) if one.error]
    problems += _unknown_networks(recipe)
    dataset_check.print_report(paths, found, tracks, recipe.audio.track_s, problems)
    return len(problems)


def _located(audio_errors: dict[str, AudioError], listings: dict[str, SourceList]) -> Iterator[str]:
    for one in listings.values():
        for path, line in zip(one.paths, one.lines, strict=True):
            if path in audio_errors:
                yield str(audio_errors[path]) if line == path else f"{line}: {audio_errors[path]}"


def _missing_networks(recipe: Recipe) -> list[str]:
    """Networks that are unknown or unfit, or what keeps them from their weights; downloads what is not there yet."""
    spec, problems, names = recipe.backbone, [], _networks(recipe)
    unknown = _unknown_networks(recipe) or [
        problem for name in names for problem in _problems_of(classifier.check_forward, name, recipe)
    ]
    if unknown or not spec.pretrained:
        return unknown
    if spec.weights_dir:
        return [
            problem for name in names for problem in _problems_of(classifier.find_weights, name, Path(spec.weights_dir))
        ]
    with console.progress("fetching ImageNet weights", len(names), "networks") as tracker:
        for name in names:
            problems = _problems_of(classifier.build, name, 2, recipe)
            tracker.advance(1, name)
            if problems:
                break  # what ails one download ails all
    return problems


def _networks(recipe: Recipe) -> list[str]:
    return sorted({name for number in recipe.rounds for name in number.backbones})


def _unknown_networks(recipe: Recipe) -> list[str]:
    mentioned = sorted({*_networks(recipe), *recipe.optim_overrides})
    return [problem for name in mentioned for problem in _problems_of(classifier.find_backbone, name)]


def _problems_of(call: Callable, *arguments) -> list[str]:
    try:
        call(*arguments)
    except InputError as error:
        return error.problems
    return []


def _note_dense_classes(tracks: Manifest, recipe: Recipe) -> None:
    unknown = [name for name in recipe.windows.dense_classes if name not in tracks.class_names]
    if unknown:
        console.say(
            f"note: windows.dense_classes names {', '.join(unknown)}, which the labels do not have; "
            f"all other classes get a window every {recipe.windows.hop_s:g} s"
        )
