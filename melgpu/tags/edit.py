"""Writes a predicted label into the genre of a music file: into a copy, which is checked and replaces the file."""

import hashlib
import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from melgpu import files
from melgpu.audio import blocks, pyav
from melgpu.audio.parts import FileSlice
from melgpu.errors import InputError, one_line
from melgpu.tags.containers import open_tags, prediction_comment

BLOCK_SAMPLES = 1 << 18  # of each channel, decoded at once


def write_genre(path: str, label: str, confidence: float) -> None:
    """Set a file's genre and melgpu's comment; all other tags and the audio stay.

    Raises OSError, and InputError where the file is of another format, or the copy has other tags or audio.
    """
    with files.edited_copy(Path(path)) as copy:
        tags = open_tags(copy)
        others = tags.others
        try:
            tags.save(label, prediction_comment(label, confidence))
        except Exception as error:  # each format has its own
            raise InputError(f"its tags cannot be written ({one_line(error)})") from None
        if open_tags(copy).others != others:
            raise InputError("not written, since mutagen would change its other tags, too")
        if not _same_audio(Path(path), copy):
            raise InputError("not written, since mutagen would change its audio, too")


def _same_audio(path: Path, copy: Path) -> bool:
    """Whether two files have the same compressed audio, as FFmpeg finds it; decoded, of what FFmpeg does not open."""
    try:
        digest = _digest(_packets(path))
    except InputError:
        return _digest(_samples(path)) == _digest(_samples(copy))
    return _digest(_packets(copy)) == digest


def _digest(parts: Iterable[bytes]) -> bytes:
    digest = hashlib.blake2b()
    for part in parts:
        digest.update(part)
    return digest.digest()


def _packets(path: Path) -> Iterator[bytes]:
    with blocks.open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        yield from pyav.read_packets(FileSlice(file, 0, size))


def _samples(path: Path) -> Iterator[bytes]:
    for _, samples in blocks.read_blocks(str(path), BLOCK_SAMPLES, math.inf):
        yield samples.tobytes()
