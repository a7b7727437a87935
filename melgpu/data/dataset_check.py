"""Summaries of files to a check of the data set: sample rates, lengths, silence, duplicates, labels."""

import collections
import filecmp
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future

import numpy as np

from melgpu.audio import fingerprint, remote
from melgpu.audio.file_summary import FileSummary, inspect_file
from melgpu.audio.pool import WorkerLostError, WorkerPool, all_processes
from melgpu.console import duration, say
from melgpu.data.manifest import Manifest, Split
from melgpu.recipe_schema import AudioSpec, LoaderSpec


def inspect_files(paths: Sequence[str], audio: AudioSpec, spec: LoaderSpec) -> Iterator[FileSummary]:
    """`inspect_file` of every file, in the order given."""
    calls = ((inspect_file, path, audio.sample_rate, audio.track_s, audio.min_s) for path in paths)
    with WorkerPool(all_processes(spec.workers), spec.timeout_s) as pool:
        yield from map(_worker_result, pool.submit_in_order(calls))


def _worker_result(future: Future) -> FileSummary:
    try:
        return future.result()
    except WorkerLostError as error:
        return FileSummary(str(error), 0, 0, None, False, "", np.empty(0, np.uint32))


def identical_files(paths: Sequence[str], summaries: Sequence[FileSummary]) -> list[list[int]]:
    """Groups of two and more files that are equal byte by byte."""
    groups: dict[str, list[list[int]]] = collections.defaultdict(list)  # of each hash
    for i, summary in enumerate(summaries):
        if not summary.content:
            continue
        same_hash = groups[summary.content]
        # The hash covers only parts of a file, so files are compared; the first one stands for its group.
        group = next((group for group in same_hash if _are_equal(paths[group[0]], paths[i])), None)
        if group is None:
            group = []
            same_hash.append(group)
        group.append(i)
    return [group for same_hash in groups.values() for group in same_hash if len(group) > 1]


def _are_equal(path: str, other_path: str) -> bool:
    """Compares files byte by byte; of URLs the hash is trusted."""
    return remote.is_url(path) or remote.is_url(other_path) or filecmp.cmp(path, other_path, shallow=False)


def near_duplicates(summaries: Sequence[FileSummary], identical: list[list[int]]) -> list[tuple[int, int, float]]:
    """Pairs of files of the same recording, with the bit error rate of their fingerprints; without identical files."""
    excluded = {(i, j) for group in identical for i in group for j in group}
    fingerprints = [summary.fingerprint for summary in summaries]
    pairs = fingerprint.similar_pairs(fingerprints)
    return [(i, j, bit_error) for i, j, bit_error in pairs if (i, j) not in excluded]


def print_report(
    paths: Sequence[str],
    summaries: Sequence[FileSummary],
    manifest: Manifest | None,
    track_s: float,
    problems: Sequence[str],
) -> None:
    """Print the result of a check: formats, lengths, silence, duplicates, labels and problems."""
    _print_formats(summaries)
    _print_lengths(summaries, track_s)
    _print_list("silent", [path for path, summary in zip(paths, summaries, strict=True) if summary.is_silent])
    _print_duplicates(paths, summaries, _split_suffixes(manifest) if manifest else [""] * len(paths))
    if manifest:
        labels = Counter(label for label in manifest.labels if label)
        say(f"labels: {_format_counts(labels)}")
    _print_list("problems", list(problems))


def _print_formats(summaries: Sequence[FileSummary]) -> None:
    # A file that cannot be read has a rate and channels of 0.
    rates = Counter(f"{summary.source_rate:,} Hz" for summary in summaries if summary.source_rate)
    known_channels = [summary.channels for summary in summaries if summary.channels]
    channels = Counter(f"{count} channels" if count > 1 else "mono" for count in known_channels)
    say(f"{len(summaries)} files: {_format_counts(rates)}; {_format_counts(channels)}")


def _print_lengths(summaries: Sequence[FileSummary], track_s: float) -> None:
    lengths_s = sorted(summary.length_s for summary in summaries if summary.length_s)
    if not lengths_s:
        return
    num_short = sum(length_s < track_s - 1 for length_s in lengths_s)
    shortest = duration(lengths_s[0])
    median = duration(lengths_s[len(lengths_s) // 2])
    longest = duration(lengths_s[-1])
    say(f"lengths: {shortest} to {longest}, median {median}")
    say(f"  {num_short} are shorter than a track of {duration(track_s)} and will be repeated up to it")


def _print_duplicates(paths: Sequence[str], summaries: Sequence[FileSummary], suffixes: Sequence[str]) -> None:
    groups = identical_files(paths, summaries)
    group_lines = []
    for group in groups:
        names = [paths[i] + suffixes[i] for i in group]
        group_lines.append(" = ".join(names))
    _print_list("groups of files with the same content", group_lines)
    pairs = near_duplicates(summaries, groups)
    # Pairs of two folds or splits come first (false before true): they are leaks.
    pairs.sort(key=lambda pair: suffixes[pair[0]] == suffixes[pair[1]])
    pair_lines = []
    for i, j, bit_error in pairs:
        pair = f"{paths[i]}{suffixes[i]} ~ {paths[j]}{suffixes[j]}"
        pair_lines.append(f"{pair}: {bit_error:.0%} of the bits differ")
    _print_list("pairs of near-duplicates by audio fingerprint", pair_lines)


def _format_counts(counter: Counter) -> str:
    return ", ".join(f"{name}: {count}" for name, count in counter.most_common()) or "none"


def _print_list(title: str, items: list[str]) -> None:
    say(f"{title}: {len(items) or 'none'}")
    for item in items:
        say(f"  {item}")


def _split_suffixes(manifest: Manifest) -> list[str]:
    """The fold or split of each track, to be shown after its name: a pair of two different ones is a leak."""
    folds = zip(manifest.splits, manifest.folds.tolist(), strict=True)
    return [f" (fold {fold})" if split is Split.TRAIN else f" ({split.description})" for split, fold in folds]
