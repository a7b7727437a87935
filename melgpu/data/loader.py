"""Tracks to device batches: decode ahead, gather windows, copy.

Data flow: an `Order` of windows -> the tracks in order of first use, decoded ahead by processes into memory that all
share -> windows gathered by a thread, a few batches ahead -> one copy to the device. A track is decoded once, kept
until its last window is out, and its place given to another; a bank keeps all of them. Batches do not depend on the
number of workers, and an order that starts later (a resumed epoch) decodes nothing of what it skips.

A broken file is an error, or (`on_error = "quarantine"`) goes into `Stream.flaws`: what was read before the flaw is
used as a track, and windows of a file that gives nothing are silent and marked as not heard.
"""

import collections
import contextlib
import itertools
import mmap
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Future

import numpy as np
import torch

from melgpu.audio import quarantine, worker
from melgpu.audio.decode import DecodeError
from melgpu.audio.pool import WorkerLost, WorkerPool, num_processes
from melgpu.audio.quarantine import AudioError
from melgpu.data.batch import Batch, prefetch, prefetch_to_device
from melgpu.data.pcm_cache import CacheEntry, DeviceCache, PcmCache
from melgpu.data.windows import WindowIndex, first_occurrence, to_samples, unique_inverse
from melgpu.recipe import AudioSpec, LoaderSpec

BATCHES_AHEAD = 2


def check_files(
    paths: Sequence[str], audio: AudioSpec, spec: LoaderSpec, cache: PcmCache | None
) -> Iterator[AudioError | None]:
    """Decode each file once, into the bank where there is one: its flaw, or None, in the order given."""
    with WorkerPool(spec.workers, spec.timeout_s) as pool:
        if cache:
            yield from cache.fill(paths, pool)
            return
        job = audio.sample_rate, to_samples(audio.track_s, audio.sample_rate)
        answers = pool.in_order((worker.check_file, path, *job) for path in paths)
        yield from map(_worker_result, paths, answers)


def _worker_result(path: str, answer: Future) -> AudioError | None:
    try:
        return answer.result()
    except WorkerLost as error:
        return AudioError(path, str(error), 0.0)


def num_prefetched_tracks(spec: LoaderSpec) -> int:
    """How many tracks are decoded before their turn: as many as told, and enough for all processes."""
    return max(spec.prefetch_tracks, 2 * num_processes(spec.workers))


