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
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future

import numpy as np
import torch

from melgpu.audio import quarantine, worker
from melgpu.audio.decode import DecodeError
from melgpu.audio.pool import WorkerPool, all_processes, checked_file, decoding_error, num_processes, wait_for_end
from melgpu.audio.quarantine import AudioError, has_usable_audio
from melgpu.audio.worker import CheckedFile
from melgpu.data.batch import Batch, prefetch
from melgpu.data.device_cache import DeviceCache
from melgpu.data.memory import BatchMemory, SlotMemory
from melgpu.data.pcm_cache import CachedTrack, PcmCache
from melgpu.data.schedule import Schedule
from melgpu.data.windows import WindowIndex, to_samples
from melgpu.recipe_schema import AudioSpec, LoaderSpec

PREFETCH_BATCHES = 2  # batches that wait for the device, in host memory


def check_files(
    paths: Sequence[str], audio: AudioSpec, spec: LoaderSpec, cache: PcmCache | None
) -> Iterator[CheckedFile]:
    """Decode each file once, into the PCM cache if there is one: audio errors and fingerprints, in the order given."""
    with WorkerPool(all_processes(spec.workers), spec.timeout_s) as pool:
        if cache:
            yield from cache.fill(paths, pool)
            return
        arguments = (audio.sample_rate, to_samples(audio.track_s, audio.sample_rate), audio.min_s)
        calls = ((worker.check_file, path, *arguments) for path in paths)
        futures = pool.submit_in_order(calls)
        yield from map(checked_file, paths, futures)


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
        self.min_s = audio.min_s
        self.errors: dict[str, AudioError] = {}
        self._pool = WorkerPool(spec.workers, spec.timeout_s)
        self._device_cache: DeviceCache | None = None
        self._batch_memory = BatchMemory(device, PREFETCH_BATCHES)
        self._slot_memory = SlotMemory(self.track_samples)

    def __exit__(self, *exc: object) -> None:
        self._pool.__exit__(*exc)
        self._slot_memory.close()

    def set_paths(self, paths: Sequence[str]) -> None:
        """Load these files from now on, by the same worker processes; no batches of others may be open."""
        self.paths = paths
        self.errors = {}

    def batches(self, index: WindowIndex, window_samples: int, batch_size: int) -> Generator[Batch]:
        """The windows of `index`, `batch_size` at a time; the last batch may be smaller.

        Raises DecodeError for a file with an error, or InputError for too many of them, by `loader.on_error` and
        `loader.max_error_fraction` of the recipe.
        """
        if self._device_cache and self._device_cache.has(index.tracks):
            return self._device_batches(self._device_cache, index, window_samples, batch_size)
        host_batches = self._gather_batches(index, window_samples, batch_size)
        return prefetch(host_batches, PREFETCH_BATCHES, self.device)

    @staticmethod
    def _device_batches(
        cache: DeviceCache, index: WindowIndex, window_samples: int, batch_size: int
    ) -> Generator[Batch]:
        for batch_windows in _split(index, batch_size):
            waves, valid = cache.gather(batch_windows, window_samples)
            yield _to_batch(batch_windows, waves, valid)

    def load_to_device(self, rows: np.ndarray) -> Iterator[None]:
        """Copy these rows from the PCM cache to the device cache, one after another; later batches come from there."""
        device_cache = DeviceCache(rows, self.track_samples, self.device)
        for row in rows.tolist():
            track = self.cached(row)
            if track is None:
                self.report_error(AudioError(self.paths[row], "not in the PCM cache", 0.0))
            else:
                device_cache.put(row, track.wave)
                if track.error:
                    self.report_error(track.error)
            yield None
        self._device_cache = device_cache  # only when complete: after an error no batch comes from a part of it

    def report_error(self, audio_error: AudioError) -> None:
        """Raise, or add to `errors`, by `loader.on_error` of the recipe."""
        if self.spec.on_error == "raise":
            raise DecodeError(str(audio_error))
        self.errors[audio_error.path] = audio_error
        quarantine.check_error_rate(self.errors, len(self.paths), self.spec.max_error_fraction)

    def cached(self, row: int) -> CachedTrack | None:
        """A track in the PCM cache; None for a miss, or without a cache."""
        return self.pcm_cache.find(self.paths[row]) if self.pcm_cache else None

    def submit_decode(self, row: int, target: str, offset: int) -> Future:
        """Decode a track into the file `target` at an offset in bytes; the future is of its audio error, or None."""
        arguments = (self.paths[row], self.sample_rate, self.track_samples, target, offset, self.min_s)
        return self._pool.submit(worker.decode_to_file, *arguments)

    def _gather_batches(self, index: WindowIndex, window_samples: int, batch_size: int) -> Generator[Batch]:
        """Batches in host memory (pinned, for a GPU)."""
        schedule = Schedule(index, batch_size)
        with TrackBuffer(self, self._slot_memory, schedule) as tracks:
            for step, batch_windows in enumerate(_split(index, batch_size)):
                waves = self._batch_memory.empty(len(batch_windows), window_samples)
                valid = np.ones(len(batch_windows), bool)
                windows = zip(batch_windows.tracks.tolist(), batch_windows.starts.tolist(), strict=True)
                for i, (row, start) in enumerate(windows):
                    wave = tracks[row]
                    valid[i] = wave is not None
                    # Reused memory holds old windows: without a wave it must be cleared.
                    waves.numpy()[i] = 0 if wave is None else wave[start : start + window_samples]
                # The batch holds copies: a slot is free as soon as its track's last window is copied.
                for row in schedule.rows_that_end(step):
                    tracks.release(row)
                yield _to_batch(batch_windows, waves, torch.from_numpy(valid), tracks.take_errors())


