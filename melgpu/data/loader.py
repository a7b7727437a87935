"""Tracks to device batches: decode ahead, gather windows, copy.

Data flow: a `WindowIndex` -> the tracks in order of first use, decoded ahead by worker processes into shared memory ->
windows gathered by a thread, a few batches ahead -> one copy to the device. A track is decoded once and stays in its
slot until its last window is out, then the slot is reused; a PCM cache holds all tracks instead. Batches do not depend
on the number of workers, and an index that starts later (a resumed epoch) decodes nothing of what it skips.

A file with an error raises, or (`on_error = "quarantine"`) is reported in `WindowLoader.errors`: what was decoded
before the error is used as a track, and windows of a file without usable audio are zeros and marked as not valid.
"""

import collections
import contextlib
import mmap
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Future

import numpy as np
import torch

from melgpu.audio import quarantine, worker
from melgpu.audio.decode import DecodeError
from melgpu.audio.pool import WorkerLostError, WorkerPool, num_processes
from melgpu.audio.quarantine import AudioError
from melgpu.data.batch import Batch, prefetch, prefetch_to_device
from melgpu.data.pcm_cache import CacheEntry, DeviceCache, PcmCache
from melgpu.data.schedule import Schedule
from melgpu.data.windows import WindowIndex, to_samples
from melgpu.recipe_schema import AudioSpec, LoaderSpec

PREFETCH_BATCHES = 2  # batches that wait for the device, in host memory


def check_files(
    paths: Sequence[str], audio: AudioSpec, spec: LoaderSpec, cache: PcmCache | None
) -> Iterator[AudioError | None]:
    """Decode each file once, into the PCM cache if there is one: its audio error, or None, in the order given."""
    with WorkerPool(spec.workers, spec.timeout_s) as pool:
        if cache:
            yield from cache.fill(paths, pool)
            return
        arguments = (audio.sample_rate, to_samples(audio.track_s, audio.sample_rate))
        calls = ((worker.check_file, path, *arguments) for path in paths)
        futures = pool.submit_in_order(calls)
        yield from map(_worker_result, paths, futures)


def _worker_result(path: str, future: Future) -> AudioError | None:
    try:
        return future.result()
    except WorkerLostError as error:
        return AudioError(path, str(error), 0.0)


def num_prefetched_tracks(spec: LoaderSpec) -> int:
    """How many tracks are decoded ahead: `prefetch_tracks`, and at least enough for all processes."""
    return max(spec.prefetch_tracks, 2 * num_processes(spec.workers))


