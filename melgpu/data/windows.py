"""Which 20 s of each track: starts, hops, epoch order, shares of several processes; arithmetic only.

Every track is conformed to exactly `track_s`: longer is cut, shorter is repeated. So the windows of a track are known
before anything is decoded. Positions are in samples at the recipe's rate.
"""

from dataclasses import dataclass

import numpy as np

from melgpu.errors import InputError
from melgpu.recipe import AudioSpec, WindowSpec


@dataclass(frozen=True)
class WindowIndex:
    """Windows in the order in which they are wanted: manifest row and start in samples, each of shape (N,), int32."""

    tracks: np.ndarray
    starts: np.ndarray

    def __len__(self) -> int:
        return len(self.tracks)

    def __getitem__(self, part: slice | np.ndarray) -> "WindowIndex":
        return WindowIndex(self.tracks[part], self.starts[part])


def to_samples(seconds: float, sample_rate: int) -> int:
    """A duration in whole samples."""
    return round(seconds * sample_rate)


def num_windows(track_s: float, window_s: float, hop_s: float) -> int:
    """How many whole windows a conformed track has: 11 of 20 s in 120 s at a hop of 10 s."""
    return int((track_s - window_s) / hop_s + 1e-6) + 1


def regular_windows(tracks: np.ndarray, counts: np.ndarray, hop_samples: np.ndarray) -> WindowIndex:
    """The windows of each track in turn: `counts[i]` of track `tracks[i]`, `hop_samples[i]` apart."""
    first = np.cumsum(counts) - counts
    starts = np.arange(counts.sum(), dtype=np.int32) - np.repeat(first.astype(np.int32), counts)
    starts *= np.repeat(hop_samples.astype(np.int32), counts)
    return WindowIndex(np.repeat(tracks.astype(np.int32), counts), starts)


def unique_inverse(tracks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The different tracks, sorted, and each window's place among them: np.unique without sorting the windows."""
    seen = np.zeros(tracks.max(initial=-1) + 1, bool)
    seen[tracks] = True
    return np.flatnonzero(seen), (np.cumsum(seen, dtype=np.int32) - 1)[tracks]


def first_occurrence(numbers: np.ndarray, count: int) -> np.ndarray:
    """Where each of `count` numbers occurs first, shape (count,)."""
    first = np.empty(count, np.int64)
    first[numbers[::-1]] = np.arange(len(numbers))[::-1]  # of repeated indices the last one stays
    return first


def training_windows(tracks: np.ndarray, labels: list[str], audio: AudioSpec, spec: WindowSpec) -> WindowIndex:
    """The windows of training tracks, in order; those of `dense_classes` stand closer."""
    dense = np.array([label in spec.dense_classes for label in labels], bool)
    return _with_hops(tracks, np.where(dense, spec.dense_hop_s, spec.hop_s), audio, spec)


def prediction_windows(tracks: np.ndarray, public: np.ndarray, audio: AudioSpec, spec: WindowSpec) -> WindowIndex:
    """The windows that stand for each track when it is judged; `public`, shape (N,) bool, has a hop of its own."""
    return _with_hops(tracks, np.where(public, spec.public_hop_s, spec.predict_hop_s), audio, spec)


def _with_hops(tracks: np.ndarray, hops_s: np.ndarray, audio: AudioSpec, spec: WindowSpec) -> WindowIndex:
    hops, which = np.unique(hops_s, return_inverse=True)
    counts = np.array([num_windows(audio.track_s, spec.window_s, hop_s) for hop_s in hops], np.int64)
    hop_samples = np.array([to_samples(hop_s, audio.sample_rate) for hop_s in hops], np.int64)
    index = regular_windows(np.asarray(tracks, np.int64), counts[which], hop_samples[which])
    last = to_samples(audio.track_s, audio.sample_rate) - to_samples(spec.window_s, audio.sample_rate)
    return WindowIndex(index.tracks, np.minimum(index.starts, last))  # hops that round up add up


def class_balanced(index: WindowIndex, classes: np.ndarray, seed: int, epoch: int) -> WindowIndex:
    """As many windows drawn from `order` so that each class has the same share; `classes`, shape (N,), one a window.

    Systematic sampling, class by class: a window that is due 2.3 times comes twice or three times. A pure function of
    (seed, epoch).
    """
    rng, counts = np.random.default_rng([seed, epoch, 1]), np.bincount(classes)
    by_class = np.lexsort((rng.random(len(index)), classes))
    due = len(index) / (np.count_nonzero(counts) * counts[classes[by_class]])
    passed = np.floor(np.cumsum(due) + rng.random() + 1e-9).astype(np.int64)
    return index[np.repeat(by_class, np.diff(passed, prepend=0))]


def with_random_starts(index: WindowIndex, last_start: int, seed: int, epoch: int) -> WindowIndex:
    """The same tracks, with windows that begin anywhere up to `last_start`; a pure function of (seed, epoch)."""
    starts = np.random.default_rng([seed, epoch, 2]).integers(0, last_start + 1, len(index))
    return WindowIndex(index.tracks, starts.astype(np.int32))


def shuffle(index: WindowIndex, shuffle_tracks: int | None, seed: int, epoch: int) -> WindowIndex:
    """The order of an epoch, a pure function of (seed, epoch).

    The p-th track of a permutation has its windows at random places between p / shuffle_tracks and one more: a chunk
    of `shuffle_tracks` that slides along. So each track is decoded once, at most so many tracks are in memory, and new
    ones are wanted at an even pace. None shuffles the whole epoch.
    """
    rng = np.random.default_rng([seed, epoch])
    place = rng.random(len(index))
    if shuffle_tracks:
        tracks, numbers = unique_inverse(index.tracks)
        place += (rng.permutation(len(tracks)) / shuffle_tracks)[numbers]
    return index[np.argsort(place)]


def shard_positions(index: WindowIndex, rank: int, ranks: int) -> np.ndarray:
    """Where in an order the windows of one of several processes stand.

    It takes every `ranks`-th track in the order of first use, with all its windows.
    """
    return np.flatnonzero(_track_turns(index.tracks) % ranks == rank)


def shard(index: WindowIndex, rank: int, ranks: int) -> WindowIndex:
    """The windows of one of several processes, in their order."""
    return index if ranks == 1 else index[shard_positions(index, rank, ranks)]


def _track_turns(tracks: np.ndarray) -> np.ndarray:
    """For each window, the how-manieth different track its own is, shape (N,)."""
    rows, numbers = unique_inverse(tracks)
    return np.argsort(np.argsort(first_occurrence(numbers, len(rows))))[numbers]


def drop_last(index: WindowIndex, batch_size: int, rank: int = 0, ranks: int = 1) -> WindowIndex:
    """One process's share in whole batches, as many of them for every rank.

    An incomplete last batch would have poor batch-norm statistics; an order too small for one stays as it is. Raises
    InputError where there are fewer tracks than ranks.
    """
    least = len(index) if ranks == 1 else int(np.bincount(_track_turns(index.tracks) % ranks, minlength=ranks).min())
    if not least:
        raise InputError(f"{len(index)} windows are of fewer than {ranks} tracks: not every process has one")
    return shard(index, rank, ranks)[: least // batch_size * batch_size or least]
