"""Paths and folders to the audio files among and below them, one after another; only names are read.

Files of a folder come in natural order, sub-folders in their place. Links are followed, except for those back to a
folder above, and for a second link to the same folder. Hidden and system folders are skipped. The walk holds the
entries of the folders on its way down and nothing of what it has given: memory does not grow with the number of files.
"""

import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from melgpu.audio.remote import is_url

# What libsndfile or FFmpeg decode; the content of a file decides which of them does.
LOSSY_SUFFIXES = (".mp1", ".mp2", ".mp3", ".mpga", ".aac", ".adts", ".ac3", ".eac3", ".dts", ".mpc", ".amr", ".awb")
LOSSLESS_SUFFIXES = (".flac", ".wv", ".ape", ".tta", ".tak", ".wav", ".wave", ".bwf", ".rf64", ".w64", ".aif", ".aiff")
OLD_SUFFIXES = (".aifc", ".au", ".snd", ".caf", ".voc", ".dsf", ".dff")
OGG_SUFFIXES = (".ogg", ".oga", ".ogx", ".ogv", ".opus", ".spx")
CONTAINER_SUFFIXES = (".m4a", ".m4b", ".m4r", ".mp4", ".m4v", ".mov", ".3gp", ".wma", ".asf", ".webm", ".weba")
VIDEO_SUFFIXES = (".mka", ".mkv", ".avi")
AUDIO_SUFFIXES = frozenset(
    LOSSY_SUFFIXES + LOSSLESS_SUFFIXES + OLD_SUFFIXES + OGG_SUFFIXES + CONTAINER_SUFFIXES + VIDEO_SUFFIXES
)
HIDDEN = "hidden or system"
LINKED_AGAIN = "linked again"
NO_SUFFIX = "without suffix"
OTHER = "of other suffixes"
# In lower case; those that begin with a dot are hidden by it.
SYSTEM_NAMES = frozenset(
    (
        "__macosx",
        "__pycache__",
        "$recycle.bin",
        "recycler",
        "system volume information",
        "lost+found",
        "@eadir",
        "@recycle",
        "@recently-snapshot",
        "#recycle",
        "#snapshot",
        "network trash folder",
        "temporary items",
    )
)
MAX_NAMED = 10  # kinds of ignored files in a message
MAX_SUFFIXES = 1000  # that are counted apart
MAX_SUFFIX_CHARS = 12  # what is longer is no suffix


def natural_key(text: str) -> tuple[str, str]:
    """Sort key of natural order: `2` before `10`, and `1` apart from `01`."""
    # One text, rather than a part for each number: a folder may have a million files.
    return re.sub(r"\d+", _number_key, text), text


def _number_key(match: re.Match[str]) -> str:
    """Digits that sort as the number does, and before all text: behind NUL and the count of those that matter."""
    digits = match.group()
    if not digits.isascii():
        digits = "".join(str(int(digit)) for digit in digits)
    digits = digits.lstrip("0")
    return f"\0{chr(min(len(digits), sys.maxunicode))}{digits}"


def is_utf8(name: str) -> bool:
    """False for a file name in another encoding; it could not be written to any result."""
    # Python decodes bytes that are not UTF-8 to lone surrogates.
    return name.isascii() or not any("\ud800" <= character <= "\udfff" for character in name)


def has_audio_suffix(name: str) -> bool:
    """Whether a file is taken for audio by its name."""
    return os.path.splitext(name)[1].lower() in AUDIO_SUFFIXES


@dataclass(frozen=True)
class FoundFile:
    """A file or URL, or a folder that cannot be read; `error` says what is wrong without the file being opened."""

    path: str
    error: str | None = None

    def __str__(self) -> str:
        name = self.path if is_utf8(self.path) else repr(self.path)
        return f"{name}: {self.error}" if self.error else name


