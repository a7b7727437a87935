"""What a command line asks for to a run: created, or opened again."""

import time
from dataclasses import dataclass, replace
from pathlib import Path

from melgpu import console
from melgpu.audio import quarantine
from melgpu.data.pcm_cache import open_cache
from melgpu.errors import InputError
from melgpu.recipe import load_recipe
from melgpu.runs import preflight, timings
from melgpu.runs.folder import check_same_recipe, is_run, open_run
from melgpu.runs.run import Run


@dataclass(frozen=True)
class Sources:
    """Where the tracks of a new run are listed, CSV files or folders, and where the files that the CSVs name lie."""

    labels: Path | None
    test: Path | None
    private: Path | None
    data: str | None

    @property
    def lists(self) -> dict[str, Path | None]:
        """By split."""
        return {"train": self.labels, "public": self.test, "private": self.private}

    @property
    def flags(self) -> list[str]:
        """The flags of the command line that were given."""
        return [f"--{name}" for name in ("labels", "test", "private", "data") if getattr(self, name)]


@dataclass(frozen=True)
class Request:
    """Which run, by which recipes and overrides."""

    folder: Path
    recipes: list[str]
    overrides: list[str]
    without_pseudo: bool


def open_or_create(request: Request, source: Sources, device_name: str) -> Run:
    """The run in the folder asked for, or a new one of the recipe and the tracks. Raises InputError."""
    if not is_run(request.folder):
        return create(request, source, device_name)
    if source.flags:
        console.say(f"{request.folder} keeps the tracks it was made with; ignored: {' '.join(source.flags)}")
    opened = reopen(request)
    preflight.fill_cache(opened)
    return opened


def create(request: Request, source: Sources, device_name: str) -> Run:
    """A new run. Raises InputError with everything that is wrong with its input."""
    folder = request.folder
    if not source.labels:
        raise InputError(f"{folder}: a new run needs --labels: a CSV of file,label or a folder of class folders")
    if request.without_pseudo:
        raise InputError("--without-pseudo is for a run whose first round is done: leave it out")
    preflight.check_writable(folder)
    recipe = load_recipe(request.recipes, request.overrides)
    cache = open_cache(folder / "pcm_cache", recipe.audio, recipe.loader)
    started = time.monotonic()
    tracks, audio_errors = preflight.build_manifest(source.lists, source.data, recipe, cache)
    seconds = time.monotonic() - started
    made = folder.create_run(folder, recipe, tracks, device_name)
    timings.record(made.timings_path, 1, "decode" if cache else "check files", seconds, len(tracks), "tracks")
    quarantine.record_errors(made.quarantine_path, audio_errors)
    if audio_errors:
        console.say(quarantine.summarize(audio_errors, made.quarantine_path))
    return made


def reopen(request: Request) -> Run:
    """The run in a folder; recipes asked for may change how the work is done, but not its results.

    Raises InputError.
    """
    opened = open_run(request.folder, request.overrides, request.without_pseudo)
    if not request.recipes:
        return opened
    wanted = load_recipe(request.recipes, request.overrides)
    check_same_recipe(request.folder, wanted)
    return replace(opened, recipe=wanted)


def check_dataset(request: Request, source: Sources) -> int:
    """Report on the tracks of the lists, or else of the run; how many problems there are. Raises InputError."""
    if not source.labels:
        opened = open_run(request.folder, request.overrides, request.without_pseudo)
        return preflight.check_dataset(opened.manifest, opened.recipe)
    recipe = load_recipe(request.recipes, request.overrides)
    return preflight.check_dataset(preflight.read_sources(source.lists, source.data), recipe)
