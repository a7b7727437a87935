"""Source lists: a CSV of files and labels, or a folder of audio files; no file is opened, only names are read."""

import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from melgpu.audio.remote import is_url, join_url
from melgpu.audio.walk import AudioWalk, natural_key, summarize_ignored
from melgpu.data.folds import fold_values, split_groups
from melgpu.data.lists import track_list
from melgpu.data.lists.track_list import is_visible
from melgpu.errors import InputError, printable

MAX_NAMED = 10  # labels or folders in a message
MAX_CODE_POINTS = 24  # of a label in a message
HINTS = (  # patterns of names by which no file is found, and what to do
    (r"[A-Za-z]:[\\/]|[^/]*\\", "paths of Windows: name the files relative to --data, with / between folders"),
    (r"~\w*/", "relative to a home folder, which only a shell replaces: write the whole path, or use --data"),
)


@dataclass(frozen=True)
class SourceList:
    """The rows of a CSV, or the files of a folder, for one split, before files are opened.

    folds : as the list names them, with `folds.column`; else empty
    submission_ids : of its column of ids, if it has one beside that of files; else empty
    notes : what the user should know of the list
    run_folds : those of another run that has these training tracks, in place of drawn ones; else empty
    """

    ids: list[str]
    paths: list[str]  # or URLs
    labels: list[str]
    groups: list[str]
    locations: list[str]  # where each row comes from, for error messages
    folds: list[str] = field(default_factory=list)
    submission_ids: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    run_folds: list[int] = field(default_factory=list)


def read_source(source: Path, data: str | None, labelled: bool, fold_column: str | None = None) -> SourceList:
    """A CSV, or a folder: with one sub-folder a class where `labelled`, with any files otherwise.

    Files of a CSV are searched below `data` (a folder or URL), then beside the CSV; URLs stay as they are. With a
    `fold_column`, a labelled list is a CSV with such a column. Raises InputError with all malformed rows.
    """
    try:
        os.stat(source)
    except OSError as error:
        reason = "no such file or folder" if isinstance(error, FileNotFoundError) else error.strerror
        raise InputError(f"{source}: {reason}") from None
    if not os.path.isdir(source):
        return _read_csv(source, data, labelled, fold_column)
    if labelled and fold_column:
        raise InputError(f"{source}: a folder has no column {fold_column}, which folds.column names: use a CSV")
    return _read_folder(source, labelled)


def _read_folder(folder: Path, labelled: bool) -> SourceList:
    walk = AudioWalk([folder])
    paths = []
    problems = []
    for found in walk:
        if found.error:
            problems.append(str(found))
        else:
            paths.append(found.path)
    ids = [Path(path).relative_to(folder).as_posix() for path in paths]
    if labelled:
        problems += [f"{folder / name}: not in a sub-folder that names its class" for name in ids if "/" not in name]
    if problems:
        raise InputError(problems)
    labels = [name.split("/")[0] if labelled else "" for name in ids]
    notes = _folder_notes(folder, walk, labels) if labelled else [summarize_ignored(walk.ignored)]
    notes = [f"{folder}: {note}" for note in notes if note]
    return SourceList(ids, paths, labels, [""] * len(ids), paths, notes=notes + similar_labels(labels))


def _folder_notes(folder: Path, walk: AudioWalk, labels: Sequence[str]) -> list[str]:
    """What was left out of class folders, in one line, that names the classes without audio."""
    empty = sorted(set(walk.top_folders) - set(labels), key=natural_key)
    parts = [summarize_ignored(walk.ignored)]
    if empty:
        parts.append(f"class folders without audio: {_listed(empty)}")
    return ["; ".join(part for part in parts if part)]


def _read_csv(source: Path, data: str | None, labelled: bool, fold_column: str | None) -> SourceList:
    tracks = track_list.read_tracks(source, labelled, fold_column)
    finder = FileFinder(data, source.parent)
    paths = [finder.path(name) for name in tracks.names]
    notes = list(tracks.notes)
    if finder.num_other_forms:
        notes.append(f"{source}: {finder.num_other_forms} files have their names in another Unicode form (NFC, NFD)")
    if problems := _hints(source, tracks.names, paths):
        raise InputError(problems)
    folds = tracks.folds if any(tracks.folds) else []
    if labelled:
        more_notes = similar_labels(tracks.labels) + _fold_notes(folds, tracks.groups)
        notes += [f"{source}: {note}" for note in more_notes]
    return SourceList(
        tracks.names,
        paths,
        tracks.labels,
        tracks.groups,
        tracks.locations,
        folds,
        tracks.ids if any(tracks.ids) else [],
        notes,
    )


