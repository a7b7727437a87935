"""The MPEG audio (mp3, mp2) of a file to its length, counted frame by frame from their headers without decoding.

Xing headers may lie and may be missing, and then a decoder estimates the length from the first frame's bit rate. Layout
of the headers: ISO/IEC 11172-3, 2.4.1.3; of the Xing header and LAME's extension: http://gabriel.mp3-tech.org/mp3infotag.html
"""

import os
from dataclasses import dataclass
from typing import BinaryIO

CHUNK_BYTES = 1 << 16
XING_MARKS = (b"Xing", b"Info")
XING_LETTERS = b"XI"
MARK_OFFSETS = {True: (21, 36), False: (13, 21)}  # by MPEG-1 or not; of mono and stereo, after the side information
MAX_MARK_OFFSET = 64  # with a CRC
ENCODERS = (b"LAME", b"Lavf", b"Lavc")  # those that write their delay and padding
RATES = (44_100, 48_000, 32_000)  # Hz, of MPEG-1; half of it in MPEG-2, a quarter in MPEG-2.5
RATE_DIVISORS = {3: 1, 2: 2, 0: 4}  # by the bits of the version
FRAME_SAMPLES = {True: (384, 1152, 1152), False: (384, 1152, 576)}  # by MPEG-1 or not; of layers 1, 2, 3
LOW_KBITS = (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
KBITS = {  # by MPEG-1 or not, and layer
    (True, 1): tuple(range(32, 449, 32)),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): LOW_KBITS,
    (False, 3): LOW_KBITS,
}


@dataclass(frozen=True)
class MpegStream:
    """An MPEG audio stream; numbers of samples are those of one channel.

    num_samples : what a decoder gives that reads all frames, less LAME's delay and padding
    claimed_samples : the same by the Xing header; None without one, or where the file is as long as that says
    next_start : offset in bytes of a Xing header after it, which begins another stream; None without one
    """

    sample_rate: int
    frame_samples: int
    num_samples: int
    claimed_samples: int | None
    next_start: int | None


@dataclass(frozen=True)
class FrameKind:
    """What the frames of a stream have in common; their length in bytes by the first three bytes of their headers."""

    sample_rate: int
    frame_samples: int
    mark_offsets: tuple[int, int]
    lengths: dict[bytes, int]


@dataclass(frozen=True)
class XingHeader:
    """The first frame of a stream, which holds no audio; `trimmed` are the samples of LAME's delay and padding.

    The numbers are None where they are missing.
    """

    num_frames: int | None
    num_bytes: int | None
    trimmed: int


def read_stream(file: BinaryIO, start: int, max_s: float) -> MpegStream | None:
    """The stream that starts at an offset in bytes, counted up to `max_s`; None if two frames do not follow there."""
    file.seek(start)
    head = file.read(4096)
    kind = _frame_kind(head)
    first = kind.lengths.get(head[:3]) if kind else None
    if not kind or not first or head[first : first + 3] not in kind.lengths:
        return None
    xing = _read_xing(head[:first])
    max_frames = max_s * kind.sample_rate / kind.frame_samples + 3  # of delay and padding
    num_frames, next_start = _count_frames(file, start, kind, max_frames)
    if not xing:
        return MpegStream(kind.sample_rate, kind.frame_samples, num_frames * kind.frame_samples, None, next_start)
    num_samples = (num_frames - 1) * kind.frame_samples - xing.trimmed
    # A wrong number of frames is common enough that the number of bytes has to say, too, that the file was cut.
    is_cut = xing.num_bytes is None or start + xing.num_bytes > file.seek(0, os.SEEK_END)
    claimed_samples = xing.num_frames * kind.frame_samples - xing.trimmed if xing.num_frames and is_cut else None
    return MpegStream(kind.sample_rate, kind.frame_samples, max(0, num_samples), claimed_samples, next_start)