class WindowLoader(contextlib.AbstractContextManager):
    """Gives the windows of a manifest's files, as often as asked; its processes start at the first file.

    `flaws` are those of the files met so far, by path, as they were when last met.
    """

    def __init__(
        self,
        paths: Sequence[str],
        audio: AudioSpec,
        spec: LoaderSpec,
        device: torch.device,
        cache: PcmCache | None = None,
    ):
        self.paths, self.spec, self.device, self.pcm_cache = paths, spec, device, cache
        self.sample_rate, self.track_samples = audio.sample_rate, to_samples(audio.track_s, audio.sample_rate)
        self.errors: dict[str, AudioError] = {}
        self._pool = WorkerPool(spec.workers, spec.timeout_s)
        self._device_cache: DeviceCache | None = None
        self._buffers: list[np.ndarray] = []
        self._spare: list[SharedSlots] = []

    def __exit__(self, *exc) -> None:
        self._pool.__exit__(*exc)
        while self._spare:
            self._spare.pop().close()

    def batches(self, index: WindowIndex, window_samples: int, batch_size: int) -> Iterator[Batch]:
        """The windows of `order`, `batch_size` at a time; the last batch may be smaller.

        Raises DecodeError for a broken file, or InputError where too many are, as the recipe's `stream` says.
        """
        if self._device_cache and self._device_cache.has(index.tracks):
            return (
                self._batch(part, *self._device_cache.gather(part, window_samples))
                for part in _parts(index, batch_size)
            )
        made = prefetch(self._gathered(index, window_samples, batch_size), BATCHES_AHEAD)
        return prefetch_to_device(made, self.device) if self.device.type == "cuda" else made

    def load_to_device(self, rows: np.ndarray) -> Iterator[None]:
        """Copy these rows from the bank into the device's memory, one after another; later batches come from there."""
        resident = DeviceCache(rows, self.track_samples, self.device)
        for row in rows.tolist():
            entry = self.pcm_cache.find(self.paths[row])
            if entry:
                resident.put(row, self.pcm_cache.waves[entry.slot])
            self.report_error(entry.error if entry else AudioError(self.paths[row], "gave nothing to the bank", 0.0))
            yield None
        self._device_cache = resident

    def report_error(self, audio_error: AudioError | None) -> None:
        """Remember a flaw, or raise, as the recipe says."""
        if audio_error is None:
            return
        if self.spec.on_error == "raise":
            raise DecodeError(str(audio_error))
        self.errors[audio_error.path] = audio_error
        quarantine.check_error_rate(self.errors, len(self.paths), self.spec.max_error_fraction)

    def cached(self, row: int) -> CacheEntry | None:
        return self.pcm_cache.find(self.paths[row]) if self.pcm_cache else None

    def submit_decode(self, row: int, target: str, offset: int) -> Future:
        """The flaw to come of a file whose samples go to a place in a file."""
        return self._pool.submit(
            worker.decode_to_file, self.paths[row], self.sample_rate, self.track_samples, target, offset
        )

    def acquire(self, slots: int) -> "SharedSlots":
        """Memory for so many tracks, of an earlier epoch if there is enough: fresh pages cost time."""
        fitting = self._spare and len(self._spare[-1].slots) >= slots
        return self._spare.pop() if fitting else SharedSlots(slots, self.track_samples)

    def release(self, memory: "SharedSlots") -> None:
        """Keep the largest."""
        *small, largest = sorted([*self._spare, memory], key=lambda one: len(one.slots))
        self._spare = [largest]
        for one in small:
            one.close()

    def _gathered(self, index: WindowIndex, window_samples: int, batch_size: int) -> Iterator[Batch]:
        """Batches in memory of this machine (pinned, for a GPU)."""
        plan = Schedule(index, batch_size)
        with TrackBuffer(self, plan.rows, plan.max_open) as tracks:
            for number, part in enumerate(_parts(index, batch_size)):
                waves = self._buffer(len(part), window_samples)
                valid = np.ones(len(part), bool)
                for place, (row, start) in enumerate(zip(part.tracks.tolist(), part.starts.tolist(), strict=True)):
                    wave = tracks[row]
                    valid[place] = wave is not None
                    waves.numpy()[place] = 0 if wave is None else wave[start : start + window_samples]
                for row in plan.rows_that_end(number):
                    tracks.drop(row)
                yield self._batch(part, waves, torch.from_numpy(valid))

    def _buffer(self, *shape: int) -> torch.Tensor:
        """Memory that no earlier batch uses any more, if there is such: fresh pages cost twice the copy into them."""
        if self.device.type == "cuda":
            return torch.empty(*shape, pin_memory=True)  # torch keeps and reuses pinned memory by itself
        for array, uses in zip(self._buffers, _uses(self._buffers), strict=True):
            if array.shape == shape and uses == UNUSED:
                return torch.from_numpy(array)
        self._buffers = [*self._buffers[-BATCHES_AHEAD - 1 :], np.empty(shape, np.float32)]
        return torch.from_numpy(self._buffers[-1])

    @staticmethod
    def _batch(part: WindowIndex, waves: torch.Tensor, valid: torch.Tensor) -> Batch:
        return Batch(waves, torch.from_numpy(part.tracks).long(), torch.from_numpy(part.starts).long(), valid)


def _parts(index: WindowIndex, batch_size: int) -> Iterator[WindowIndex]:
    return (index[start : start + batch_size] for start in range(0, len(index), batch_size))


def _uses(arrays: list[np.ndarray]) -> list[int]:
    """References to each array of a list, this function's among them; a tensor or a view of one holds another."""
    return [sys.getrefcount(array) for array in arrays]


UNUSED = _uses([np.empty(0)])[0]  # differs between versions of Python


