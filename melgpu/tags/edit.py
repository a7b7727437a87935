"""Writes a predicted label into the genre of a music file: into a copy, which is checked and replaces the file."""

import hashlib
import os
from pathlib import Path

from melgpu import files
from melgpu.audio import blocks, pyav
from melgpu.audio.parts import FileSlice
from melgpu.errors import InputError, one_line
from melgpu.tags.containers import open_tags, prediction_comment


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
        if _audio_digest(copy) != _audio_digest(Path(path)):
            raise InputError("not written, since mutagen would change its audio, too")


def _audio_digest(path: Path) -> str:
    """A hash of a file's compressed audio, as FFmpeg finds it."""
    digest = hashlib.blake2b()
    with blocks.open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        for packet in pyav.read_packets(FileSlice(file, 0, size)):
            digest.update(packet)
    return digest.hexdigest()
