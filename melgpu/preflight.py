"""Everything that can be wrong with a run's input, found and listed before anything is done."""

from collections.abc import Callable
from pathlib import Path

from melgpu import backbone, manifest, report
from melgpu.errors import InputError
from melgpu.features import LogMel
from melgpu.manifest import Listing, Manifest
from melgpu.recipe import Recipe
from melgpu.stream import find_problems


def gather(sources: dict[str, Path | None], data: Path | None, settings: Recipe) -> Manifest:
    """Read the lists of all splits, look at every file, and draw the folds.

    Raises InputError with all problems: of the lists if there are any, else of tracks, audio, weights and pictures.
    """
    listings, problems = _read_lists(sources, data)
    if problems:
        raise InputError(problems)
    try:
        tracks = manifest.build(listings, settings.folds.num_folds, settings.folds.seed)
    except InputError as error:
        problems = error.problems
    paths = dict.fromkeys(path for listing in listings.values() for path in listing.paths if path.is_file())
    problems += [*filter(None, unreadable(list(paths), settings)), *_missing_weights(settings)]
    problems += _problems_of(LogMel, settings.mel, settings.audio.sample_rate)
    if problems:
        raise InputError(problems)
    _note_dense_classes(tracks, settings)
    return tracks


def _read_lists(sources: dict[str, Path | None], data: Path | None) -> tuple[dict[str, Listing], list[str]]:
    listings, problems = {}, []
    if data and not data.is_dir():
        problems.append(f"--data {data}: no such folder")
    for split, source in sources.items():
        if source:
            try:
                listings[split] = manifest.read_listing(source, data, labelled=split == "train")
            except InputError as error:
                problems += error.problems
    return listings, problems


def unreadable(paths: list[Path], settings: Recipe) -> list[str | None]:
    """What is wrong with each audio file, found by decoding as much of it as the recipe uses; None where it is well."""
    problems = []
    with report.progress("looking at the audio files", len(paths), "files") as tracker:
        for problem in find_problems(paths, settings.audio, settings.stream):
            problems.append(problem)
            tracker.advance(1)
    return problems


def _missing_weights(settings: Recipe) -> list[str]:
    """What keeps the networks from their ImageNet weights; downloads what is not there yet."""
    spec, problems = settings.backbone, []
    names = sorted({name for number in settings.rounds for name in number.backbones}) if spec.pretrained else []
    if spec.weights_dir or not names:
        return [
            problem for name in names for problem in _problems_of(backbone.find_weights, name, Path(spec.weights_dir))
        ]
    with report.progress("fetching ImageNet weights", len(names), "networks") as tracker:
        for name in names:
            problems = _problems_of(backbone.build, name, 2, spec)
            tracker.advance(1, name)
            if problems:
                break  # what ails one download ails all
    return problems


def _problems_of(call: Callable, *arguments) -> list[str]:
    try:
        call(*arguments)
    except InputError as error:
        return error.problems
    return []


def _note_dense_classes(tracks: Manifest, settings: Recipe) -> None:
    unknown = [name for name in settings.windows.dense_classes if name not in tracks.class_names]
    if unknown:
        report.say(
            f"note: windows.dense_classes names {', '.join(unknown)}, which the labels do not have; "
            f"all other classes get a window every {settings.windows.hop_s:g} s"
        )
