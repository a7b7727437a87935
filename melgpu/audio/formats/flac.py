"""The header of a FLAC file and its last frame to the number of its samples, without decoding.

Layout of the header: RFC 9639, section 8.2; of a frame's header: section 9.1.
"""

import os
from dataclasses import dataclass
from typing import BinaryIO

HEAD_BYTES = 42  # marker and STREAMINFO
TAIL_BYTES = 1 << 17  # at the file's end, where the last frame is looked for: more than the largest usual frame
SYNC = b"\xff"
MAX_FRAME_HEAD_BYTES = 16
BLOCK_SIZES = {1: 192, **{code: 576 << code - 2 for code in range(2, 6)}, **{code: 1 << code for code in range(8, 16)}}
CRC_POLYNOMIAL = 0x07


@dataclass(frozen=True)
class FlacStream:
    """Numbers of samples are those of one channel.

    claimed_samples : by the header; 0 is unknown, as in a file that was written to a pipe
    num_samples : by the last frame; None where none was found
    """

    sample_rate: int
    claimed_samples: int
    num_samples: int | None


def read_stream(file: BinaryIO, start: int) -> FlacStream | None:
    """The FLAC stream that starts at an offset in bytes and lasts to the file's end; None without a header."""
    file.seek(start)
    head = file.read(HEAD_BYTES)
    if len(head) < HEAD_BYTES:
        return None
    sample_rate = int.from_bytes(head[18:21], "big") >> 4
    if not sample_rate:
        return None
    claimed_samples = int.from_bytes(head[21:26], "big") & 0xF_FFFF_FFFF
    block_size = int.from_bytes(head[10:12], "big")  # the largest, and that of every frame where sizes do not vary
    size = file.seek(0, os.SEEK_END)
    file.seek(max(start + HEAD_BYTES, size - TAIL_BYTES))
    return FlacStream(sample_rate, claimed_samples, _last_sample(file.read(TAIL_BYTES), block_size))


def _last_sample(tail: bytes, block_size: int) -> int | None:
    """The number of the sample after the last frame; None where no frame starts."""
    position = len(tail)
    while (position := tail.rfind(SYNC, 0, position)) >= 0:
        last_sample = _frame_end(tail[position : position + MAX_FRAME_HEAD_BYTES], block_size)
        if last_sample is not None:
            return last_sample
    return None


def _frame_end(head: bytes, stream_block_size: int) -> int | None:
    """The number of the sample after the frame that starts here; None where none does."""
    if len(head) < 6 or head[1] & 0xFE != 0xF8 or head[3] & 1:
        return None
    number, position = _coded_number(head, 4)
    block_code = head[2] >> 4
    rate_code = head[2] & 15
    if number is None or block_code == 0 or rate_code == 15:
        return None
    block_size = BLOCK_SIZES.get(block_code, 0)
    if block_code in (6, 7):  # written out, in one byte or two
        num_bytes = block_code - 5
        block_size = int.from_bytes(head[position : position + num_bytes], "big") + 1
        position += num_bytes
    position += {12: 1, 13: 2, 14: 2}.get(rate_code, 0)
    if position >= len(head) or _crc8(head[:position]) != head[position]:
        return None
    is_variable = head[1] & 1
    return (number if is_variable else number * stream_block_size) + block_size


def _coded_number(head: bytes, position: int) -> tuple[int | None, int]:
    """(A number in the manner of UTF-8, of up to 36 bits, or None; the position after it)."""
    first = head[position]
    num_bytes = 8 - (first ^ 0xFF).bit_length()  # leading ones
    if num_bytes in (1, 8):
        return None, position
    following = head[position + 1 : position + max(1, num_bytes)]
    number = first & 0x7F >> num_bytes
    for byte in following:
        number = number << 6 | byte & 0x3F
    return number, position + 1 + len(following)


def _crc8(data: bytes) -> int:
    crc = 0
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc << 1 ^ (CRC_POLYNOMIAL if crc & 0x80 else 0)
        crc &= 0xFF
    return crc
