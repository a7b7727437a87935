"""Checked files to pairs that have the same recording, and the CSV file of them in a run's folder."""

import collections
import filecmp
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from melgpu import files
from melgpu.audio import fingerprint
from melgpu.audio.content import content_id
from melgpu.audio.quarantine import has_usable_audio
from melgpu.audio.worker import CheckedFile

COLUMNS = ("file", "duplicate", "differing_bits")


@dataclass(frozen=True)
class Duplicate:
    """Two files with the same recording.

    differing_bits : the fraction of their fingerprints' bits that differ; None where they have the same content
    """

    path: str
    other: str
    differing_bits: float | None

    def describe(self, name: str, other_name: str) -> str:
        """The pair in one line, with these names of its files."""
        if self.differing_bits is None:
            return f"{name} = {other_name}"
        return f"{name} ~ {other_name}: {self.differing_bits:.0%} of the bits differ"


def find(checked: Mapping[str, CheckedFile]) -> list[Duplicate]:
    """The pairs among checked files, by path: those of the same content, then those of similar fingerprints.

    Of more than two files with the same content each is paired with the first one. Files without usable audio are left
    out, and URLs have no content to compare: their fingerprints are equal.
    """
    usable = {path: file.fingerprint for path, file in checked.items() if has_usable_audio(file.error)}
    paths = list(usable)
    groups = [group for group in _identical_files(paths) if len(group) > 1]
    identical = {pair for group in groups for pair in itertools.permutations(group, 2)}
    found = [Duplicate(group[0], path, None) for group in groups for path in group[1:]]
    for i, j, differing_bits in fingerprint.similar_pairs(list(usable.values())):
        if (paths[i], paths[j]) not in identical:
            found.append(Duplicate(paths[i], paths[j], round(differing_bits, 4)))
    return found


def _identical_files(paths: Sequence[str]) -> Iterator[list[str]]:
    """Groups of files that are equal byte by byte; most have one."""
    groups: dict[str, list[list[str]]] = collections.defaultdict(list)  # of each content id
    for path in paths:
        content = content_id(path)
        if not content:
            continue
        # The id is of the size and the beginning alone, so files are compared; the first stands for its group.
        group = next((group for group in groups[content] if filecmp.cmp(group[0], path, shallow=False)), None)
        if group is None:
            group = []
            groups[content].append(group)
        group.append(path)
    return itertools.chain.from_iterable(groups.values())


def save(path: Path, duplicates: Iterable[Duplicate]) -> None:
    """Write a file of them, also of none: it shows that they were searched for."""
    rows = []
    for duplicate in duplicates:
        bits = "" if duplicate.differing_bits is None else f"{duplicate.differing_bits:.4f}"
        rows.append((duplicate.path, duplicate.other, bits))
    files.write_csv(path, COLUMNS, rows)


def load(path: Path) -> list[Duplicate] | None:
    """What `save` wrote; None without a file. Raises InputError for a malformed one."""
    if not path.exists():
        return None
    with files.read_csv(path, "a list of duplicates", COLUMNS) as (_, rows):
        return [Duplicate(first, other, float(bits) if bits else None) for first, other, bits in rows]


def rename_files(path: Path, new_paths: Mapping[str, str]) -> None:
    """Replace the paths of files that were moved, in such a file, if there is one."""
    duplicates = load(path)
    if duplicates:
        save(path, [_renamed(duplicate, new_paths) for duplicate in duplicates])


def _renamed(duplicate: Duplicate, new_paths: Mapping[str, str]) -> Duplicate:
    first = new_paths.get(duplicate.path, duplicate.path)
    return replace(duplicate, path=first, other=new_paths.get(duplicate.other, duplicate.other))
