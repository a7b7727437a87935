"""What is in a set of audio files, told from the first seconds of each: rates, lengths, silence, duplicates.

Free of torch: its `look` runs in decoding processes.
"""

import collections
import filecmp
import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from melgpu.audio import fingerprint, remote
from melgpu.audio.decode import header_duration_s, read_audio
from melgpu.audio.pool import WorkerLost, WorkerPool
from melgpu.console import duration, say
from melgpu.data.manifest import Manifest

RATE = 8_000  # Hz; a print needs no more
SILENT = 1e-4  # -80 dB of full scale
PIECE = 1 << 16  # bytes of a file's head, middle and end that tell its content


@dataclass(frozen=True)
class FileSummary:
    """What the first `fingerprint.LISTEN_S` of a file say.

    `source_rate` in Hz and `channels`, 0 where nothing could be read; `length_s` as its header has it, None where that
    is absurd; `content`, equal for files of equal content; `print`, see `fingerprint`.
    """

    error: str | None
    source_rate: int
    channels: int
    length_s: float | None
    is_silent: bool
    content: str
    fingerprint: np.ndarray


def inspect_file(path: str) -> FileSummary:
    """Listen to the beginning of one file."""
    try:
        with remote.local_copy(path) as place:
            sound = read_audio(place, RATE, fingerprint.EXCERPT_S)
            content = "" if sound.error else _content(place)
            length_s = None if sound.error else header_duration_s(place)
    except Exception as error:  # a file that surprises its decoder is broken, not the check
        return FileSummary(str(error), 0, 0, None, False, "", np.empty(0, np.uint32))
    heard_s = len(sound.wave) / RATE
    problem = sound.error
    if length_s and heard_s < min(length_s, fingerprint.EXCERPT_S) - 1:
        problem = f"its header promises {length_s:.1f} s and it holds {heard_s:.1f} s"
    is_silent = len(sound.wave) > 0 and bool(np.abs(sound.wave).max() < SILENT)
    words = fingerprint.fingerprint(sound.wave, RATE)
    return FileSummary(problem, sound.source_rate, sound.channels, length_s, is_silent, content, words)


def _content(path: Path) -> str:
    """A hash of a file's size, head, middle and end."""
    size = os.stat(path).st_size
    digest = hashlib.blake2b(str(size).encode(), digest_size=16)
    with open(path, "rb") as file:
        for place in (0, size // 2, max(0, size - PIECE)):
            file.seek(place)
            digest.update(file.read(PIECE))
    return digest.hexdigest()


def inspect_files(paths: Sequence[str], workers: int, timeout_s: float) -> Iterator[FileSummary]:
    """Look at every file, in the order given."""
    with WorkerPool(workers, timeout_s) as pool:
        yield from map(_answer, pool.in_order((inspect_file, path) for path in paths))


def _answer(answer) -> FileSummary:
    try:
        return answer.result()
    except WorkerLost as error:
        return FileSummary(str(error), 0, 0, None, False, "", np.empty(0, np.uint32))


def identical_files(paths: Sequence[str], found: Sequence[FileSummary]) -> list[list[int]]:
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


def near_duplicates(found: Sequence[FileSummary], same: list[list[int]]) -> list[tuple[int, int, float]]:
    """Pairs of files that hold the same recording; the share of bits that differ. Not those of equal content."""
    known = {(i, j) for group in same for i in group for j in group}
    pairs = fingerprint.similar_pairs([one.fingerprint for one in found])
    return [(i, j, error) for i, j, error in pairs if (i, j) not in known]


def print_report(
    paths: Sequence[str], found: Sequence[FileSummary], tracks: Manifest | None, track_s: float, problems: Sequence[str]
) -> None:
    """What a check of a data set found: formats, lengths, silence, duplicates, labels, and what is wrong."""
    rates = Counter(f"{one.source_rate:,} Hz" for one in found if one.source_rate)
    channels = Counter(f"{one.channels} channels" if one.channels > 1 else "mono" for one in found if one.channels)
    say(f"{len(paths)} files: {_counts(rates)}; {_counts(channels)}")
    lengths = sorted(one.length_s for one in found if one.length_s)
    if lengths:
        short = sum(length < track_s - 1 for length in lengths)
        middle = lengths[len(lengths) // 2]
        say(f"lengths by their headers: {duration(lengths[0])} to {duration(lengths[-1])}, median {duration(middle)}")
        say(f"  {short} are shorter than a track of {duration(track_s)} and will be repeated up to it")
    _say_list("silent", [path for path, one in zip(paths, found, strict=True) if one.is_silent])
    where = _places(tracks) if tracks else [""] * len(paths)
    groups = identical_files(paths, found)
    _say_list("groups of files with the same content", [" = ".join(paths[i] + where[i] for i in g) for g in groups])
    pairs = sorted(near_duplicates(found, groups), key=lambda pair: where[pair[0]] == where[pair[1]])
    names = [f"{paths[i]}{where[i]} ~ {paths[j]}{where[j]}: {e:.0%} of the bits differ" for i, j, e in pairs]
    _say_list("pairs that sound like the same recording", names)
    if tracks:
        say(f"labels: {_counts(Counter(label for label in tracks.labels if label))}")
    _say_list("problems", list(problems))


def _counts(counter: Counter) -> str:
    return ", ".join(f"{name}: {count}" for name, count in counter.most_common()) or "none"


def _say_list(title: str, items: list[str]) -> None:
    say(f"{title}: {len(items) or 'none'}")
    for item in items:
        say(f"  {item}")


def _places(tracks: Manifest) -> list[str]:
    """What each track is for: a leak is a pair of two kinds."""
    folds = zip(tracks.splits, tracks.folds.tolist(), strict=True)
    return [f" (fold {fold})" if split == "train" else f" ({split} test)" for split, fold in folds]
