"""Music that was moved after a run was made: the run's tracks, with the paths of their files in their new place.

Ids, labels and folds stay. A file in the new place is the one that the run was made of if it has its size and the hash
of its beginning, which the manifest holds. Files of runs that were made before it did are not compared, which is said.
"""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePosixPath

from melgpu import console
from melgpu.audio import duplicates, quarantine, remote
from melgpu.audio.content import content_id, size_of
from melgpu.audio.remote import absolute_path, is_url
from melgpu.data import manifest
from melgpu.data.lists.sources import FileFinder
from melgpu.data.manifest import Manifest
from melgpu.errors import InputError
from melgpu.runs.run import Run

NUM_TRIED = 20  # files, evenly spaced over the manifest


def move_to(run: Run, data: str) -> Run:
    """The run with its files in `data`, a folder or URL; those that are not there stay. Nothing is written.

    Raises InputError where a file is in neither place, or is another.
    """
    if not is_url(data) and not os.path.isdir(data):
        raise InputError(f"--data {data}: no such folder")
    new_paths = _find_in(run.manifest, data)
    missing = [
        f"{run.manifest.ids[row]}: neither in {data} nor at {run.manifest.paths[row]}"
        for row, path in enumerate(new_paths)
        if path is None and _was_readable(run.manifest, row) and not _exists(run.manifest.paths[row])
    ]
    if missing:
        raise InputError(missing)
    moved = _with_paths(run, new_paths)
    if moved is run:
        console.say(f"{run.folder}: its files are in {data} already, or stay where they are")
    return moved


def move_to_listed(run: Run, listed_paths: Sequence[str]) -> Run:
    """The run with its files where its source lists, read again, find them; others stay. Nothing is written.

    Raises InputError where a file is another.
    """
    return _with_paths(run, [absolute_path(path) if _exists(path) else None for path in listed_paths])


def save(run: Run, moved: Run) -> None:
    """Write the paths of a run that was moved, if it was, into the files of its folder."""
    if moved is run:
        return
    renamed = dict(zip(run.manifest.paths, moved.manifest.paths, strict=True))
    # The manifest last: after an interruption the same command does all of it again.
    quarantine.rename_files(run.paths.quarantine, renamed)
    duplicates.rename_files(run.paths.duplicates, renamed)
    manifest.save(moved.manifest, run.paths.manifest)


def check_present(run: Run) -> None:
    """Raise InputError where none of the files that are tried is where the run has it: all of its music was moved."""
    paths = [path for path in run.manifest.paths if not is_url(path)]
    sampled = paths[:: -(-len(paths) // NUM_TRIED) or 1]
    if sampled and not any(map(os.path.isfile, sampled)):
        raise InputError(
            f"{run.folder}: none of the {len(sampled)} files that were tried is there any more, such as {sampled[0]}: "
            f"if the music was moved, {run.command_line('train', '--data', 'NEW_FOLDER')}"
        )


def _find_in(tracks: Manifest, data: str) -> list[str | None]:
    """The path of each track below a folder or URL; None for URLs, and where there is none."""
    finder = FileFinder(data)
    paths: list[str | None] = []
    for name in tracks.ids:
        if is_url(name):
            paths.append(None)
        elif is_url(data):
            paths.append(finder.path(name))
        else:
            found = next(filter(None, map(finder.find, _names_below(name))), None)
            paths.append(None if found is None else absolute_path(found))
    return paths


def _names_below(name: str) -> list[str]:
    """The names by which a file may be found in a new folder: of an absolute one all its ends, the longest first."""
    parts = PurePosixPath(name).parts
    if not PurePosixPath(name).is_absolute():
        return [name]
    return [str(PurePosixPath(*parts[start:])) for start in range(1, len(parts))]


def _was_readable(tracks: Manifest, row: int) -> bool:
    """Whether there was a file when the run was made; true for runs that do not say so."""
    return bool(tracks.contents[row]) if tracks.contents else True


def _exists(path: str) -> bool:
    return is_url(path) or os.path.isfile(path)


def _with_paths(run: Run, new_paths: Sequence[str | None]) -> Run:
    """The run with those paths that are not None. Raises InputError where the file there is another."""
    tracks = run.manifest
    pairs = enumerate(zip(tracks.paths, new_paths, strict=True))
    moved = {row: new for row, (old, new) in pairs if new is not None and new != old}
    if not moved:
        return run
    num_unchecked = _check_contents(tracks, moved)
    paths = tuple(moved.get(row, path) for row, path in enumerate(tracks.paths))
    unchecked = f"; {num_unchecked} could not be compared with those that the run was made of" if num_unchecked else ""
    stay = len(tracks) - len(moved)
    others = f", {stay} stay where they are" if stay else ""
    console.say(f"{run.folder}: {len(moved)} of its files have a new place{others}{unchecked}")
    return replace(run, manifest=replace(tracks, paths=paths))


def _check_contents(tracks: Manifest, moved: dict[int, str]) -> int:
    """Compare files with those that the run was made of; returns how many could not be. Raises InputError."""
    num_unchecked = 0
    problems = []
    with console.progress("comparing moved files", len(moved), "files") as tracker:
        for row, path in moved.items():
            expected = tracks.contents[row] if tracks.contents else ""
            if expected:
                problems += _difference(tracks.ids[row], path, expected)
            else:
                num_unchecked += 1
            tracker.advance(1)
    if problems:
        raise InputError(problems)
    return num_unchecked


def _difference(name: str, path: str, expected: str) -> list[str]:
    try:
        with remote.local_copy(path) as local_path:
            content = content_id(str(local_path))
    except InputError as error:
        return [f"{name}: {path}: {problem}" for problem in error.problems]
    if content == expected:
        return []
    if not content:
        return [f"{name}: {path}: not readable"]
    old_size, size = size_of(expected), size_of(content)
    reason = f"{size:,} bytes instead of {old_size:,}" if size != old_size else "another beginning"
    return [f"{name}: {path} is not the file that the run was made of ({reason})"]
