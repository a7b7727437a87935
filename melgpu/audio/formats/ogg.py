"""The pages of an Ogg file to its links, without decoding: a file may chain several, as recordings of radio do.

A link has one logical stream or several at once, such as a picture. Layout of a page: RFC 3533, section 6. Positions
("granules") count samples, at 48 kHz in Opus.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

PAGE_HEADER_BYTES = 27
FIRST_PAGE = 2  # flag of a logical stream's first page
NO_POSITION = (1 << 64) - 1  # no packet ends on the page
OPUS_RATE = 48_000
MAX_FIRST_S = 10.0  # a first page that ends later is not at the beginning of what was broadcast


@dataclass
class LogicalStream:
    """The first bytes of a stream, which name its codec, and the positions of its first and last page."""

    head: bytes
    first: int = 0
    last: int = 0

    @property
    def is_opus(self) -> bool:
        return self.head.startswith(b"OpusHead")

    @property
    def sample_rate(self) -> int:
        """In Hz; 0 where this is neither Vorbis nor Opus."""
        if self.is_opus:
            return OPUS_RATE
        if self.head.startswith(b"\x01vorbis"):
            return int.from_bytes(self.head[12:16], "little")
        return 0

    @property
    def length_s(self) -> float:
        """Of a stream that was recorded from its middle on, up to a page too short."""
        if not self.sample_rate:
            return 0.0
        pre_skip = int.from_bytes(self.head[10:12], "little") if self.is_opus else 0
        begin = self.first if self.first > MAX_FIRST_S * self.sample_rate else pre_skip
        return max(0.0, (self.last - begin) / self.sample_rate)


@dataclass
class Link:
    """Logical streams that begin together, from an offset in bytes on; by their serial numbers."""

    start: int
    streams: dict[bytes, LogicalStream] = field(default_factory=dict)

    @property
    def length_s(self) -> float:
        return max((stream.length_s for stream in self.streams.values()), default=0.0)


def read_links(file: BinaryIO, start: int, max_s: float) -> list[Link]:
    """The links of the pages from an offset in bytes on, until they add up to `max_s`."""
    links: list[Link] = []
    is_beginning = False  # of a link: first pages of several streams follow one another
    before_s = 0.0  # of the links before the last
    for offset, is_first, serial, position, body in _pages(file, start):
        if is_first:
            if not is_beginning:
                before_s += links[-1].length_s if links else 0.0
                links.append(Link(offset))
            links[-1].streams[serial] = LogicalStream(body)
        elif links and serial in links[-1].streams and position not in (0, NO_POSITION):
            stream = links[-1].streams[serial]
            stream.first = stream.first or position
            stream.last = max(stream.last, position)
            if before_s + stream.length_s > max_s:
                break
        is_beginning = is_first
    return links


def _pages(file: BinaryIO, offset: int) -> Iterator[tuple[int, bool, bytes, int, bytes]]:
    """(offset in bytes, whether it is its stream's first, serial number, position, first bytes) of each page."""
    size = file.seek(0, os.SEEK_END)
    while offset < size:
        file.seek(offset)
        head = file.read(PAGE_HEADER_BYTES + 255 + 16)
        if head[:4] != b"OggS" or len(head) < PAGE_HEADER_BYTES:
            return
        body = PAGE_HEADER_BYTES + head[26]
        position = int.from_bytes(head[6:14], "little")
        yield offset, bool(head[5] & FIRST_PAGE), head[14:18], position, head[body : body + 16]
        offset += body + sum(head[PAGE_HEADER_BYTES:body])
