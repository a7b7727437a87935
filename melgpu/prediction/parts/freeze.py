"""A folder of music to a frozen list of its files: the tree is walked once, and nothing of it is held in memory."""

import time
from collections.abc import Iterator
from pathlib import Path

from melgpu import console
from melgpu.audio.walk import AudioWalk, summarize_ignored
from melgpu.errors import InputError, printable
from melgpu.prediction.parts import file_list

SUFFIXES = (".txt", ".csv")
LINE_BREAKS = ("\n", "\r")
MAX_NAMED = 20  # of the files that are left out


class _Walk:
    """The absolute paths of a folder's audio files for a list; `num_files` of them and `problems` with others so far.

    `problems` are the first `MAX_NAMED` of `num_problems`.
    """

    def __init__(self, folder: Path, takes_line_breaks: bool):
        self._walk = AudioWalk([folder.absolute()])
        self._takes_line_breaks = takes_line_breaks
        self.num_files = 0
        self.num_problems = 0
        self.problems: list[str] = []

    def __iter__(self) -> Iterator[str]:
        last_line = time.monotonic()
        for found in self._walk:
            if found.error:
                self._leave_out(str(found))
            elif not self._takes_line_breaks and any(character in found.path for character in LINE_BREAKS):
                self._leave_out(f"{printable(found.path)}: a line break in its name, which only a .csv can have")
            else:
                self.num_files += 1
                yield found.path
            if time.monotonic() - last_line >= console.LINE_EVERY_S:
                last_line = time.monotonic()
                console.say(f"{self.num_files:,} files so far: {printable(found.path)}")

    def _leave_out(self, problem: str) -> None:
        self.num_problems += 1
        if self.num_problems <= MAX_NAMED:
            self.problems.append(problem)

    def notes(self) -> list[str]:
        """What was left out, and what was ignored."""
        notes = [f"error: {problem}" for problem in self.problems]
        if self.num_problems:
            notes.append(f"Left out, with errors: {self.num_problems:,}")
        summary = summarize_ignored(self._walk.ignored)
        return [*notes, f"note: {summary}"] if summary else notes


def freeze_folder(folder: Path, out: Path, num_parts: int | None) -> int:
    """Write the list of a folder's audio files to `out`, and freeze it; returns the number of those left out.

    Raises InputError where the list exists or no file is found.
    """
    if not folder.is_dir():
        raise InputError(f"--list {folder}: not a folder; --write-list writes the list of a folder's files")
    if out.suffix.lower() not in SUFFIXES:
        raise InputError(f"--write-list {out}: give it the suffix of a format: {', '.join(SUFFIXES)}")
    for path in (out, file_list.frozen_path(out)):
        if path.exists():
            raise InputError(f"--write-list {out}: {path} exists, and a frozen list is not replaced: name another")
    walk = _Walk(folder, takes_line_breaks=out.suffix.lower() == ".csv")
    console.say(f"Searching {folder}")
    file_list.write_list(out, _at_least_one(walk))
    file_list.freeze(out, walk.num_files, num_parts)
    for note in walk.notes():
        console.say(note)
    in_parts = f", in {console.counted(num_parts, 'part')}" if num_parts else ""
    console.say(f"{walk.num_files:,} files{in_parts}: {out}")
    return walk.num_problems


def _at_least_one(walk: _Walk) -> Iterator[str]:
    """The files; InputError, while the list is not complete, where there are none."""
    yield from walk
    if not walk.num_files:
        raise InputError(walk.problems)
