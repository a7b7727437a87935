"""A folder of tagged music files to a source list: genres as labels, artists as groups. Only tags are read.

A genre's spellings (case, blanks, Unicode form) are one label, written as most files have it. Of several genres of a
file the first counts. Files without a genre are left out, as are those whose genre melgpu itself predicted: a network
would be trained on answers of another. All that is told in a table, before anything is trained.
"""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from melgpu import console
from melgpu.audio.walk import AudioWalk, natural_key, summarize_ignored
from melgpu.data.lists.sources import SourceList, folded_label
from melgpu.data.lists.track_list import is_visible
from melgpu.errors import InputError, printable
from melgpu.tags import containers

NO_GENRES = ("", "unknown")  # folded; the latter is also mutagen's word for numbers that stand for none
MAX_GENRE_CHARS = 100  # what is longer is no genre
MAX_NAMED = 5  # files and spellings in a message
NO_GENRE = "without a genre"
PREDICTED = "with a genre that melgpu predicted"
UNREADABLE = "with tags that cannot be read"
OTHER_FORMAT = "of formats whose tags are not read"


@dataclass(frozen=True)
class TaggedFile:
    """The genres of a file, none of them empty, and its artist, as they are written; or why it has no label."""

    path: str
    genres: tuple[str, ...] = ()
    artist: str = ""
    left_out: str | None = None
    error: str | None = None


def read_tagged_folder(folder: Path, fold_column: str | None = None) -> SourceList:
    """The files below a folder whose tags name a genre.

    Raises InputError where it cannot be read, no file has a label, or there is a `fold_column`, which only lists have.
    """
    if not os.path.isdir(folder):
        raise InputError(f"{folder}: --labels-from-tags reads the files of a folder, and this is none")
    if fold_column:
        raise InputError(f"{folder}: a folder has no column {fold_column}, which folds.column names: use a CSV")
    containers.import_mutagen()
    walk = AudioWalk([folder])
    entries = list(walk)
    if problems := [str(entry) for entry in entries if entry.error]:
        raise InputError(problems)
    files = []
    with console.progress("reading tags", len(entries), "files") as tracker:
        for entry in entries:
            files.append(read_file(entry.path))
            tracker.advance(1)
    labelled = [file for file in files if not file.left_out]
    notes = [summarize_ignored(walk.ignored), *_notes(files)]
    if not labelled:
        raise InputError(f"{folder}: no file has a genre in its tags; " + "; ".join(filter(None, notes)))
    spellings = count_spellings([file.genres[0] for file in labelled])
    labels = [most_frequent(spellings[folded_label(file.genres[0])]) for file in labelled]
    groups = [folded_label(file.artist) for file in labelled]
    notes.append("\n".join(["labels from the tag genre:", *_table(labels, groups, spellings)]))
    paths = [file.path for file in labelled]
    ids = [Path(path).relative_to(folder).as_posix() for path in paths]
    return SourceList(ids, paths, labels, groups, paths, notes=[f"{folder}: {note}" for note in notes if note])


def read_file(path: str) -> TaggedFile:
    if not path.lower().endswith(containers.SUFFIXES):
        return TaggedFile(path, left_out=OTHER_FORMAT)
    try:
        tags = containers.open_tags(path)
        genres = clean_genres(tags.genres)
        predicted = containers.predicted_label(tags.comments)
        artist = " ".join(tags.artist.split())
    except (InputError, OSError) as error:
        return TaggedFile(path, left_out=UNREADABLE, error=str(error))
    if not genres:
        return TaggedFile(path, left_out=NO_GENRE)
    if predicted is not None and [folded_label(predicted)] == list(map(folded_label, genres)):
        return TaggedFile(path, left_out=PREDICTED)  # with another genre it was corrected by hand
    return TaggedFile(path, tuple(genres), artist)


def clean_genres(texts: Sequence[str]) -> list[str]:
    """The genres of a tag's texts: numbers resolved, lists with ; or NUL split, without blanks and empty ones.

    Not split at / and commas, which genres have: R&B/Soul; Folk, World, & Country.
    """
    parts = [part.strip() for text in texts for part in re.split("[;\0]", text)]
    resolved = [" ".join(genre.split()) for genre in containers.resolve_genres(parts)]
    genres = [genre for genre in resolved if is_visible(genre) and len(genre) <= MAX_GENRE_CHARS]
    distinct: dict[str, str] = {}
    for genre in genres:
        distinct.setdefault(folded_label(genre), genre)
    return [genre for folded, genre in distinct.items() if folded not in NO_GENRES]


def count_spellings(genres: Sequence[str]) -> dict[str, Counter[str]]:
    """How many files have each spelling of a genre, by the folded genre."""
    spellings: dict[str, Counter[str]] = defaultdict(Counter)
    for genre in genres:
        spellings[folded_label(genre)][genre] += 1
    return spellings


def most_frequent(spellings: Counter[str]) -> str:
    """Of equally frequent spellings the first in natural order, so that it does not depend on the order of files."""
    return min(spellings, key=lambda spelling: (-spellings[spelling], natural_key(spelling)))


def _notes(files: Sequence[TaggedFile]) -> list[str]:
    """What was left out, and what is ambiguous, each with its number."""
    notes = []
    for reason in (NO_GENRE, PREDICTED, UNREADABLE, OTHER_FORMAT):
        left_out = [file for file in files if file.left_out == reason]
        if left_out:
            named = ", ".join(map(_named, left_out[:MAX_NAMED]))
            notes.append(f"left out: {console.counted(len(left_out), 'file')} {reason}, such as {named}")
    labelled = [file for file in files if not file.left_out]
    if num_several := sum(len(file.genres) > 1 for file in labelled):
        notes.append(f"{console.counted(num_several, 'file')} with several genres, of which the first counts")
    if num_without_artist := sum(not file.artist for file in labelled):
        notes.append(f"{console.counted(num_without_artist, 'file')} without an artist, each as if of its own")
    return notes


def _named(file: TaggedFile) -> str:
    return printable(file.path) + (f" ({file.error})" if file.error else "")


def _table(labels: Sequence[str], groups: Sequence[str], spellings: dict[str, Counter[str]]) -> list[str]:
    """Lines: each label with its files, artists and other spellings, the most frequent label first."""
    artists: dict[str, set[str]] = defaultdict(set)
    for row, (label, group) in enumerate(zip(labels, groups, strict=True)):
        artists[label].add(group or f"\0{row}")
    rows = [("genre", "files", "artists", "also written")]
    for label, count in sorted(Counter(labels).items(), key=lambda item: (-item[1], natural_key(item[0]))):
        others = [other for other, _ in spellings[folded_label(label)].most_common() if other != label]
        more = f" and {len(others) - MAX_NAMED} more" if len(others) > MAX_NAMED else ""
        also = ", ".join(map(printable, others[:MAX_NAMED])) + more
        rows.append((printable(label), f"{count:,}", f"{len(artists[label]):,}", also))
    width = max(len(row[0]) for row in rows)
    return [f"  {row[0]:{width}}  {row[1]:>7}  {row[2]:>7}  {row[3]}".rstrip() for row in rows]
