"""A file to its parts, by its content: what headers and counts say of each, and whether libsndfile reads all of it.

Most files are one part; Ogg and mp3 files that were joined are several. libsndfile stops where a header says that the
audio ends, whatever follows. So frames of MPEG audio are counted, pages of Ogg and chunks of wav are followed, and the
last frame of FLAC is read.
"""

import os
from dataclasses import dataclass
from io import BufferedReader, FileIO, RawIOBase
from typing import BinaryIO

from melgpu.audio.formats import flac, mpeg, ogg, riff
from melgpu.errors import InputError

UNREADABLE = "not readable as audio"
MAX_SHORTFALL_S = 0.05  # of an exact length: the size in a wav header is often wrong by some bytes
MAX_SHORTFALL_FRAMES = 3  # likewise, of MPEG audio: more than delay and padding of an encoder
MAX_PARTS = 10_000
MAX_ID3_TAGS = 100
BUFFER_BYTES = 1 << 17  # read at once from the headers' place on


@dataclass(frozen=True)
class Part:
    """What is known of a part of a file before it is decoded.

    start, end : offsets in bytes
    claimed_s : the length in s that it was written with, where that is exact
    length_s : the length in s of the audio that it holds, by its headers or a count; None where it is not known
    max_shortfall_s : of the decoded length, below `claimed_s` or `length_s`
    num_samples : of an MPEG stream, of a channel, by count; None otherwise
    needs_pyav : libsndfile refuses it, or stops before its end
    end_known : the audio ends where libsndfile ends, whatever follows
    size_ignored : of a wav file whose header's size is wrong
    """

    start: int
    end: int
    claimed_s: float | None = None
    length_s: float | None = None
    max_shortfall_s: float = MAX_SHORTFALL_S
    num_samples: int | None = None
    needs_pyav: bool = False
    end_known: bool = True
    size_ignored: bool = False


class FileSlice(RawIOBase):
    """The bytes of an open file from `start` to `end`; reading it does not move the file's own position."""

    def __init__(self, file: FileIO, start: int, end: int):
        self._descriptor = file.fileno()
        self._start = start
        self._size = end - start
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # typeshed has a private type for it
        wanted = max(0, min(len(buffer), self._size - self._position))
        num_bytes = os.preadv(self._descriptor, [memoryview(buffer)[:wanted]], self._start + self._position)
        self._position += num_bytes
        return num_bytes

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise OSError("a position before the file's beginning")
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        return self._position


def read_parts(file: FileIO, max_s: float) -> list[Part]:
    """The parts of a file, at least one; frames and pages are counted up to `max_s`."""
    size = os.fstat(file.fileno()).st_size
    reader: BinaryIO = BufferedReader(FileSlice(file, 0, size), BUFFER_BYTES)
    start = _skip_id3(reader)
    reader.seek(start)
    magic = reader.read(12)
    parts = []
    if magic[:4] in (b"RIFF", b"RIFX", b"RF64", b"BW64") and magic[8:] == b"WAVE":
        parts = _of_wav(reader, start, size)
    elif magic[:4] == b"OggS":
        parts = _of_ogg(reader, start, size, max_s)
    elif magic[:4] == b"fLaC":
        parts = _of_flac(reader, start, size)
    else:
        parts = _of_mpeg(reader, start, size, max_s)
    return parts or [Part(0, size, end_known=False)]


def check_length(claimed_s: float | None, decoded_s: float, max_shortfall_s: float) -> None:
    """Raise InputError where less audio was decoded than a header claims: the file was cut."""
    if claimed_s and decoded_s < claimed_s - max_shortfall_s:
        raise InputError(f"its header claims {claimed_s:.1f} s and it contains {decoded_s:.1f} s")


def _skip_id3(file: BinaryIO) -> int:
    """Offset in bytes of what follows the ID3v2 tags at a file's beginning."""
    offset = 0
    for _ in range(MAX_ID3_TAGS):
        file.seek(offset)
        head = file.read(10)
        if head[:3] != b"ID3" or len(head) < 10:
            break
        size = 0
        for byte in head[6:10]:
            size = size << 7 | byte & 0x7F
        footer = 10 if head[5] & 0x10 else 0
        offset += 10 + size + footer
    return offset


def _of_wav(file: BinaryIO, start: int, size: int) -> list[Part]:
    data = riff.read_wav(file, start)
    if not data:
        return []
    is_known = data.is_pcm and data.byte_rate > 0
    claimed_s = None
    if is_known and data.claimed and data.claimed > data.num_bytes:
        claimed_s = data.claimed / data.byte_rate
    return [
        Part(
            start=0,
            end=size,
            claimed_s=claimed_s,
            length_s=data.num_bytes / data.byte_rate if is_known else None,
            needs_pyav=data.is_encoded or not data.is_consistent,
            size_ignored=not data.is_consistent,
        )
    ]


def _of_ogg(file: BinaryIO, start: int, size: int, max_s: float) -> list[Part]:
    links = ogg.read_links(file, start, max_s)
    starts = [0, *(link.start for link in links[1:]), size]
    parts = []
    for link, part_start, end in zip(links, starts, starts[1:], strict=False):
        (stream, *others) = link.streams.values()
        # libsndfile reads one logical stream only; Speex and FLAC in Ogg not always.
        needs_pyav = bool(others) or not stream.sample_rate
        parts.append(Part(part_start, end, length_s=link.length_s or None, needs_pyav=needs_pyav))
    return parts


def _of_flac(file: BinaryIO, start: int, size: int) -> list[Part]:
    stream = flac.read_stream(file, start)
    if not stream:
        return []
    claimed_s = stream.claimed_samples / stream.sample_rate or None
    needs_pyav = stream.num_samples is None or stream.claimed_samples < stream.num_samples
    # Another stream may follow the end that is known.
    return [Part(0, size, claimed_s, claimed_s, needs_pyav=needs_pyav, end_known=False)]


def _of_mpeg(file: BinaryIO, start: int, size: int, max_s: float) -> list[Part]:
    parts: list[Part] = []
    counted_s = 0.0
    next_start: int | None = start
    while next_start is not None and counted_s < max_s and len(parts) < MAX_PARTS:
        stream = mpeg.read_stream(file, next_start, max_s - counted_s)
        if not stream:
            break
        part_start = next_start if parts else 0
        next_start = stream.next_start
        rate = stream.sample_rate
        claimed_s = stream.claimed_samples / rate if stream.claimed_samples else None
        length_s = stream.num_samples / rate
        shortfall_s = MAX_SHORTFALL_FRAMES * stream.frame_samples / rate
        parts.append(Part(part_start, next_start or size, claimed_s, length_s, shortfall_s, stream.num_samples))
        counted_s += length_s
    return parts
