"""Window index of each track: starts, hops, the order of an epoch, shards of several processes; arithmetic only.

Every track is conformed to exactly `track_s`: longer is cut, shorter is repeated. So the windows of a track are known
before anything is decoded. Starts are in samples at the recipe's rate.
"""

from dataclasses import dataclass

import numpy as np

from melgpu.errors import InputError
from melgpu.recipe_schema import AudioSpec, WindowSpec


@dataclass(frozen=True)
class WindowIndex:
    """Windows in the order in which they are loaded: manifest row and start in samples, each of shape (N,), int32."""

    tracks: np.ndarray
    starts: np.ndarray

    def __len__(self) -> int:
        return len(self.tracks)

    def __getitem__(self, selection: slice | np.ndarray) -> "WindowIndex":
        return WindowIndex(self.tracks[selection], self.starts[selection])


def to_samples(seconds: float, sample_rate: int) -> int:
    """A duration in whole samples."""
    return round(seconds * sample_rate)


def num_windows(track_s: float, window_s: float, hop_s: float) -> int:
    """How many whole windows a conformed track has: 11 of 20 s in 120 s at a hop of 10 s."""
    return int((track_s - window_s) / hop_s + 1e-6) + 1  # rounding: 9.999999... hops are 10


def regular_windows(tracks: np.ndarray, counts: np.ndarray, hop_samples: np.ndarray) -> WindowIndex:
    """The windows of each track, track by track: `counts[i]` of track `tracks[i]`, `hop_samples[i]` apart."""
    first = np.cumsum(counts) - counts  # the position of each track's first window
    starts = np.arange(counts.sum(), dtype=np.int32) - np.repeat(first.astype(np.int32), counts)
    starts *= np.repeat(hop_samples.astype(np.int32), counts)
    return WindowIndex(np.repeat(tracks.astype(np.int32), counts), starts)


