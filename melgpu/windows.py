"""Which 20 s of each track: starts, hops, epoch order, shares of several processes; arithmetic only.

Every track is conformed to exactly `track_s`: longer is cut, shorter is repeated. So the windows of a track are known
before anything is decoded. Positions are in samples at the recipe's rate.
"""

from dataclasses import dataclass

import numpy as np

from melgpu.recipe import AudioSpec, WindowSpec


@dataclass(frozen=True)
class Order:
    """Windows in the order in which they are wanted: manifest row and start in samples, each of shape (N,)."""

    tracks: np.ndarray
    starts: np.ndarray

    def __len__(self) -> int:
        return len(self.tracks)

    def __getitem__(self, part: slice | np.ndarray) -> "Order":
        return Order(self.tracks[part], self.starts[part])


def samples(seconds: float, sample_rate: int) -> int:
    """A duration in whole samples."""
    return round(seconds * sample_rate)


def num_windows(track_s: float, window_s: float, hop_s: float) -> int:
    """How many whole windows a conformed track has: 11 of 20 s in 120 s at a hop of 10 s."""
    return int((track_s - window_s) / hop_s + 1e-6) + 1


def in_order(tracks: np.ndarray, counts: np.ndarray, hop_samples: np.ndarray) -> Order:
    """The windows of each track in turn: `counts[i]` of track `tracks[i]`, `hop_samples[i]` apart."""
    first = np.cumsum(counts) - counts
    position = np.arange(counts.sum()) - np.repeat(first, counts)
    return Order(np.repeat(tracks, counts), position * np.repeat(hop_samples, counts))


def training_order(tracks: np.ndarray, labels: list[str], audio: AudioSpec, spec: WindowSpec) -> Order:
    """The windows of training tracks, in order; those of `dense_classes` stand closer."""
    dense = np.array([label in spec.dense_classes for label in labels], bool)
    return _with_hops(tracks, np.where(dense, spec.dense_hop_s, spec.hop_s), audio, spec)


def prediction_order(tracks: np.ndarray, public: np.ndarray, audio: AudioSpec, spec: WindowSpec) -> Order:
    """The windows that stand for each track when it is judged; `public`, shape (N,) bool, has a hop of its own."""
    return _with_hops(tracks, np.where(public, spec.public_hop_s, spec.predict_hop_s), audio, spec)


def _with_hops(tracks: np.ndarray, hops_s: np.ndarray, audio: AudioSpec, spec: WindowSpec) -> Order:
    hops, which = np.unique(hops_s, return_inverse=True)
    counts = np.array([num_windows(audio.track_s, spec.window_s, hop_s) for hop_s in hops], np.int64)
    hop_samples = np.array([samples(hop_s, audio.sample_rate) for hop_s in hops], np.int64)
    return in_order(np.asarray(tracks, np.int64), counts[which], hop_samples[which])


def shuffled(order: Order, shuffle_tracks: int | None, seed: int, epoch: int) -> Order:
    """The order of an epoch, a pure function of (seed, epoch).

    The p-th track of a permutation has its windows at random places between p / shuffle_tracks and one more: a chunk
    of `shuffle_tracks` that slides along. So each track is decoded once, at most so many tracks are in memory, and new
    ones are wanted at an even pace. None shuffles the whole epoch.
    """
    rng = np.random.default_rng([seed, epoch])
    place = rng.random(len(order))
    if shuffle_tracks:
        tracks, inverse = np.unique(order.tracks, return_inverse=True)
        place += rng.permutation(len(tracks))[inverse] / shuffle_tracks
    return order[np.argsort(place, kind="stable")]


def share(order: Order, rank: int, ranks: int) -> Order:
    """What one of several processes takes: every `ranks`-th track in the order of first use, with all its windows."""
    if ranks == 1:
        return order
    return order[_turns(order.tracks) % ranks == rank]


def _turns(tracks: np.ndarray) -> np.ndarray:
    """For each window, the how-manieth different track its own is, shape (N,)."""
    _, first, inverse = np.unique(tracks, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse]


def whole_batches(order: Order, batch_size: int, rank: int = 0, ranks: int = 1) -> Order:
    """One process's share in whole batches, as many of them for every rank.

    An incomplete last batch would have poor batch-norm statistics; an order too small for one stays as it is. Raises
    ValueError where there are fewer tracks than ranks.
    """
    least = len(order) if ranks == 1 else int(np.bincount(_turns(order.tracks) % ranks, minlength=ranks).min())
    if not least:
        raise ValueError(f"{len(order)} windows are of fewer than {ranks} tracks: not every process has one")
    return share(order, rank, ranks)[: least // batch_size * batch_size or least]