class AudioWalk:
    """The audio files among `paths`, which are files, URLs and folders; files that are named themselves are all taken.

    Iterated once. `ignored` counts what was left out of folders so far, by suffix or reason; `top_folders` are the
    names of the folders at the top of those in `paths`.
    """

    def __init__(self, paths: Iterable[str | Path]):
        self.paths = paths
        self.ignored: Counter[str] = Counter()
        self.top_folders: list[str] = []
        self._linked: set[tuple[int, int]] = set()  # device and inode of folders that were entered through a link

    def __iter__(self) -> Iterator[FoundFile]:
        for path in map(str, self.paths):
            if is_url(path) or not os.path.isdir(path):
                yield _checked(path)
                continue
            before = self.ignored.copy()
            has_files = False
            for found in self._folder(str(Path(path))):
                has_files = True
                yield found
            if not has_files:
                summary = summarize_ignored(self.ignored - before)
                yield FoundFile(path, "no audio files in this folder" + (f" ({summary})" if summary else ""))

    def _folder(self, root: str) -> Iterator[FoundFile]:
        """The files below a folder. A stack instead of recursion: folders may be nested deeper than calls."""
        stack: list[tuple[tuple[int, int] | None, Iterator[os.DirEntry[str]]]] = []
        yield from self._enter(stack, root, is_link=False)
        while stack:
            entry = next(stack[-1][1], None)
            if entry is None:
                stack.pop()
            elif _is_folder(entry):
                if len(stack) == 1:
                    self.top_folders.append(entry.name)
                yield from self._enter(stack, entry.path, entry.is_symlink())
            elif has_audio_suffix(entry.name):
                yield _checked(entry.path)  # also one that dangles or is no regular file: its decoder says so
            else:
                yield from self._ignore(entry)

    def _enter(
        self, stack: list[tuple[tuple[int, int] | None, Iterator[os.DirEntry[str]]]], path: str, is_link: bool
    ) -> Iterator[FoundFile]:
        """Put a folder's entries on the stack; yields its error, if it cannot be read."""
        try:
            status = os.stat(path)
            identity = status.st_dev, status.st_ino
            is_above = any(identity == above for above, _ in stack)
            if is_link and (is_above or identity in self._linked):
                self.ignored[LINKED_AGAIN] += 1
                return
            with os.scandir(path) as entries:
                visible = [entry for entry in entries if not self._is_hidden(entry.name)]
        except OSError as error:
            yield FoundFile(path, f"the folder cannot be read ({error.strerror})")
            return
        if is_link:
            self._linked.add(identity)
        visible.sort(key=_entry_key)
        stack.append((identity, iter(visible)))

    def _is_hidden(self, name: str) -> bool:
        # `...And Justice for All` is an album.
        is_hidden = (name.startswith(".") and not name.startswith("...")) or name.lower() in SYSTEM_NAMES
        if is_hidden:
            self.ignored[HIDDEN] += 1
        return is_hidden

    def _ignore(self, entry: os.DirEntry[str]) -> Iterator[FoundFile]:
        """Count a file that is not audio; yields a link that leads nowhere: its folder may not be mounted."""
        kind = self._kind(entry.name)
        link_error = _link_error(entry) if kind in (NO_SUFFIX, OTHER) else None
        if link_error:
            yield FoundFile(entry.path, f"a link that cannot be followed ({link_error})")
        else:
            self.ignored[kind] += 1

    def _kind(self, name: str) -> str:
        """The suffix by which a file is counted."""
        suffix = os.path.splitext(name)[1].lower()
        if not suffix:
            return NO_SUFFIX
        is_plain = len(suffix) <= MAX_SUFFIX_CHARS and suffix[1:].isalnum()
        return suffix if is_plain and (suffix in self.ignored or len(self.ignored) < MAX_SUFFIXES) else OTHER


def summarize_ignored(ignored: Counter[str]) -> str:
    """`ignored: 3 .pdf, 1 .cue`, the most frequent kinds first; empty where nothing was ignored."""
    counts = sorted(((count, kind) for kind, count in ignored.items() if count), key=lambda pair: (-pair[0], pair[1]))
    if not counts:
        return ""
    named = [f"{count:,} {kind}" for count, kind in counts[:MAX_NAMED]]
    num_others = sum(count for count, _ in counts[MAX_NAMED:])
    return "ignored: " + ", ".join([*named, f"{num_others:,} others"] if num_others else named)


def _checked(path: str) -> FoundFile:
    return FoundFile(path) if is_utf8(path) else FoundFile(path, "the file's name is not UTF-8")


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, or into a folder that may not be entered
        return False


def _link_error(entry: os.DirEntry[str]) -> str | None:
    if not entry.is_symlink():
        return None
    try:
        os.stat(entry.path)
    except OSError as error:
        return error.strerror
    return None


def _entry_key(entry: os.DirEntry[str]) -> tuple:
    """With the slash of a folder, entries sort as the whole paths below them do."""
    return natural_key(f"{entry.name}/" if _is_folder(entry) else entry.name)
