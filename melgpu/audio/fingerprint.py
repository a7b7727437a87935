"""Which tracks are the same recording: told by 32-bit words of their sound, whatever the encoding, level or start.

After Haitsma and Kalker, "A Highly Robust Audio Fingerprinting System" (ISMIR 2002): bit m of the word of frame n says
whether the energy of band m less that of band m + 1 has grown since an earlier frame. The first seconds of a track are
enough; a print costs some ms. Two recordings of one piece are not the same recording, two cuts of one are.

Conventions: waves are mono of shape (T,), rates in Hz, times in s. A print has shape (F,), one word per `HOP_S`; the
word 0 stands for a frame that does not count, because there is no sound to speak of.
"""

from collections.abc import Iterator, Sequence

import numpy as np

EXCERPT_S = 12.0  # as much of a track as a print needs, other starts by 3 s included
RATE_HZ = 4096  # all that is above half of this is dropped first
BAND_EDGES_HZ = np.geomspace(300, 2000, 34)  # of the 33 bands that make 32 differences
FRAME_S = 0.375
HOP_S = 96 / RATE_HZ
LAG_S = 0.5  # back to the earlier frame; the paper's one hop has a third more bit errors after a codec
SILENCE = 1e-9  # frames of less power do not count; a sine of full scale has about 1
QUIET = 1e-6  # nor do those of less than this share of the loudest frame
MAX_BIT_ERROR = 0.28  # measured: at most 0.24 if re-encoded at 32 kbit/s and up, at least 0.37 for other recorded music
MIN_OVERLAP_S = 4.0  # of frames that count in both tracks
MAX_NEIGHBOURS = 16  # a word is compared with so many equal ones: bounds the cost of words that are everywhere


def fingerprint(wave: np.ndarray, sample_rate: int) -> np.ndarray:
    """The words of a wave, shape (F,) uint32; none if it is shorter than `FRAME_S + LAG_S`.

    For sample rates from 8 kHz: `RATE_HZ` and the bands lie below half of that.
    """
    energy = _band_energies(_at_low_rate(wave, sample_rate))
    lag = round(LAG_S / HOP_S)
    slope = energy[:, :-1] - energy[:, 1:]
    words = np.packbits(slope[lag:] > slope[:-lag], axis=1).view(">u4")[:, 0].astype(np.uint32)
    power = energy.sum(axis=1)
    counts = power > max(SILENCE, QUIET * power.max(initial=0))
    return np.where(counts[lag:] & counts[:-lag], words, np.uint32(0))


def _at_low_rate(wave: np.ndarray, sample_rate: int) -> np.ndarray:
    """Resampled to `RATE_HZ` by cutting the spectrum; the wave is filled up to whole seconds, which makes it exact."""
    seconds = -(-len(wave) // sample_rate)
    if seconds == 0:
        return np.empty(0, np.float32)
    spectrum = np.fft.rfft(np.asarray(wave, np.float32), seconds * sample_rate)[: seconds * RATE_HZ // 2]
    low = np.fft.irfft(spectrum, seconds * RATE_HZ) * np.float32(RATE_HZ / sample_rate)
    return low[: len(wave) * RATE_HZ // sample_rate]


def _band_energies(wave: np.ndarray) -> np.ndarray:
    """The power of each band of each frame, shape (F, 33); a sine of full scale has a power near 1."""
    size, hop = round(FRAME_S * RATE_HZ), round(HOP_S * RATE_HZ)
    edges = np.round(BAND_EDGES_HZ * size / RATE_HZ).astype(int)
    if len(wave) < size:
        return np.empty((0, len(edges) - 1), np.float32)
    window = np.hanning(size).astype(np.float32)
    frames = np.lib.stride_tricks.sliding_window_view(wave, size)[::hop]
    power = np.square(np.abs(np.fft.rfft(frames * (2 / window.sum() * window))[:, : edges[-1]]))
    return np.add.reduceat(power, edges[:-1], axis=1)


def similar_pairs(prints: Sequence[np.ndarray], max_bit_error: float = MAX_BIT_ERROR) -> list[tuple[int, int, float]]:
    """Pairs of prints of the same recording: (i, j, bit error rate of their words), i < j, sorted.

    Candidates share a word; they are compared where most of the words that they share lie over each other. Of more than
    `MAX_NEIGHBOURS` copies of a recording each is paired with some others, not with all. Memory grows with the prints,
    time nearly so.
    """
    compared = ((i, j, _bit_error(prints[i], prints[j], shift)) for i, j, shift in _candidates(prints))
    return [pair for pair in compared if pair[2] <= max_bit_error]


def _bit_error(first: np.ndarray, second: np.ndarray, shift: int) -> float:
    """The share of bits that differ, frame n + `shift` of the first over frame n of the second; 1 if few count."""
    size = min(len(first) - max(0, shift), len(second) - max(0, -shift))
    first, second = first[max(0, shift) :][:size], second[max(0, -shift) :][:size]
    both = (first != 0) & (second != 0)
    if both.sum() * HOP_S < MIN_OVERLAP_S:
        return 1.0
    return float(np.bitwise_count(first[both] ^ second[both]).mean() / 32)


def _candidates(prints: Sequence[np.ndarray]) -> Iterator[tuple[int, int, int]]:
    """(i, j, shift in frames) of each pair i < j that shares a word, sorted; the shift is that of most shared words."""
    span = 2 * max(map(len, prints), default=1)
    votes = [(i * len(prints) + j) * span + shift + span // 2 for i, j, shift in _shared_words(prints)]
    keys, counts = np.unique(np.concatenate([np.empty(0, np.int64), *votes]), return_counts=True)
    best = np.lexsort((counts, keys // span))
    best = best[np.diff(keys[best] // span, append=-1) != 0]
    for pair, shift in zip(*np.divmod(keys[best], span), strict=True):
        yield *map(int, divmod(pair, len(prints))), int(shift) - span // 2


def _shared_words(prints: Sequence[np.ndarray]) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Tracks i < j and the shift in frames, each of shape (V,), of words that two tracks share."""
    tracks, frames, words = _sorted_words(prints)
    place = np.arange(len(words))
    for step in range(1, MAX_NEIGHBOURS + 1):
        place = place[: np.searchsorted(place, len(words) - step)]
        place = place[words[place] == words[place + step]]
        first = place[tracks[place] != tracks[place + step]]
        yield tracks[first], tracks[first + step], frames[first] - frames[first + step]


def _sorted_words(prints: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Track, frame and word of every word that counts, each of shape (W,), by word, then track, then frame.

    A word that lasts is taken where it begins.
    """
    sizes = [len(one) for one in prints]
    words = np.concatenate([np.empty(0, np.uint32), *prints])
    tracks = np.repeat(np.arange(len(prints)), sizes)
    frames = np.arange(len(words)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    begins = np.flatnonzero((np.diff(words, prepend=0) != 0) & (words != 0))
    order = begins[np.argsort(words[begins], kind="stable")]
    return tracks[order], frames[order], words[order]
