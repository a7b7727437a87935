"""Tracks to device batches: decode ahead, gather windows, copy.

Data flow: an `Order` of windows -> the tracks in order of first use, decoded ahead by worker processes -> windows cut
from the decoded tracks -> batches on the device. A track is decoded once, kept until its last window is out, and
dropped; a bank remembers it for the next epoch. Batches do not depend on the number of workers, and an order that
starts later (a resumed epoch) decodes nothing of what it skips.
"""

import collections
import contextlib
import itertools
import multiprocessing
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from melgpu import worker
from melgpu.bank import Bank
from melgpu.recipe import AudioSpec, StreamSpec
from melgpu.windows import Order, conform, samples


@dataclass(frozen=True)
class Batch:
    """B windows of T samples: `waves` (B, T) float32, `tracks` (B,) manifest rows, `starts` (B,) in samples.

    `waves` lies on the device; `tracks` and `starts` stay on the CPU.
    """

    waves: torch.Tensor
    tracks: torch.Tensor
    starts: torch.Tensor


class Stream(contextlib.AbstractContextManager):
    """Decodes the files of a manifest, as often as asked; its worker processes start at the first file."""

    def __init__(
        self, paths: Sequence[str], audio: AudioSpec, spec: StreamSpec, device: torch.device, bank_folder: Path
    ):
        self.paths, self.audio, self.spec, self.device = paths, audio, spec, device
        self.track_samples = samples(audio.track_s, audio.sample_rate)
        self.bank = Bank(bank_folder, audio.sample_rate, audio.track_s) if spec.bank == "disk" else None
        self._pool: ProcessPoolExecutor | None = None

    def __exit__(self, *exc) -> None:
        if self._pool:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None

    def batches(self, order: Order, window_samples: int, batch_size: int) -> Iterator[Batch]:
        """The windows of `order`, `batch_size` at a time; the last batch may be smaller. Raises DecodeError."""
        _, first, inverse = np.unique(order.tracks, return_index=True, return_inverse=True)
        last = np.zeros(len(first), np.int64)
        np.maximum.at(last, inverse, np.arange(len(order)))
        waves: dict[int, np.ndarray] = {}
        with contextlib.closing(self._waves(order.tracks[np.sort(first)])) as decoded:
            for start in range(0, len(order), batch_size):
                part = order[start : start + batch_size]
                while not waves.keys() >= set(part.tracks.tolist()):
                    track, wave = next(decoded)
                    waves[track] = wave
                yield self._collate(part, waves, window_samples)
                ended = last[inverse[start : start + batch_size]] < start + batch_size
                for track in set(part.tracks[ended].tolist()):
                    del waves[track]

    def _collate(self, part: Order, waves: dict[int, np.ndarray], window_samples: int) -> Batch:
        on_gpu = self.device.type == "cuda"
        batch = torch.empty(len(part), window_samples, pin_memory=on_gpu)
        rows = batch.numpy()
        for row, (track, start) in enumerate(zip(part.tracks.tolist(), part.starts.tolist(), strict=True)):
            rows[row] = waves[track][start : start + window_samples]
        waves_on_device = batch.to(self.device, non_blocking=on_gpu)
        return Batch(waves_on_device, torch.from_numpy(part.tracks), torch.from_numpy(part.starts))

    def _waves(self, tracks: Iterable[int]) -> Iterator[tuple[int, np.ndarray]]:
        """Conformed waves of tracks, in the order given, decoded up to `decode_ahead` tracks before they are taken."""
        pending: collections.deque[tuple[int, Future | np.ndarray]] = collections.deque()
        try:
            for track in tracks:
                pending.append((int(track), self._fetch(Path(self.paths[track]))))
                if len(pending) > self.spec.decode_ahead:
                    yield self._take(*pending.popleft())
            while pending:
                yield self._take(*pending.popleft())
        finally:
            for _, fetched in pending:
                if isinstance(fetched, Future):
                    fetched.cancel()

    def _fetch(self, path: Path) -> np.ndarray | Future:
        banked = self.bank.get(path) if self.bank and path.exists() else None
        if banked is not None:
            return banked
        job = (path, self.audio.sample_rate, self.audio.track_s, self.bank)
        return (
            self._workers().submit(worker.decode_and_keep, *job) if self.spec.workers else worker.decode_and_keep(*job)
        )

    def _take(self, track: int, fetched: np.ndarray | Future) -> tuple[int, np.ndarray]:
        wave = fetched.result() if isinstance(fetched, Future) else fetched
        return track, conform(wave, self.track_samples)

    def _workers(self) -> ProcessPoolExecutor:
        if self._pool is None:
            self._pool = _worker_pool(self.spec.workers)
        return self._pool


def _worker_pool(workers: int) -> ProcessPoolExecutor:
    context = multiprocessing.get_context("spawn")  # safe beside CUDA and threads
    return ProcessPoolExecutor(min(workers, os.cpu_count() or 1), context, worker.start)


def find_problems(paths: Sequence[Path], audio: AudioSpec, spec: StreamSpec) -> Iterator[str | None]:
    """Decode each file once, keeping nothing: why it cannot be used, or None, in the order given."""
    what = paths, itertools.repeat(audio.sample_rate), itertools.repeat(audio.track_s)
    if not spec.workers:
        yield from map(worker.problem, *what)
        return
    with _worker_pool(spec.workers) as pool:
        try:
            yield from pool.map(worker.problem, *what)
        finally:
            pool.shutdown(cancel_futures=True)