class WindowLoader(contextlib.AbstractContextManager):
    """Loads windows of a manifest's files, any number of times; its worker processes start at the first file.

    `errors` are the audio errors of the files loaded so far, by path, each of the last time that it was loaded.
    """

    def __init__(
        self,
        paths: Sequence[str],
        audio: AudioSpec,
        spec: LoaderSpec,
        device: torch.device,
        cache: PcmCache | None = None,
    ):
        self.paths = paths
        self.spec = spec
        self.device = device
        self.pcm_cache = cache
        self.sample_rate = audio.sample_rate
        self.track_samples = to_samples(audio.track_s, audio.sample_rate)
        self.errors: dict[str, AudioError] = {}
        self._pool = WorkerPool(spec.workers, spec.timeout_s)
        self._device_cache: DeviceCache | None = None
        self._batch_buffers: list[np.ndarray] = []
        self._spare_slots: list[SharedSlots] = []

    def __exit__(self, *exc) -> None:
        self._pool.__exit__(*exc)
        while self._spare_slots:
            self._spare_slots.pop().close()

    def batches(self, index: WindowIndex, window_samples: int, batch_size: int) -> Iterator[Batch]:
        """The windows of `index`, `batch_size` at a time; the last batch may be smaller.

        Raises DecodeError for a file with an error, or InputError for too many of them, by `loader.on_error` and
        `loader.max_error_fraction` of the recipe.
        """
        if self._device_cache and self._device_cache.has(index.tracks):
            return (self._device_batch(windows, window_samples) for windows in _split(index, batch_size))
        batches = prefetch(self._gather_batches(index, window_samples, batch_size), PREFETCH_BATCHES)
        return prefetch_to_device(batches, self.device) if self.device.type == "cuda" else batches

    def _device_batch(self, batch_windows: WindowIndex, window_samples: int) -> Batch:
        waves, valid = self._device_cache.gather(batch_windows, window_samples)
        return self._to_batch(batch_windows, waves, valid)

    def load_to_device(self, rows: np.ndarray) -> Iterator[None]:
        """Copy these rows from the PCM cache to the device cache, one after another; later batches come from there."""
        device_cache = DeviceCache(rows, self.track_samples, self.device)
        for row in rows.tolist():
            path = self.paths[row]
            entry = self.pcm_cache.find(path)
            if entry:
                device_cache.put(row, self.pcm_cache.waves[entry.slot])
            self.report_error(entry.error if entry else AudioError(path, "not in the PCM cache", 0.0))
            yield None
        self._device_cache = device_cache  # only when complete: after an error no batch comes from a part of it

    def report_error(self, audio_error: AudioError | None) -> None:
        """Raise, or add to `errors`, by `loader.on_error` of the recipe."""
        if audio_error is None:
            return
        if self.spec.on_error == "raise":
            raise DecodeError(str(audio_error))
        self.errors[audio_error.path] = audio_error
        quarantine.check_error_rate(self.errors, len(self.paths), self.spec.max_error_fraction)

    def cached(self, row: int) -> CacheEntry | None:
        return self.pcm_cache.find(self.paths[row]) if self.pcm_cache else None

    def submit_decode(self, row: int, target: str, offset: int) -> Future:
        """Decode a track into the file `target` at an offset in bytes; the future is of its audio error, or None."""
        arguments = (self.paths[row], self.sample_rate, self.track_samples, target, offset)
        return self._pool.submit(worker.decode_to_file, *arguments)

    def acquire(self, num_slots: int) -> "SharedSlots":
        """Shared memory of `num_slots` tracks, reused from an earlier epoch if large enough: page faults cost time."""
        is_enough = self._spare_slots and len(self._spare_slots[-1].slots) >= num_slots
        return self._spare_slots.pop() if is_enough else SharedSlots(num_slots, self.track_samples)

    def release(self, memory: "SharedSlots") -> None:
        """Save the largest for reuse, close the others."""
        *smaller, largest = sorted([*self._spare_slots, memory], key=lambda shared: len(shared.slots))
        self._spare_slots = [largest]
        for shared in smaller:
            shared.close()

    def _gather_batches(self, index: WindowIndex, window_samples: int, batch_size: int) -> Iterator[Batch]:
        """Batches in host memory (pinned, for a GPU)."""
        schedule = Schedule(index, batch_size)
        with TrackBuffer(self, schedule.rows, schedule.max_open) as tracks:
            for step, batch_windows in enumerate(_split(index, batch_size)):
                waves = self._batch_buffer(len(batch_windows), window_samples)
                valid = np.ones(len(batch_windows), bool)
                windows = zip(batch_windows.tracks.tolist(), batch_windows.starts.tolist(), strict=True)
                for i, (row, start) in enumerate(windows):
                    wave = tracks[row]
                    valid[i] = wave is not None
                    # Reused memory holds old windows: without a wave it must be cleared.
                    waves.numpy()[i] = 0 if wave is None else wave[start : start + window_samples]
                # The batch holds copies: a slot is free as soon as its track's last window is copied.
                for row in schedule.rows_that_end(step):
                    tracks.drop(row)
                yield self._to_batch(batch_windows, waves, torch.from_numpy(valid))

    def _batch_buffer(self, *shape: int) -> torch.Tensor:
        """Memory that no earlier batch uses any more, if there is any: page faults cost twice the copy itself."""
        if self.device.type == "cuda":
            return torch.empty(*shape, pin_memory=True)  # PyTorch caches pinned memory
        # No caller gives a batch back. But its tensor and all views of that refer to the array: if the list alone does,
        # the batch is gone. Counted before the loop, whose variable is a reference, too.
        refcounts = _refcounts(self._batch_buffers)
        for array, refcount in zip(self._batch_buffers, refcounts, strict=True):
            if array.shape == shape and refcount == UNUSED_REFCOUNT:
                return torch.from_numpy(array)
        # As many as are in use at a time: those that wait, one that is filled, one that the caller works on.
        recent = self._batch_buffers[-PREFETCH_BATCHES - 1 :]
        self._batch_buffers = [*recent, np.empty(shape, np.float32)]
        return torch.from_numpy(self._batch_buffers[-1])

    @staticmethod
    def _to_batch(batch_windows: WindowIndex, waves: torch.Tensor, valid: torch.Tensor) -> Batch:
        tracks = torch.from_numpy(batch_windows.tracks).long()
        starts = torch.from_numpy(batch_windows.starts).long()
        return Batch(waves, tracks, starts, valid)


