"""Sliding windows over one file of any length: cut while it is decoded, in bounded memory.

A window begins every `predict_hop_s`; where a remainder is left, one more ends at the file's end; a file shorter than a
window is tiled up to it. Positions are in samples at the recipe's rate.
"""

import contextlib
import math
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path

import numpy as np
import torch

from melgpu.audio import blocks, decode
from melgpu.audio.decode import DecodeError
from melgpu.data.batch import Batch, prefetch
from melgpu.data.windows import to_samples
from melgpu.recipe_schema import AudioSpec, WindowSpec

PREFETCH_BATCHES = 2  # decoded ahead of the networks: a bound of the memory


class Timeline:
    """The windows of one file, in order; its attributes are final when the batches are exhausted.

    `num_samples` : number of samples read so far
    `error` : the message of the file's `DecodeError`; None where there is none
    """

    def __init__(self, path: str, audio: AudioSpec, spec: WindowSpec, device: torch.device):
        self.path = path
        self.device = device
        self.sample_rate = audio.sample_rate
        self.window_samples = to_samples(spec.window_s, audio.sample_rate)
        self.hop_samples = to_samples(spec.predict_hop_s, audio.sample_rate)
        self.min_s = audio.min_s
        self.num_samples = 0
        self.error: str | None = None

    def batches(self, batch_size: int) -> Generator[Batch]:
        """Every window, `batch_size` at a time, all of track 0; none of an unusable file.

        The usable seconds before an error count as a file. A caller that does not exhaust it must close it: a thread
        decodes ahead.
        """
        return prefetch(self._host_batches(batch_size), PREFETCH_BATCHES, self.device)

    def span_s(self, starts: torch.Tensor) -> np.ndarray:
        """Start and end in s, shape (B, 2), of the windows that start at samples `starts`, shape (B,)."""
        first = starts.numpy()
        last = np.minimum(first + self.window_samples, self.num_samples)  # a tiled file ends before its window
        return np.stack([first, last], axis=1) / self.sample_rate

    def _host_batches(self, batch_size: int) -> Generator[Batch]:
        """Batches in host memory (pinned, for a GPU)."""
        starts: list[int] = []
        for start, wave in cut_windows(self._blocks(), self.window_samples, self.hop_samples):
            if self.error and self.num_samples < max(decode.MIN_USABLE_S, self.min_s) * self.sample_rate:
                return  # too little was decoded before the error
            if not starts:  # new memory for each batch: those before it may still wait in the queue
                waves = torch.empty(batch_size, self.window_samples, pin_memory=self.device.type == "cuda")
            waves.numpy()[len(starts)] = wave
            starts.append(start)
            if len(starts) == batch_size:
                yield _batch(waves, starts)
                starts = []
        if starts:
            yield _batch(waves[: len(starts)], starts)

    def _blocks(self) -> Iterator[np.ndarray]:
        try:
            for block in decode.stream_audio(self.path, self.sample_rate, self.min_s):
                self.num_samples += len(block)
                yield block
        except DecodeError as error:
            self.error = str(error)


def _batch(waves: torch.Tensor, starts: list[int]) -> Batch:
    tracks = torch.zeros(len(starts), dtype=torch.int64)
    valid = torch.ones(len(starts), dtype=torch.bool)
    return Batch(waves, tracks, torch.tensor(starts), valid)


def cut_windows(blocks: Iterable[np.ndarray], window: int, hop: int) -> Iterator[tuple[int, np.ndarray]]:
    """Start and samples, shape (window,), of each window of a wave that comes in blocks of any size.

    Buffers no more than a window, a hop and a block.
    """
    buffered = [np.empty(0, np.float32)]  # the last samples read, in blocks
    end = 0  # of the samples read
    start = 0  # of the next window
    for block in blocks:
        buffered.append(block)
        end += len(block)
        if end < start + window:
            continue  # blocks are joined only where a window is complete
        wave = np.concatenate(buffered)
        wave_start = end - len(wave)
        while start + window <= end:
            yield start, wave[start - wave_start :][:window]
            start += hop
        buffered = [wave[-window:]]  # enough: later windows end at `end` or after it
    if end and not start:  # shorter than a window
        yield 0, decode.conform(np.concatenate(buffered), window)
    elif start and start - hop + window < end:  # samples are left after the last window
        yield end - window, np.concatenate(buffered)[-window:]


def expected_windows(path: str, audio: AudioSpec, spec: WindowSpec) -> int:
    """The number of windows by the claimed duration of a file's header; by a track's duration where it has none."""
    duration_s = None
    with contextlib.suppress(Exception):  # decoding will report the error
        duration_s = blocks.header_duration_s(Path(path))
    after_first_s = (duration_s or audio.track_s) - spec.window_s
    return 1 + max(0, math.ceil(after_first_s / spec.predict_hop_s))