class Schedule:
    """When each track of an order is wanted: known before anything is decoded."""

    def __init__(self, index: WindowIndex, batch_size: int):
        rows, numbers = unique_inverse(index.tracks)
        first = first_occurrence(numbers, len(rows))
        last = (len(index) - 1 - first_occurrence(numbers[::-1], len(rows))) // batch_size
        self.rows = rows[np.argsort(first)]  # in the order of first use
        by_end = np.argsort(last, kind="stable")
        batches = -(-len(index) // batch_size)
        self._ending, self._ends = rows[by_end], np.searchsorted(last[by_end], np.arange(batches + 1))
        begins, ends = (np.bincount(places, minlength=batches) for places in (first // batch_size, last))
        self.max_open = int((begins.cumsum() - ends.cumsum() + ends).max(initial=0))

    def rows_that_end(self, number: int) -> list[int]:
        """The tracks whose last window is in a batch."""
        return self._ending[self._ends[number] : self._ends[number + 1]].tolist()


class SharedSlots:
    """Places for tracks, shape (slots, samples of a track), that decoding processes write to and this one reads.

    It grows as it is written to, and is not bound by /dev/shm.
    """

    def __init__(self, slots: int, num_samples: int):
        self._file = os.memfd_create("melgpu")
        os.ftruncate(self._file, max(4, 4 * slots * num_samples))
        shared = np.frombuffer(mmap.mmap(self._file, 0), np.float32)
        self.slots = shared[: slots * num_samples].reshape(slots, num_samples)

    def place(self, slot: int) -> tuple[str, int]:
        """A file that other processes can open, and the offset of a slot in it."""
        return f"/proc/{os.getpid()}/fd/{self._file}", slot * self.slots.strides[0]

    def close(self) -> None:
        os.close(self._file)


class TrackBuffer(contextlib.AbstractContextManager):
    """Conformed waves by row, from the bank or decoded in the order of `rows`, some of them before their turn."""

    def __init__(self, loader: WindowLoader, rows: np.ndarray, most_open: int):
        self._stream = loader
        entries = ((row, loader.cached(row)) for row in rows.tolist())
        self._entries = {row: entry for row, entry in entries if entry}  # asked once: files may change meanwhile
        self._missing = iter([row for row in rows.tolist() if row not in self._entries])
        ahead = num_prefetched_tracks(loader.spec)
        slots = 0 if len(self._entries) == len(rows) else most_open + ahead
        self._memory = loader.acquire(slots)
        self._free = list(range(slots))
        self._pending: collections.deque[tuple[int, int, Future]] = collections.deque()
        self._waves: dict[int, tuple[int, np.ndarray | None]] = {}
        for _ in range(ahead):
            self._begin_next()

    def __getitem__(self, row: int) -> np.ndarray | None:
        """The wave of a track, shape (samples of a track,); None of one that gave nothing."""
        if row in self._entries:
            return self._of_bank(self._entries[row])
        while row not in self._waves:
            self._end_next()
        return self._waves[row][1]

    def drop(self, row: int) -> None:
        if row in self._waves:
            self._free.append(self._waves.pop(row)[0])

    def _of_bank(self, entry: CacheEntry) -> np.ndarray:
        self._stream.report_error(entry.error)
        return self._stream.pcm_cache.waves[entry.slot]

    def _begin_next(self) -> None:
        for row in itertools.islice(self._missing, 1):
            slot = self._free.pop()
            self._pending.append((row, slot, self._stream.submit_decode(row, *self._memory.place(slot))))

    def _end_next(self) -> None:
        row, slot, answer = self._pending[0]
        path = self._stream.paths[row]
        self._stream.errors.pop(path, None)  # it may be well by now
        audio_error = _worker_result(path, answer)
        self._stream.report_error(audio_error)
        self._pending.popleft()
        self._waves[row] = slot, None if audio_error and audio_error.unusable else self._memory.slots[slot]
        self._begin_next()

    def __exit__(self, *exc) -> None:
        for _, _, answer in self._pending:  # nobody may write to the descriptor once its number is free
            if not answer.cancel():
                answer.exception()
        self._stream.release(self._memory)
