"""The chunks of a wav file (RIFF, RF64) to the place of its samples: the size in its header may be missing or wrong.

A recorder that was interrupted leaves the size 0; one that cannot seek writes 2^32 - 1, or nearly 2^31; beyond 4 GiB
there is no room for it. Layout: EBU Tech 3306.
"""

import os
from dataclasses import dataclass
from typing import BinaryIO, Literal

MAX_CHUNKS = 1000
PCM_TAGS = (1, 3, 6, 7, 0xFFFE)  # integers, floats, A-law, mu-law; the format is named in an extension of the chunk
MAX_JUNK = 4096  # bytes after the last chunk that belong to none, such as a tag
PLACEHOLDERS = ((0x7FFF_0000, 0x8000_0000), (0xFFFF_0000, 0xFFFF_FFFF))  # sizes in these ranges may mean "unknown"
SPDIF_BYTES = 1 << 14  # at the beginning, where it is looked for
SPDIF_SYNC = b"\x72\xf8\x1f\x4e"  # AC-3 or DTS in a stream that calls itself PCM (IEC 61937)

ByteOrder = Literal["little", "big"]


@dataclass(frozen=True)
class WavData:
    """The samples of a wav file, in bytes.

    claimed : by the header; None where that is a placeholder
    num_bytes : of the file, from the first sample to the last
    byte_rate : bytes a second
    is_consistent : whether the header's size leads to the end or to another chunk; the samples go on beyond it if not
    is_pcm : whether the byte rate is exact, as it is of PCM and companded samples
    is_encoded : whether samples that the header calls PCM hold another format
    """

    claimed: int | None
    num_bytes: int
    byte_rate: int
    is_consistent: bool
    is_pcm: bool
    is_encoded: bool


def read_wav(file: BinaryIO, offset: int) -> WavData | None:
    """The data chunk of the RIFF file that starts at an offset in bytes; None if it has none."""
    file.seek(offset)
    form = file.read(12)
    order: ByteOrder = "big" if form[:4] == b"RIFX" else "little"
    position = offset + 12
    tag = 0
    byte_rate = 0
    size_64 = 0
    for _ in range(MAX_CHUNKS):
        file.seek(position)
        head = file.read(8 + 16)
        if len(head) < 8:
            break
        name = head[:4]
        length = int.from_bytes(head[4:8], order)
        position += 8
        if name == b"fmt ":
            tag = int.from_bytes(head[8:10], order)
            channels, rate = int.from_bytes(head[10:12], order), int.from_bytes(head[12:16], order)
            block_bytes, bits = int.from_bytes(head[20:22], order), int.from_bytes(head[22:24], order)
            # The header's own byte rate is wrong in some files, without consequence.
            byte_rate = rate * max(block_bytes, channels * -(-bits // 8))
        elif name == b"ds64":
            size_64 = int.from_bytes(head[16:24], order)
        elif name == b"data":
            length = size_64 if form[:4] in (b"RF64", b"BW64") else length
            claimed, num_bytes, is_consistent = _measure_data(file, position, length, order)
            file.seek(position)
            is_encoded = SPDIF_SYNC in file.read(SPDIF_BYTES)
            return WavData(claimed, num_bytes, byte_rate, is_consistent, tag in PCM_TAGS, is_encoded)
        position += length + length % 2
    return None


def _measure_data(file: BinaryIO, start: int, length: int, order: ByteOrder) -> tuple[int | None, int, bool]:
    """(number of bytes by the header, of the file, whether they agree) of the data from an offset in bytes on."""
    size = file.seek(0, os.SEEK_END)
    available = size - start
    is_placeholder = length == 0 or any(low <= length <= high for low, high in PLACEHOLDERS)
    claimed = None if is_placeholder and length != available else length
    if length >= available:
        return claimed, available, True
    end = start + length
    file.seek(end)
    if length % 2 and file.read(1) == b"\0":
        end += 1  # to an even length, which some writers forget
    if _are_chunks(file, end, size, order):
        return claimed, length, True
    return None, available, False


def _are_chunks(file: BinaryIO, position: int, size: int, order: ByteOrder) -> bool:
    """Whether the rest of a file is chunks, or next to nothing."""
    for _ in range(MAX_CHUNKS):
        if size - position <= MAX_JUNK:
            return True
        file.seek(position)
        head = file.read(8)
        if not all(0x20 <= byte < 0x7F for byte in head[:4]):
            return False
        length = int.from_bytes(head[4:8], order)
        if position + 8 + length > size + MAX_JUNK:
            return False
        position += 8 + length + length % 2
    return True
