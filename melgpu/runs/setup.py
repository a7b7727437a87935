"""Creates or opens the run that a command line requests."""

import time
from dataclasses import replace

import torch

from melgpu import cli, console
from melgpu.audio import duplicates, quarantine
from melgpu.data import dataset_check, manifest, manifest_builder
from melgpu.data.folds import listed_folds
from melgpu.data.lists.sources import SourceList
from melgpu.data.manifest import Split
from melgpu.errors import InputError
from melgpu.recipe import Recipe
from melgpu.runs import preflight, relocation, run_request
from melgpu.runs.checks import networks
from melgpu.runs.distillation import teacher as teachers
from melgpu.runs.distillation.teacher import Teacher
from melgpu.runs.folder import check_same_recipe, create_run, is_run, open_run
from melgpu.runs.formats import timings
from melgpu.runs.paths import RunPaths
from melgpu.runs.run import Run
from melgpu.runs.run_request import RunRequest, Sources


def open_or_create(request: RunRequest, sources: Sources, device: torch.device) -> Run:
    """The existing run in the requested folder, or a new one. Raises InputError."""
    if not is_run(request.folder):
        return create(request, sources, device)
    opened = reopen(request)
    moved = _move_to_listed(opened, sources) if sources.labels else _move(opened, sources)
    relocation.save(opened, moved)
    if moved.current_round is not None and moved.untrained_jobs(moved.current_round):
        relocation.check_present(moved)
        _check_weights(moved, moved.current_round)
    preflight.fill_cache(moved)
    return moved


def _check_weights(run: Run, round_number: int) -> None:
    """Raise InputError where weights are missing that a training will start from."""
    if not run.recipe.backbone.pretrained:
        return
    names = sorted({job.backbone for job in run.untrained_jobs(round_number)})
    if problems := networks.missing_weights(run.recipe, names):
        raise InputError(problems)


def _move(run: Run, sources: Sources) -> Run:
    """The run with its files in `--data`, if that is given; other sources are ignored, which is said."""
    ignored = replace(sources, data=None).arguments
    if ignored:
        console.say(f"{run.folder} has its tracks already; ignored: {' '.join(ignored)}")
    return relocation.move_to(run, sources.data) if sources.data else run


def _move_to_listed(run: Run, sources: Sources) -> Run:
    """The run with its files where the source lists find them now.

    Raises InputError where the lists are not those that the run was made of: it never learns other tracks.
    """
    listed = _read_sources(sources, run.recipe)
    if not _is_made_of(run, listed):
        command = cli.command_line("train", "--run", "NEW_FOLDER", *sources.arguments)
        raise InputError(
            f"{run.folder} is of other tracks or labels than these lists. A run never learns new ones: start another, "
            f"{command}, or go on with those it has, {run.command_line('train')}"
        )
    return relocation.move_to_listed(run, manifest_builder.listed_paths(listed))


def _read_sources(sources: Sources, recipe: Recipe) -> dict[Split, SourceList]:
    return preflight.read_sources(sources.lists, sources.data, recipe.folds.column, sources.labels_from_tags)


def _is_made_of(run: Run, listed: dict[Split, SourceList]) -> bool:
    """Whether source lists have a run's ids, labels and splits, and its folds, if they name any."""
    tracks = run.manifest
    if manifest_builder.track_columns(listed) != (tracks.ids, tracks.labels, tracks.splits):
        return False
    cells = listed[Split.TRAIN].folds
    if not cells:
        return True
    folds = tracks.folds[tracks.rows(Split.TRAIN)]
    has_fold = folds >= 0  # without usable audio it has none
    return bool((folds == listed_folds(cells, run.recipe.folds.num_folds))[has_fold].all())


