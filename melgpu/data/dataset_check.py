"""What is in a set of audio files, told from the first seconds of each: rates, lengths, silence, duplicates.

Free of torch: its `look` runs in decoding processes.
"""

import collections
import filecmp
import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from melgpu.audio import fingerprint, remote
from melgpu.audio.decode import header_s, read
from melgpu.audio.pool import Pool, WorkerLost

RATE = 8_000  # Hz; a print needs no more
SILENT = 1e-4  # -80 dB of full scale
PIECE = 1 << 16  # bytes of a file's head, middle and end that tell its content


@dataclass(frozen=True)
class Look:
    """What the first `fingerprint.LISTEN_S` of a file say.

    `source_rate` in Hz and `channels`, 0 where nothing could be read; `length_s` as its header has it, None where that
    is absurd; `content`, equal for files of equal content; `print`, see `fingerprint`.
    """

    flaw: str | None
    source_rate: int
    channels: int
    length_s: float | None
    is_silent: bool
    content: str
    print: np.ndarray


def look(path: str) -> Look:
    """Listen to the beginning of one file."""
    try:
        with remote.local(path) as place:
            sound = read(place, RATE, fingerprint.LISTEN_S)
            content = "" if sound.flaw else _content(place)
            length_s = None if sound.flaw else header_s(place)
    except Exception as error:  # a file that surprises its decoder is broken, not the check
        return Look(str(error), 0, 0, None, False, "", np.empty(0, np.uint32))
    heard_s = len(sound.wave) / RATE
    flaw = sound.flaw
    if length_s and heard_s < min(length_s, fingerprint.LISTEN_S) - 1:
        flaw = f"its header promises {length_s:.1f} s and it holds {heard_s:.1f} s"
    is_silent = len(sound.wave) > 0 and bool(np.abs(sound.wave).max() < SILENT)
    words = fingerprint.fingerprint(sound.wave, RATE)
    return Look(flaw, sound.source_rate, sound.channels, length_s, is_silent, content, words)


def _content(path: Path) -> str:
    """A hash of a file's size, head, middle and end."""
    size = os.stat(path).st_size
    digest = hashlib.blake2b(str(size).encode(), digest_size=16)
    with open(path, "rb") as file:
        for place in (0, size // 2, max(0, size - PIECE)):
            file.seek(place)
            digest.update(file.read(PIECE))
    return digest.hexdigest()


def looks(paths: Sequence[str], workers: int, timeout_s: float) -> Iterator[Look]:
    """Look at every file, in the order given."""
    with Pool(workers, timeout_s) as pool:
        yield from map(_answer, pool.in_order((look, path) for path in paths))


def _answer(answer) -> Look:
    try:
        return answer.result()
    except WorkerLost as error:
        return Look(str(error), 0, 0, None, False, "", np.empty(0, np.uint32))


def same_content(paths: Sequence[str], found: Sequence[Look]) -> list[list[int]]:
    """Groups of two and more files that are equal byte by byte."""
    groups: dict[str, list[list[int]]] = collections.defaultdict(list)  # of each hash
    for number, one in enumerate(found):
        if one.content:
            known = next((g for g in groups[one.content] if _are_equal(paths[g[0]], paths[number])), None)
            if known is None:
                groups[one.content].append(known := [])
            known.append(number)
    return [group for alike in groups.values() for group in alike if len(group) > 1]


def _are_equal(path: str, other: str) -> bool:
    """A URL's hash is believed."""
    return remote.is_url(path) or remote.is_url(other) or filecmp.cmp(path, other, shallow=False)


def near_duplicates(found: Sequence[Look], same: list[list[int]]) -> list[tuple[int, int, float]]:
    """Pairs of files that hold the same recording; the share of bits that differ. Not those of equal content."""
    known = {(i, j) for group in same for i in group for j in group}
    pairs = fingerprint.similar_pairs([one.print for one in found])
    return [(i, j, error) for i, j, error in pairs if (i, j) not in known]