def _frame_kind(head: bytes) -> FrameKind | None:
    """The kind of the frame that starts here; None where none does. Free format (bit rate 0) is not known."""
    if len(head) < 4 or head[0] != 0xFF or head[1] < 0xE0:
        return None
    version = head[1] >> 3 & 3
    layer = 4 - (head[1] >> 1 & 3)
    rate_index = head[2] >> 2 & 3
    if version not in RATE_DIVISORS or layer == 4 or rate_index == 3:
        return None
    rate = RATES[rate_index] // RATE_DIVISORS[version]
    is_mpeg1 = version == 3
    frame_samples = FRAME_SAMPLES[is_mpeg1][layer - 1]
    slot_bytes = 4 if layer == 1 else 1
    slots_per_bit = frame_samples // 8 // slot_bytes
    lengths = {}
    for index, kbits in enumerate(KBITS[is_mpeg1, layer], start=1):
        for low_bits in range(4):  # padding, private
            length = (slots_per_bit * 1000 * kbits // rate + (low_bits >> 1)) * slot_bytes
            third = index << 4 | rate_index << 2 | low_bits
            for second in (head[1] & 0xFE, head[1] | 1):  # with and without a CRC
                lengths[bytes((0xFF, second, third))] = length
    return FrameKind(rate, frame_samples, MARK_OFFSETS[is_mpeg1], lengths)


def _count_frames(file: BinaryIO, start: int, kind: FrameKind, max_frames: float) -> tuple[int, int | None]:
    """(number of whole frames, offset in bytes of another Xing header) from `start` on, across tags and damage."""
    mono_mark, stereo_mark = kind.mark_offsets
    lengths = kind.lengths
    size = file.seek(0, os.SEEK_END)
    num_frames = 0
    end = 0  # of the last frame
    offset = start
    while num_frames < max_frames:
        file.seek(offset)
        chunk = file.read(CHUNK_BYTES + MAX_MARK_OFFSET)
        if len(chunk) < 4:
            break
        limit = min(CHUNK_BYTES, len(chunk) - 3)
        chunk += bytes(MAX_MARK_OFFSET)
        position = 0
        while position < limit and num_frames < max_frames:
            try:
                length = lengths[chunk[position : position + 3]]
            except KeyError:
                position = _find_frame(chunk, position + 1, lengths)
                continue
            # The first letter alone, where it is in a mono and in a stereo frame: this line is run for every frame.
            may_mark = chunk[position + mono_mark] in XING_LETTERS or chunk[position + stereo_mark] in XING_LETTERS
            if may_mark and num_frames and _has_xing(chunk, position):
                return num_frames, offset + position
            num_frames += 1
            position += length
            end = offset + position
        offset += position
    return (num_frames - 1 if end > size else num_frames), None


def _find_frame(chunk: bytes, position: int, lengths: dict[bytes, int]) -> int:
    """Position of the next frame header that another one follows, if both are in the chunk."""
    while (position := chunk.find(0xFF, position)) >= 0:
        length = lengths.get(chunk[position : position + 3], 0)
        following = position + length
        if following + 3 > len(chunk):
            return position  # too near to the end to be sure: looked at again
        if length and chunk[following : following + 3] in lengths:
            return position
        position += 1
    return len(chunk)


def _has_xing(data: bytes, position: int) -> bool:
    return any(data.find(mark, position, position + MAX_MARK_OFFSET) >= 0 for mark in XING_MARKS)


def _read_xing(frame: bytes) -> XingHeader | None:
    """The Xing header in a stream's first frame; None if there is none."""
    if not _has_xing(frame, 0):
        return None
    start = max(frame.find(mark, 0, MAX_MARK_OFFSET) for mark in XING_MARKS)
    flags = int.from_bytes(frame[start + 4 : start + 8], "big")
    position = start + 8
    fields = []
    # Number of frames, number of bytes, table of contents, quality: each only if its flag is set.
    for bit, size in enumerate((4, 4, 100, 4)):
        is_set = flags >> bit & 1
        fields.append(int.from_bytes(frame[position : position + size], "big") if is_set else None)
        position += size * is_set
    num_frames, num_bytes = fields[:2]
    if frame[position : position + 4] not in ENCODERS:
        return XingHeader(num_frames, num_bytes, 0)
    trims = int.from_bytes(frame[position + 21 : position + 24], "big")  # 12 bits each
    return XingHeader(num_frames, num_bytes, (trims >> 12) + (trims & 0xFFF))
