"""Summaries of files to a check of the data set: sample rates, lengths, silence, duplicates, labels."""

from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path

from melgpu.audio import duplicates, fingerprint
from melgpu.audio.duplicates import Duplicate
from melgpu.audio.file_summary import FileSummary, inspect_file, unreadable
from melgpu.audio.pool import WorkerLostError, WorkerPool, all_processes
from melgpu.console import counted, duration, say
from melgpu.data.manifest import Manifest, Split
from melgpu.data.windows import to_samples
from melgpu.recipe import Recipe
from melgpu.recipe_schema import AudioSpec, LoaderSpec

MAX_EXAMPLES = 3  # pairs of duplicates in a note
NOT_COMPARED = (
    "near-duplicates are not searched for: that needs an audio.sample_rate of "
    f"{fingerprint.MIN_SAMPLE_RATE:,} Hz and an audio.track_s of {fingerprint.MIN_TRACK_S:.3g} s"
)


def inspect_files(paths: Sequence[str], audio: AudioSpec, spec: LoaderSpec) -> Iterator[FileSummary]:
    """`inspect_file` of every file, in the order given."""
    arguments = (audio.sample_rate, to_samples(audio.track_s, audio.sample_rate), audio.min_s)
    calls = ((inspect_file, path, *arguments) for path in paths)
    with WorkerPool(all_processes(spec.workers), spec.timeout_s) as pool:
        yield from map(_worker_result, paths, pool.submit_in_order(calls))


def _worker_result(path: str, future: Future[FileSummary]) -> FileSummary:
    try:
        return future.result()
    except WorkerLostError as error:
        return unreadable(path, str(error))


def leaks(found: Sequence[Duplicate], manifest: Manifest) -> list[Duplicate]:
    """The duplicates that are in two different folds or splits, where one may be trained on and the other scored."""
    places = places_of(manifest)
    return [pair for pair in found if places[pair.path] != places[pair.other]]


def places_of(manifest: Manifest) -> dict[str, str]:
    """The fold or split of each file, by path."""
    folds = zip(manifest.paths, manifest.splits, manifest.folds.tolist(), strict=True)
    return {path: f"fold {fold}" if split is Split.TRAIN else split.description for path, split, fold in folds}


def describe_duplicates(found: Sequence[Duplicate], manifest: Manifest) -> list[str]:
    """One line for each pair, with the fold or split of both files; those of two different ones first."""
    places = places_of(manifest)
    in_order = sorted(found, key=lambda pair: places[pair.path] == places[pair.other])  # false comes first
    names = {path: f"{path} ({place})" for path, place in places.items()}
    return [pair.describe(names[pair.path], names[pair.other]) for pair in in_order]


def duplicates_note(found: Sequence[Duplicate], manifest: Manifest, path: Path) -> str:
    """One line for the console on the duplicates that were found and are listed in a file; there must be some."""
    num_leaks = len(leaks(found, manifest))
    lines = describe_duplicates(found, manifest)
    more = "; ..." if len(lines) > MAX_EXAMPLES else ""
    finding = "all in one fold or set"
    if num_leaks:
        finding = f"{num_leaks} of them in two folds or sets, which makes scores too good: leave one of each out"
    pairs = counted(len(found), "pair")
    return f"{pairs} of files with the same recording, {finding}: {'; '.join(lines[:MAX_EXAMPLES])}{more}: {path}"


def print_report(
    paths: Sequence[str],
    summaries: Sequence[FileSummary],
    manifest: Manifest | None,
    recipe: Recipe,
    problems: Sequence[str],
) -> None:
    """Print the result of a check: formats, lengths, silence, duplicates, labels and problems."""
    _print_formats(summaries)
    _print_lengths(summaries, recipe.audio.track_s, recipe.windows.window_s)
    _print_list("silent", [path for path, summary in zip(paths, summaries, strict=True) if summary.is_silent])
    _print_duplicates(paths, summaries, manifest, recipe.audio)
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


def _print_lengths(summaries: Sequence[FileSummary], track_s: float, window_s: float) -> None:
    lengths_s = sorted(summary.length_s for summary in summaries if summary.length_s)
    if not lengths_s:
        return
    num_short = sum(length_s < track_s - 1 for length_s in lengths_s)
    num_below_window = sum(length_s < window_s for length_s in lengths_s)
    shortest = duration(lengths_s[0])
    median = duration(lengths_s[len(lengths_s) // 2])
    longest = duration(lengths_s[-1])
    say(f"lengths: {shortest} to {longest}, median {median}")
    say(
        f"  {num_short} are shorter than a track of {duration(track_s)} and will be repeated up to it, "
        f"{num_below_window} of them shorter than a window of {duration(window_s)}"
    )


def _print_duplicates(
    paths: Sequence[str], summaries: Sequence[FileSummary], manifest: Manifest | None, audio: AudioSpec
) -> None:
    checked = {path: summary.checked for path, summary in zip(paths, summaries, strict=True)}
    found = duplicates.find(checked)
    same_content = [pair for pair in found if pair.differing_bits is None]
    _print_list("pairs of files with the same content", _describe_pairs(same_content, manifest))
    if not fingerprint.can_compare(audio.sample_rate, audio.track_s):
        say(NOT_COMPARED)
        return
    similar = [pair for pair in found if pair.differing_bits is not None]
    _print_list("pairs of near-duplicates by audio fingerprint", _describe_pairs(similar, manifest))


def _describe_pairs(found: Sequence[Duplicate], manifest: Manifest | None) -> list[str]:
    if manifest:
        return describe_duplicates(found, manifest)
    return [pair.describe(pair.path, pair.other) for pair in found]


def _format_counts(counter: Counter) -> str:
    return ", ".join(f"{name}: {count}" for name, count in counter.most_common()) or "none"


def _print_list(title: str, items: list[str]) -> None:
    say(f"{title}: {len(items) or 'none'}")
    for item in items:
        say(f"  {item}")