def _to_batch(
    batch_windows: WindowIndex, waves: torch.Tensor, valid: torch.Tensor, errors: tuple[AudioError, ...] = ()
) -> Batch:
    tracks = torch.from_numpy(batch_windows.tracks).long()
    starts = torch.from_numpy(batch_windows.starts).long()
    return Batch(waves, tracks, starts, valid, errors)


def _split(index: WindowIndex, batch_size: int) -> Iterator[WindowIndex]:
    return (index[start : start + batch_size] for start in range(0, len(index), batch_size))


class TrackBuffer(contextlib.AbstractContextManager):
    """Conformed waves of a schedule's tracks by manifest row, from the PCM cache or decoded ahead."""

    def __init__(self, loader: WindowLoader, memory: SlotMemory, schedule: Schedule):
        rows = schedule.rows.tolist()
        self._loader = loader
        cached = ((row, loader.cached(row)) for row in rows)
        self._cached = {row: track for row, track in cached if track}  # looked up once: files may change meanwhile
        self._to_decode = iter([row for row in rows if row not in self._cached])
        num_ahead = num_prefetched_tracks(loader.spec)
        # A slot for each track that is needed at the same time and for each that is decoded ahead: never too few.
        num_slots = 0 if len(self._cached) == len(rows) else schedule.max_open + num_ahead
        self._memory = memory
        self._slots = memory.acquire(num_slots)
        self._free_slots = list(range(num_slots))
        self._pending: collections.deque[tuple[int, int, Future]] = collections.deque()
        self._used_slots: dict[int, int] = {}  # by row
        self._waves: dict[int, np.ndarray | None] = {}
        self._new_errors: list[AudioError] = []
        for _ in range(num_ahead):
            self._submit_next()

    def __getitem__(self, row: int) -> np.ndarray | None:
        """The wave of a track, shape (samples of a track,); None of one without usable audio."""
        if row in self._cached and row not in self._waves:
            self._report(self._cached[row].error)
            self._waves[row] = self._cached[row].wave
        while row not in self._waves:
            self._complete_next()
        return self._waves[row]

    def release(self, row: int) -> None:
        """A track that is not needed any more; its slot is free."""
        del self._waves[row]
        if row in self._used_slots:
            self._free_slots.append(self._used_slots.pop(row))

    def take_errors(self) -> tuple[AudioError, ...]:
        """The audio errors found since the last call."""
        new_errors = tuple(self._new_errors)
        self._new_errors.clear()
        return new_errors

    def _submit_next(self) -> None:
        row = next(self._to_decode, None)
        if row is not None:
            slot = self._free_slots.pop()
            future = self._loader.submit_decode(row, *self._slots.location(slot))
            self._pending.append((row, slot, future))

    def _complete_next(self) -> None:
        # It stays pending until it is done: if waiting is interrupted, `__exit__` still has to wait for it.
        row, slot, future = self._pending[0]
        path = self._loader.paths[row]
        self._loader.errors.pop(path, None)  # of an earlier epoch: the file may have been replaced
        audio_error = decoding_error(path, future)
        self._report(audio_error)
        self._pending.popleft()
        self._used_slots[row] = slot
        self._waves[row] = self._slots.waves[slot] if has_usable_audio(audio_error) else None
        self._submit_next()  # one for one: as many as before are decoded ahead

    def _report(self, audio_error: AudioError | None) -> None:
        if audio_error:
            self._loader.report_error(audio_error)
            self._new_errors.append(audio_error)

    def __exit__(self, *exc: object) -> None:
        for _, _, future in self._pending:  # no worker may write to the descriptor after it is closed and reused
            wait_for_end(future)
        self._memory.release(self._slots)