def create(request: RunRequest, sources: Sources, device: torch.device) -> Run:
    """Create a run. Raises InputError with all problems of its input."""
    folder = request.folder
    paths = RunPaths(folder)
    if not sources.labels and not request.teacher:
        lists = "a CSV of file,label or a folder of class folders"
        raise InputError(f"{folder}: a new run needs --labels: {lists}; or --teacher: a finished run to learn from")
    if request.without_pseudo:
        raise InputError("--without-pseudo needs a run whose first round is done: leave it out")
    # In the order of their cost: names, the recipe, weights (a download), then audio.
    preflight.check_writable(folder)
    on_cpu = device.type == "cpu"
    requested = run_request.read_recipe(request, on_cpu)
    source_lists = _sources_of_new_run(request, sources, requested)
    preflight.check_before_decoding(source_lists, requested)
    recipe = run_request.resolve_weights(request, requested, on_cpu)
    started = time.monotonic()
    tracks, audio_errors, duplicate_files = preflight.build_manifest(source_lists, recipe, paths.pcm_cache)
    seconds = time.monotonic() - started
    quarantine.record_errors(paths.quarantine, audio_errors)
    if duplicate_files is not None:
        duplicates.save(paths.duplicates, duplicate_files)
    # Only now the folder is a run: an interrupted creation starts anew, with what the cache has.
    run = create_run(folder, recipe, manifest.with_contents(tracks), device)
    stage = "decode" if run.pcm_cache else "check files"
    timings.record(run.paths.timings, 1, stage, seconds, len(tracks), "tracks")
    if audio_errors:
        console.say(quarantine.summarize(audio_errors, run.paths.quarantine))
    if duplicate_files:
        console.say(dataset_check.duplicates_note(duplicate_files, run.manifest, run.paths.duplicates))
    return run


def _sources_of_new_run(request: RunRequest, sources: Sources, recipe: Recipe) -> dict[Split, SourceList]:
    """The source lists of a new run; a student's are its teacher's tracks where it names none. Raises InputError."""
    teacher = request.teacher
    if teacher and not sources.labels:
        _check_uses(sources, teacher)
    source_lists = _read_sources(sources, recipe)
    if not teacher:
        return source_lists
    if not sources.labels:
        return teachers.source_lists(teacher, recipe.folds.num_folds) | source_lists
    teachers.check_classes(source_lists[Split.TRAIN].labels, teacher)
    return source_lists


def _check_uses(sources: Sources, teacher: Teacher) -> None:
    """Raise InputError for arguments that a student of its teacher's tracks would not use."""
    if sources.labels_from_tags:
        raise InputError(
            "--labels-from-tags needs --labels: without them a student has its teacher's tracks and labels"
        )
    if sources.data and not (sources.test or sources.private):
        command = teacher.run.command_line("train", "--data", sources.data)
        raise InputError(
            f"--data {sources.data}: a student without --labels has its teacher's files: first move those, {command}"
        )


def reopen(request: RunRequest) -> Run:
    """Open an existing run; requested recipes may change its speed settings, but not its results.

    Raises InputError.
    """
    opened = open_run(request.folder, request.overrides, request.without_pseudo)
    distil = opened.recipe.distil
    if request.teacher and (distil is None or distil.teacher != request.teacher.digest):
        has = f"another teacher, {distil.teacher}, than {request.teacher.digest}" if distil else "no teacher"
        raise InputError(f"{request.folder} has {has}: choose another --run, or leave --teacher out")
    if not request.recipes:
        return opened
    if distil and not request.teacher:
        raise InputError(f"{request.folder} has its recipe: leave --recipe out, or give its --teacher, too")
    on_cpu = opened.environment.device == "cpu"
    recipe = run_request.recipe_of_run(request, opened.recipe, on_cpu)
    check_same_recipe(request.folder, recipe)
    return replace(opened, recipe=recipe)


def check_dataset(request: RunRequest, sources: Sources, device: torch.device) -> int:
    """Report on the tracks of the source lists, or else of the run, or of a new student's teacher.

    Returns the number of problems. Raises InputError.
    """
    is_known = is_run(request.folder)
    if not sources.labels and (is_known or not request.teacher):
        opened = open_run(request.folder, request.overrides, request.without_pseudo)
        return preflight.check_manifest(_move(opened, sources).manifest, opened.recipe)
    if not is_known:
        recipe = run_request.read_recipe(request, on_cpu=device.type == "cpu")
        return preflight.check_dataset(_sources_of_new_run(request, sources, recipe), recipe)
    # The lists of a run that exists are checked as its tracks are, which may be of other lengths than the default.
    recipe = reopen(request).recipe
    return preflight.check_dataset(_read_sources(sources, recipe), recipe, is_new=False)
