"""Detection of tracks with the same recording by audio fingerprints, independent of codec, level and start.

After Haitsma and Kalker, "A Highly Robust Audio Fingerprinting System" (ISMIR 2002): a fingerprint is a sequence of
32-bit sub-fingerprints, one per frame. Bit m of frame n is set if the energy of band m minus that of band m + 1 has
increased since an earlier frame. The first seconds of a track are enough, so a fingerprint takes 4 % of the time that
decoding two minutes takes. Two performances of one piece do not match, two excerpts of one recording do.

Conventions: waves are mono of shape (T,), rates in Hz, times in s. A fingerprint has shape (F,), one sub-fingerprint
per `HOP_S`; 0 marks an invalid frame, one that is too quiet.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from melgpu.audio.decode import conform

MIN_SAMPLE_RATE = 8_000  # Hz; `RATE_HZ` and the bands lie below half of that
EXCERPT_S = 12.0  # of a track that is fingerprinted; enough for start offsets of up to 3 s
RATE_HZ = 4096  # waves are resampled to it
BAND_EDGES_HZ = np.geomspace(300, 2000, 34)  # of the 33 bands that make 32 differences
FRAME_S = 0.375
HOP_S = 96 / RATE_HZ
LAG_S = 0.5  # back to the earlier frame; the paper's lag of one hop has a third more bit errors after a codec
MIN_POWER = 1e-9  # frames of less power are invalid; a sine of full scale has about 1
MIN_RELATIVE_POWER = 1e-6  # of the loudest frame; frames of less power are invalid, too
MAX_BIT_ERROR_RATE = 0.28  # measured: <= 0.24 if re-encoded at 32 kbit/s and up, >= 0.37 for other recorded music
MIN_OVERLAP_S = 4.0  # of frames that are valid in both tracks
MIN_TRACK_S = MIN_OVERLAP_S + FRAME_S + LAG_S  # shorter tracks have too few frames to be compared
NONE = np.empty(0, np.uint32)  # the fingerprint of a file without audio
MAX_NEIGHBOURS = 16  # equal sub-fingerprints that each is compared with: bounds the cost of very frequent ones


def can_compare(sample_rate: int, track_s: float) -> bool:
    """Whether tracks of this sample rate and length have fingerprints that can be compared."""
    return sample_rate >= MIN_SAMPLE_RATE and track_s >= MIN_TRACK_S


def excerpt_samples(sample_rate: int, num_samples: int) -> int:
    """How many samples of a track of `num_samples` are fingerprinted."""
    return min(num_samples, round(EXCERPT_S * sample_rate))


def track_fingerprint(wave: np.ndarray, sample_rate: int, num_samples: int) -> np.ndarray:
    """The fingerprint of the track of `num_samples` that a file's wave is conformed to, so also of short files.

    None for a file without audio, and where the sample rate is below `MIN_SAMPLE_RATE`.
    """
    if not len(wave) or sample_rate < MIN_SAMPLE_RATE:
        return NONE
    return fingerprint(conform(wave, excerpt_samples(sample_rate, num_samples)), sample_rate)


def fingerprint(wave: np.ndarray, sample_rate: int) -> np.ndarray:
    """The sub-fingerprints of a wave, shape (F,) uint32; none if it is shorter than `FRAME_S + LAG_S`.

    For sample rates from `MIN_SAMPLE_RATE`.
    """
    energy = _band_energies(_resample(wave, sample_rate))
    lag = round(LAG_S / HOP_S)
    differences = energy[:, :-1] - energy[:, 1:]
    bits = differences[lag:] > differences[:-lag]
    sub_fingerprints = np.packbits(bits, axis=1).view(">u4")[:, 0].astype(np.uint32)
    power = energy.sum(axis=1)
    valid = power > max(MIN_POWER, MIN_RELATIVE_POWER * power.max(initial=0))
    return np.where(valid[lag:] & valid[:-lag], sub_fingerprints, np.uint32(0))


def _resample(wave: np.ndarray, sample_rate: int) -> np.ndarray:
    """Resample to `RATE_HZ` by truncating the spectrum; zero-padding to whole seconds makes this exact."""
    seconds = -(-len(wave) // sample_rate)  # rounded up
    if seconds == 0:
        return np.empty(0, np.float32)
    spectrum = np.fft.rfft(np.asarray(wave, np.float32), seconds * sample_rate)[: seconds * RATE_HZ // 2]
    resampled = np.fft.irfft(spectrum, seconds * RATE_HZ) * np.float32(RATE_HZ / sample_rate)
    return resampled[: len(wave) * RATE_HZ // sample_rate]


def _band_energies(wave: np.ndarray) -> np.ndarray:
    """The power of each band of each frame, shape (F, 33); a sine of full scale has a power near 1."""
    size = round(FRAME_S * RATE_HZ)
    hop = round(HOP_S * RATE_HZ)
    edges = np.round(BAND_EDGES_HZ * size / RATE_HZ).astype(int)
    if len(wave) < size:
        return np.empty((0, len(edges) - 1), np.float32)
    window = np.hanning(size).astype(np.float32)
    frames = np.lib.stride_tricks.sliding_window_view(wave, size)[::hop]
    scaled_window = 2 / window.sum() * window
    spectra = np.fft.rfft(frames * scaled_window)
    # reduceat sums the last band to the end of the axis: the spectra have to end at its upper edge.
    power = np.square(np.abs(spectra[:, : edges[-1]]))
    return np.add.reduceat(power, edges[:-1], axis=1)


def similar_pairs(fingerprints: Sequence[np.ndarray]) -> list[tuple[int, int, float]]:
    """Pairs of fingerprints of the same recording: (i, j, bit error rate), i < j, sorted.

    Candidates have a sub-fingerprint in common; they are compared at the time offset where most of their common
    sub-fingerprints are aligned. Of more than `MAX_NEIGHBOURS` copies of a recording each is paired with some others,
    not with all. Memory is linear in the total length of the fingerprints, time nearly so.
    """
    pairs = (
        (i, j, _bit_error_rate(fingerprints[i], fingerprints[j], offset)) for i, j, offset in _candidates(fingerprints)
    )
    return [pair for pair in pairs if pair[2] <= MAX_BIT_ERROR_RATE]


def _bit_error_rate(first: np.ndarray, second: np.ndarray, offset: int) -> float:
    """The fraction of differing bits, frame n + `offset` of the first against frame n of the second.

    1 if fewer than `MIN_OVERLAP_S` of frames are valid in both.
    """
    size = min(len(first) - max(0, offset), len(second) - max(0, -offset))
    first = first[max(0, offset) :][:size]
    second = second[max(0, -offset) :][:size]
    valid = (first != 0) & (second != 0)
    if valid.sum() * HOP_S < MIN_OVERLAP_S:
        return 1.0
    return float(np.bitwise_count(first[valid] ^ second[valid]).mean() / 32)


def _candidates(fingerprints: Sequence[np.ndarray]) -> Iterator[tuple[int, int, int]]:
    """(i, j, offset in frames) of each pair i < j with a common sub-fingerprint, sorted.

    The offset is the mode of the pair's offset histogram.
    """
    num_offsets = 2 * max(map(len, fingerprints), default=1)
    # Pair and offset as one integer, which np.unique counts; offsets are shifted to be non-negative.
    matches = [
        (i * len(fingerprints) + j) * num_offsets + offset + num_offsets // 2
        for i, j, offset in _common_sub_fingerprints(fingerprints)
    ]
    keys, counts = np.unique(np.concatenate([np.empty(0, np.int64), *matches]), return_counts=True)
    # Sorted by pair, then by count: the last key of each pair is its mode.
    modes = np.lexsort((counts, keys // num_offsets))
    modes = modes[np.diff(keys[modes] // num_offsets, append=-1) != 0]
    for pair, offset in zip(*np.divmod(keys[modes], num_offsets), strict=True):
        i, j = divmod(int(pair), len(fingerprints))
        yield i, j, int(offset) - num_offsets // 2


def _common_sub_fingerprints(
    fingerprints: Sequence[np.ndarray],
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Tracks i < j and offset in frames, each of shape (V,), of the sub-fingerprints that two tracks have in common."""
    tracks, frames, sub_fingerprints = _sorted_sub_fingerprints(fingerprints)
    positions = np.arange(len(sub_fingerprints))
    for step in range(1, MAX_NEIGHBOURS + 1):
        positions = positions[: np.searchsorted(positions, len(sub_fingerprints) - step)]
        positions = positions[sub_fingerprints[positions] == sub_fingerprints[positions + step]]
        # Equal sub-fingerprints are sorted by track, so that the first is from the lower one.
        first = positions[tracks[positions] != tracks[positions + step]]
        yield tracks[first], tracks[first + step], frames[first] - frames[first + step]


def _sorted_sub_fingerprints(fingerprints: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Track, frame and value of valid sub-fingerprints, each of shape (W,), sorted by value, then track, then frame.

    Of a run of equal sub-fingerprints only the first is included.
    """
    sizes = list(map(len, fingerprints))
    values = np.concatenate([np.empty(0, np.uint32), *fingerprints])
    tracks = np.repeat(np.arange(len(fingerprints)), sizes)
    frames = np.arange(len(values)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    run_starts = np.flatnonzero((np.diff(values, prepend=0) != 0) & (values != 0))
    order = run_starts[np.argsort(values[run_starts], kind="stable")]
    return tracks[order], frames[order], values[order]