def _split(index: WindowIndex, batch_size: int) -> Iterator[WindowIndex]:
    return (index[start : start + batch_size] for start in range(0, len(index), batch_size))


def _refcounts(arrays: list[np.ndarray]) -> list[int]:
    """The reference count of each array of a list, this function's included; a tensor or a view of one adds another."""
    return [sys.getrefcount(array) for array in arrays]


UNUSED_REFCOUNT = _refcounts([np.empty(0)])[0]  # measured, as it differs between versions of Python


class SharedSlots:
    """Shared memory of tracks, shape (slots, samples of a track): worker processes write to it, this one reads it.

    An anonymous file: its pages are allocated as they are written, and the size of /dev/shm is no limit.
    """

    def __init__(self, num_slots: int, num_samples: int):
        self._file = os.memfd_create("melgpu")
        os.ftruncate(self._file, max(4, 4 * num_slots * num_samples))  # bytes; an empty file cannot be mapped
        # The array keeps the mapping alive; `close` ends only the descriptor.
        memory = np.frombuffer(mmap.mmap(self._file, 0), np.float32)
        self.slots = memory[: num_slots * num_samples].reshape(num_slots, num_samples)

    def location(self, slot: int) -> tuple[str, int]:
        """A file that other processes can open, and the offset of a slot in it, in bytes."""
        # Worker processes do not inherit the descriptor and the file has no name: they open it through /proc.
        return f"/proc/{os.getpid()}/fd/{self._file}", slot * self.slots.strides[0]

    def close(self) -> None:
        os.close(self._file)


class TrackBuffer(contextlib.AbstractContextManager):
    """Conformed waves by manifest row, from the PCM cache or decoded ahead, in the order of `rows`."""

    def __init__(self, loader: WindowLoader, rows: np.ndarray, max_open: int):
        self._loader = loader
        entries = ((row, loader.cached(row)) for row in rows.tolist())
        self._entries = {row: entry for row, entry in entries if entry}  # looked up once: files may change meanwhile
        self._to_decode = iter([row for row in rows.tolist() if row not in self._entries])
        num_ahead = num_prefetched_tracks(loader.spec)
        # A slot for each track that is needed at the same time and for each that is decoded ahead: never too few.
        num_slots = 0 if len(self._entries) == len(rows) else max_open + num_ahead
        self._memory = loader.acquire(num_slots)
        self._free_slots = list(range(num_slots))
        self._pending: collections.deque[tuple[int, int, Future]] = collections.deque()
        self._waves: dict[int, tuple[int, np.ndarray | None]] = {}
        for _ in range(num_ahead):
            self._submit_next()

    def __getitem__(self, row: int) -> np.ndarray | None:
        """The wave of a track, shape (samples of a track,); None of one without usable audio."""
        if row in self._entries:
            return self._cached_wave(self._entries[row])
        while row not in self._waves:
            self._complete_next()
        return self._waves[row][1]

    def drop(self, row: int) -> None:
        if row in self._waves:
            slot, _ = self._waves.pop(row)
            self._free_slots.append(slot)

    def _cached_wave(self, entry: CacheEntry) -> np.ndarray:
        self._loader.report_error(entry.error)
        return self._loader.pcm_cache.waves[entry.slot]

    def _submit_next(self) -> None:
        row = next(self._to_decode, None)
        if row is not None:
            slot = self._free_slots.pop()
            future = self._loader.submit_decode(row, *self._memory.location(slot))
            self._pending.append((row, slot, future))

    def _complete_next(self) -> None:
        # It stays pending until it is done: if waiting is interrupted, `__exit__` still has to wait for it.
        row, slot, future = self._pending[0]
        path = self._loader.paths[row]
        self._loader.errors.pop(path, None)  # of an earlier epoch: the file may have been replaced
        audio_error = _worker_result(path, future)
        self._loader.report_error(audio_error)
        self._pending.popleft()
        is_unusable = audio_error is not None and audio_error.unusable
        self._waves[row] = (slot, None if is_unusable else self._memory.slots[slot])
        self._submit_next()  # one for one: as many as before are decoded ahead

    def __exit__(self, *exc) -> None:
        for _, _, future in self._pending:  # no worker may write to the descriptor after it is closed and reused
            if not future.cancel():
                future.exception()
        self._loader.release(self._memory)