def _fold_notes(folds: Sequence[str], groups: Sequence[str]) -> list[str]:
    """What may surprise in the folds that a list names."""
    values = fold_values(folds)
    notes = []
    if values != [str(number) for number in range(len(values))]:
        notes.append(f"its folds {_listed(values)} are the folds 0 to {len(values) - 1}")
    if folds and (divided := split_groups(folds, groups)):
        notes.append(f"{len(divided)} artists have tracks in several of its folds: {_listed(divided)}")
    return notes


class FileFinder:
    """Finds the files that a list names: below `data`, a folder or URL, and below `beside`, and in `audio` of each."""

    def __init__(self, data: str | None, beside: Path | None = None):
        self.num_other_forms = 0  # names that were found in another Unicode form
        self._url = data if data and is_url(data) else None
        folders = [str(folder) for folder in (None if self._url else data, beside) if folder is not None]
        self._folders = [path for folder in folders for path in (folder, os.path.join(folder, "audio"))]
        self._listings: dict[str, dict[str, str]] = {}  # of each folder: the names in it by their NFC

    def path(self, name: str) -> str:
        """The path or URL of a name; a missing file has the first path that was tried, for later error messages."""
        if is_url(name):
            return name
        if self._url:
            return join_url(self._url, name)
        return self.find(name) or next(self._candidates(name))

    def find(self, name: str) -> str | None:
        """The path of a local file; None where there is none."""
        found = next(filter(os.path.isfile, self._candidates(name)), None)
        if found is None and not name.isascii():
            found = next(filter(None, (self._find_form(folder, name) for folder in self._folders)), None)
            self.num_other_forms += found is not None
        return found

    def _candidates(self, name: str) -> Iterator[str]:
        return (str(Path(folder) / name) for folder in self._folders)

    def _find_form(self, path: str, name: str) -> str | None:
        """Go down from a folder, one part of the name after another, each in the form that the disk has."""
        for part in PurePosixPath(name).parts:
            exact = os.path.join(path, part)
            if os.path.lexists(exact):
                path = exact
                continue
            other = self._listing(path).get(unicodedata.normalize("NFC", part))
            if other is None:
                return None
            path = os.path.join(path, other)
        return path if os.path.isfile(path) else None

    def _listing(self, folder: str) -> dict[str, str]:
        if folder not in self._listings:
            try:
                names = os.listdir(folder)
            except (OSError, ValueError):
                names = []
            self._listings[folder] = {unicodedata.normalize("NFC", name): name for name in names}
        return self._listings[folder]


def _hints(source: Path, names: Sequence[str], paths: Sequence[str]) -> list[str]:
    """One problem for each kind of names that cannot be found, with their number and the first one."""
    problems = []
    for pattern, hint in HINTS:
        matches = ((name, path) for name, path in zip(names, paths, strict=True) if re.match(pattern, name))
        absent = [name for name, path in matches if _is_absent(path)]
        if absent:
            problems.append(f"{source}: {len(absent)} names, such as {printable(absent[0])}, are {hint}")
    return problems


def _is_absent(path: str) -> bool:
    return not is_url(path) and not os.path.isfile(path)


def similar_labels(labels: Iterable[str]) -> list[str]:
    """A note of labels that look the same, with their code points; empty without such."""
    spellings: dict[str, list[str]] = {}
    for label in sorted(set(labels)):
        spellings.setdefault(folded_label(label), []).append(label)
    groups = [same for same in spellings.values() if len(same) > 1]
    if not groups:
        return []
    named = "; ".join(" and ".join(map(_with_code_points, same)) for same in groups[:MAX_NAMED])
    more = f"; and {len(groups) - MAX_NAMED} more" if len(groups) > MAX_NAMED else ""
    differences = "differ only in capitals, Unicode form, spaces or invisible characters"
    return [f"labels of different classes that {differences}: {named}{more}"]


def folded_label(label: str) -> str:
    """A label without what cannot be seen in it: equal for those that a reader would take for the same."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", label).casefold())
    words = "".join(character if is_visible(character) or character.isspace() else "" for character in folded).split()
    return " ".join(words)


def _with_code_points(label: str) -> str:
    points = " ".join(f"U+{ord(character):04X}" for character in label[:MAX_CODE_POINTS])
    return f"{printable(label, MAX_CODE_POINTS)!r} ({points}{' ...' if len(label) > MAX_CODE_POINTS else ''})"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return ", ".join(printable(name, 40) for name in names[:MAX_NAMED]) + more