def unique_inverse(tracks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The unique tracks, sorted, and each window's index into them: np.unique with return_inverse, without a sort."""
    seen = np.zeros(tracks.max(initial=-1) + 1, bool)
    seen[tracks] = True
    return np.flatnonzero(seen), (np.cumsum(seen, dtype=np.int32) - 1)[tracks]


def first_occurrence(inverse: np.ndarray, count: int) -> np.ndarray:
    """The position where each of 0 .. `count` - 1 occurs first in `inverse`, shape (count,)."""
    first = np.empty(count, np.int64)
    first[inverse[::-1]] = np.arange(len(inverse))[::-1]  # of repeated indices the last assignment holds
    return first


def training_windows(tracks: np.ndarray, labels: list[str], audio: AudioSpec, spec: WindowSpec) -> WindowIndex:
    """The windows of training tracks, not shuffled; those of `dense_classes` have a hop of their own."""
    dense = np.array([label in spec.dense_classes for label in labels], bool)
    return _with_hops(tracks, np.where(dense, spec.dense_hop_s, spec.hop_s), audio, spec)


def prediction_windows(tracks: np.ndarray, is_public: np.ndarray, audio: AudioSpec, spec: WindowSpec) -> WindowIndex:
    """The windows of each track in prediction; public test tracks, `is_public` (N,) bool, have a hop of their own."""
    return _with_hops(tracks, np.where(is_public, spec.public_hop_s, spec.predict_hop_s), audio, spec)


def _with_hops(tracks: np.ndarray, hops_s: np.ndarray, audio: AudioSpec, spec: WindowSpec) -> WindowIndex:
    unique_hops_s, inverse = np.unique(hops_s, return_inverse=True)
    counts = np.array([num_windows(audio.track_s, spec.window_s, hop_s) for hop_s in unique_hops_s], np.int64)
    hop_samples = np.array([to_samples(hop_s, audio.sample_rate) for hop_s in unique_hops_s], np.int64)
    index = regular_windows(np.asarray(tracks, np.int64), counts[inverse], hop_samples[inverse])
    track_samples = to_samples(audio.track_s, audio.sample_rate)
    last_start = track_samples - to_samples(spec.window_s, audio.sample_rate)
    # Rounding errors of hops accumulate: the last window could end beyond its track.
    return WindowIndex(index.tracks, np.minimum(index.starts, last_start))


def class_balanced(index: WindowIndex, classes: np.ndarray, seed: int, epoch: int) -> WindowIndex:
    """As many windows, resampled from `index` so that all classes have equally many; `classes` (N,), one a window.

    Systematic sampling, class by class: a window with an expected count of 2.3 is drawn two or three times. A pure
    function of (seed, epoch).
    """
    rng = np.random.default_rng([seed, epoch, 1])  # 1: other random numbers than those of the shuffle
    class_counts = np.bincount(classes)
    # In random order within a class: it decides which windows are drawn once more than others.
    by_class = np.lexsort((rng.random(len(index)), classes))
    expected = len(index) / (np.count_nonzero(class_counts) * class_counts[classes[by_class]])
    # A window is drawn as often as its interval of the cumulative sum holds integers; rounding must not lose the last.
    cumulative = np.floor(np.cumsum(expected) + rng.random() + 1e-9).astype(np.int64)
    return index[np.repeat(by_class, np.diff(cumulative, prepend=0))]


def with_random_starts(index: WindowIndex, last_start: int, seed: int, epoch: int) -> WindowIndex:
    """The same tracks, with starts uniform in 0 .. `last_start`; a pure function of (seed, epoch)."""
    rng = np.random.default_rng([seed, epoch, 2])  # 2: other random numbers than those of shuffle and sampling
    starts = rng.integers(0, last_start + 1, len(index))
    return WindowIndex(index.tracks, starts.astype(np.int32))


def shuffle(index: WindowIndex, shuffle_tracks: int | None, seed: int, epoch: int) -> WindowIndex:
    """The window index of an epoch, shuffled; a pure function of (seed, epoch).

    A sliding shuffle buffer of `shuffle_tracks` tracks: the windows of the p-th track of a permutation get random sort
    keys between p / shuffle_tracks and one more. So each track is decoded once, at most `shuffle_tracks` tracks are in
    memory, and new tracks are needed at an even rate. None shuffles the whole epoch.
    """
    rng = np.random.default_rng([seed, epoch])
    sort_keys = rng.random(len(index))
    if shuffle_tracks:
        tracks, inverse = unique_inverse(index.tracks)
        # Track p has all its keys in [p / shuffle_tracks, p / shuffle_tracks + 1): a key lies in the intervals of at
        # most shuffle_tracks tracks, and from key to key they slide on one by one. Buffers that are shuffled one after
        # another would need many new tracks at once at the beginning of each.
        offsets = rng.permutation(len(tracks)) / shuffle_tracks
        sort_keys += offsets[inverse]
    return index[np.argsort(sort_keys)]


def shard_positions(index: WindowIndex, rank: int, world_size: int) -> np.ndarray:
    """The positions in `index` of the windows of one of several processes.

    Its shard is every `world_size`-th track in order of first use, with all its windows.
    """
    return np.flatnonzero(_track_positions(index.tracks) % world_size == rank)


def shard(index: WindowIndex, rank: int, world_size: int) -> WindowIndex:
    """The windows of one of several processes, in their order."""
    return index if world_size == 1 else index[shard_positions(index, rank, world_size)]


def _track_positions(tracks: np.ndarray) -> np.ndarray:
    """For each window the position of its track among the unique tracks in order of first use, shape (N,)."""
    rows, inverse = unique_inverse(tracks)
    first = first_occurrence(inverse, len(rows))
    positions = np.argsort(np.argsort(first))  # the inverse of the permutation that sorts
    return positions[inverse]


def drop_last(index: WindowIndex, batch_size: int, rank: int = 0, world_size: int = 1) -> WindowIndex:
    """One process's shard in full batches, equally many for every rank.

    An incomplete last batch would have poor batch-norm statistics; a shard too small for one batch stays as it is.
    Raises InputError where there are fewer tracks than ranks.
    """
    min_size = len(index)
    if world_size > 1:
        ranks = _track_positions(index.tracks) % world_size
        min_size = int(np.bincount(ranks, minlength=world_size).min())
    if not min_size:
        raise InputError(f"{len(index)} windows are of fewer than {world_size} tracks: not every process has one")
    # Every rank cuts to the size of the smallest shard: ranks that took unequal numbers of steps would wait forever.
    size = min_size // batch_size * batch_size or min_size
    return shard(index, rank, world_size)[:size]
