"""Source lists: a CSV of files and labels, or a folder of audio files; no file is opened, only names are read."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from melgpu.audio.remote import file_suffix, is_url, join_url
from melgpu.audio.walk import AUDIO_SUFFIXES, AudioWalk, natural_key, summarize_ignored
from melgpu.errors import InputError

MAX_NAMED = 10  # folders in a message
FILE_COLUMNS = ("file", "filename", "path", "id", "track", "name")
LABEL_COLUMNS = ("label", "class", "genre")
GROUP_COLUMNS = ("artist",)


@dataclass(frozen=True)
class SourceList:
    """The rows of a CSV, or the files of a folder, for one split, before files are opened."""

    ids: list[str]
    paths: list[str]  # or URLs
    labels: list[str]
    groups: list[str]
    locations: list[str]  # where each row comes from, for error messages
    notes: list[str] = field(default_factory=list)  # what the user should know of the list


def read_source(source: Path, data: str | None, labelled: bool) -> SourceList:
    """A CSV, or a folder: with one sub-folder a class where `labelled`, with any files otherwise.

    Files of a CSV are searched below `data` (a folder or URL), then beside the CSV; URLs stay as they are. Raises
    InputError with all malformed rows.
    """
    if source.is_dir():
        return _read_folder(source, labelled)
    if not source.is_file():
        raise InputError(f"{source}: no such file or folder")
    return _read_csv(source, data, labelled)


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
    return SourceList(ids, paths, labels, [""] * len(ids), paths, notes=notes)


def _folder_notes(folder: Path, walk: AudioWalk, labels: Sequence[str]) -> list[str]:
    """What was left out of class folders, in one line, that names the classes without audio."""
    empty = sorted(set(walk.top_folders) - set(labels), key=natural_key)
    parts = [summarize_ignored(walk.ignored)]
    if empty:
        parts.append(f"class folders without audio: {_listed(empty)}")
    return ["; ".join(part for part in parts if part)]


def _read_csv(source: Path, data: str | None, labelled: bool) -> SourceList:
    columns, rows = _parse_header(source, _read_rows(source), labelled)
    source_list = SourceList([], [], [], [], [])
    problems = []
    for line, row in rows:
        location = f"{source}, line {line}"
        if len(row) != columns["width"]:
            problems.append(f"{location}: {len(row)} fields instead of {columns['width']}: {','.join(row)}")
            continue
        cells = {name: row[column].strip() for name, column in columns.items() if name != "width"}
        if labelled and not cells["label"]:
            problems.append(f"{location}: {cells['file']} has no label")
        source_list.ids.append(cells["file"])
        source_list.paths.append(_resolve(cells["file"], data, source.parent))
        source_list.labels.append(cells.get("label", ""))
        source_list.groups.append(cells.get("group", ""))
        source_list.locations.append(location)
    if problems:
        raise InputError(problems)
    return source_list


def _read_rows(source: Path) -> list[tuple[int, list[str]]]:
    """The rows of a CSV that are not blank, each with the number of the line that it ends on."""
    rows = []
    try:
        with open(source, newline="", encoding="utf-8-sig") as file:  # -sig: spreadsheets write a byte order mark
            reader = csv.reader(file, strict=True)
            for row in reader:
                if any(cell.strip() for cell in row):
                    rows.append((reader.line_num, row))
    except (UnicodeDecodeError, csv.Error, OSError) as error:
        raise InputError(f"{source}: cannot be read as CSV in UTF-8: {error}") from None
    if not rows:
        raise InputError(f"{source}: the file is empty")
    return rows


def _parse_header(source: Path, rows: list, labelled: bool) -> tuple[dict[str, int], list]:
    """The index of the file, label and group columns, the number of columns, and the rows below the header (if any)."""
    line, first = rows[0]
    names = [cell.strip().lower() for cell in first]
    columns: dict[str, int] = {}
    for kind, known_names in (("file", FILE_COLUMNS), ("label", LABEL_COLUMNS), ("group", GROUP_COLUMNS)):
        present = [name for name in known_names if name in names]
        if present:
            columns[kind] = names.index(present[0])  # the first known name takes precedence
    if "file" in columns:
        rows = rows[1:]
    elif file_suffix(first[0].strip()) in AUDIO_SUFFIXES:  # no header, as in the competition's label files
        columns = {"file": 0, "label": 1} if len(first) > 1 else {"file": 0}
    else:
        raise InputError(
            f"{source}, line {line}: {first[0]!r} is neither an audio file "
            f"nor a header with a column named {' or '.join(FILE_COLUMNS)}"
        )
    if labelled and "label" not in columns:
        raise InputError(f"{source}, line {line}: no column of labels ({', '.join(LABEL_COLUMNS)})")
    if not rows:
        raise InputError(f"{source}: a header and no rows")
    return {**columns, "width": len(first)}, rows


def _resolve(name: str, data: str | None, csv_folder: Path) -> str:
    if is_url(name):
        return name
    if data and is_url(data):
        return join_url(data, name)
    folders = [Path(data), Path(data) / "audio"] if data else []
    folders += [csv_folder, csv_folder / "audio"]
    candidates = [folder / name for folder in folders]
    # A missing file keeps the first candidate, as its path in later error messages.
    return str(next((path for path in candidates if path.is_file()), candidates[0]))


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return ", ".join(names[:MAX_NAMED]) + more
