"""Decoded PCM of all tracks: in one memory-mapped file, to be deleted when nobody fills it, or on the device.

The file is a row of slots, each one conformed track in float32; a journal beside it says which track lies where. A
track's key holds path, size and time stamp, the files' names rate, length and decoder version. Samples are synced
before the journal names them, and slots are never written twice once named: a job that is killed, a full disk or a
second job at the same time leaves nothing wrong, and what is there is used.
"""

import collections
import contextlib
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from melgpu import files
from melgpu.audio import remote, worker
from melgpu.audio.decode import DECODER_VERSION
from melgpu.audio.pool import WorkerLost, WorkerPool
from melgpu.audio.quarantine import AudioError
from melgpu.data.windows import WindowIndex, to_samples
from melgpu.errors import InputError
from melgpu.recipe import AudioSpec, LoaderSpec

SYNC_EVERY = 16  # tracks


def open_cache(folder: Path, audio: AudioSpec, spec: LoaderSpec) -> "PcmCache | None":
    """The bank that a recipe asks for; None where it asks for none."""
    return (
        None
        if spec.pcm_cache == "off"
        else PcmCache(folder, audio.sample_rate, to_samples(audio.track_s, audio.sample_rate))
    )


@dataclass(frozen=True)
class CacheEntry:
    """Where a track lies, and its flaw if only its beginning could be read."""

    slot: int
    error: AudioError | None


class PcmCache:
    """Waves of tracks at one sample rate, conformed to one length."""

    def __init__(self, folder: Path, sample_rate: int, num_samples: int):
        self.folder, self.sample_rate, self.num_samples = folder, sample_rate, num_samples
        self.pcm = folder / f"pcm-{sample_rate}-{num_samples}-v{DECODER_VERSION}.f32"
        self.journal = self.pcm.with_suffix(".jsonl")
        self.entries: dict[str, CacheEntry] = {}
        self.waves = np.empty((0, num_samples), np.float32)
        self._refresh()

    @property
    def slot_bytes(self) -> int:
        return 4 * self.num_samples

    def find(self, path: str) -> CacheEntry | None:
        """Where a file's samples lie in `waves`; None where they do not, or the file has changed."""
        return self.entries.get(_key(path))

    def fill(self, paths: Iterable[str], pool: WorkerPool) -> Iterator[AudioError | None]:
        """Decode what is missing; yields each file's flaw, in order. Waits for another job that fills the same bank.

        A file that gives nothing is tried again the next time. Raises InputError where the disk is too small.
        """
        paths = list(paths)
        with self._locked():
            self._refresh()
            self._forget_what_is_gone()
            self._refuse_small_disk(sum(self.find(path) is None for path in paths))
            yield from self._fill(paths, pool)
            self._refresh()

    def _fill(self, paths: list[str], pool: WorkerPool) -> Iterator[AudioError | None]:
        free = collections.deque([1 + max((entry.slot for entry in self.entries.values()), default=-1)])
        pending, done = collections.deque(), []
        try:
            for path in [*paths, *[None] * 2 * max(1, pool.workers)]:  # the end pushes the last ones out
                if path is not None:
                    pending.append(self._submit(path, free, pool))
                if pending and (path is None or len(pending) > 2 * pool.workers):
                    yield self._take(*pending.popleft(), free, done)
                if len(done) >= SYNC_EVERY:
                    self._sync(done)
        finally:
            for *_, future in pending:  # nobody may write any more when the lock is given up
                if future and not future.cancel():
                    future.exception()
            self._sync(done)

    def _submit(self, path: str, free: collections.deque, pool: WorkerPool) -> tuple:
        key = _key(path)
        if key in self.entries:
            return path, key, self.entries[key], None
        slot = free.popleft()
        if not free:
            free.append(slot + 1)
        job = (path, self.sample_rate, self.num_samples, str(self.pcm), slot * self.slot_bytes)
        return path, key, slot, pool.submit(worker.decode_to_file, *job)

    def _take(self, path: str, key: str, place, future, free: collections.deque, done: list) -> AudioError | None:
        if future is None:
            return place.error
        try:
            audio_error = future.result()
        except WorkerLost as error:
            audio_error = AudioError(path, str(error), 0.0)
        if audio_error and audio_error.unusable:
            free.appendleft(place)
        else:
            done.append((key, CacheEntry(place, audio_error)))
        return audio_error

    def _sync(self, done: list[tuple[str, CacheEntry]]) -> None:
        """Samples first, then the lines that name them."""
        if not done:
            return
        with open(self.pcm, "rb") as file:
            os.fdatasync(file.fileno())
        with open(self.journal, "a", encoding="utf-8") as file:
            file.writelines("\n" + _line(key, entry) for key, entry in done)  # a line cut off before stays alone
            file.flush()
            os.fdatasync(file.fileno())
        done.clear()

    def _refresh(self) -> None:
        """Read the journal, and map as much of the file as is there."""
        slots = self.pcm.stat().st_size // self.slot_bytes if self.pcm.exists() else 0
        self.entries = {key: entry for key, entry in self._lines() if 0 <= entry.slot < slots}
        if slots:
            self.waves = np.memmap(self.pcm, np.float32, "r", shape=(slots, self.num_samples))

    def _forget_what_is_gone(self) -> None:
        """Lines whose samples were cut off or deleted would come true again, of other tracks, as the file grows."""
        if len(self.entries) < len(dict(self._lines())):
            files.write_text(self.journal, "\n".join(_line(key, entry) for key, entry in self.entries.items()))

    def _lines(self) -> Iterator[tuple[str, CacheEntry]]:
        if not self.journal.is_file():
            return
        for line in self.journal.read_text(encoding="utf-8", errors="replace").splitlines():
            with contextlib.suppress(ValueError, KeyError, TypeError, OverflowError, RecursionError):  # cut off
                data = json.loads(line)
                yield str(data["key"]), CacheEntry(int(data["slot"]), _parse_error(data["error"]))

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.pcm, "ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # the system releases it whatever happens to this process
            yield

    def _refuse_small_disk(self, missing: int) -> None:
        needed, free = missing * self.slot_bytes, shutil.disk_usage(self.folder).free
        if needed > free:
            raise InputError(
                f"{self.folder}: the bank needs {needed / 1e9:.1f} GB more and the disk has {free / 1e9:.1f} GB left: "
                "free some space, or begin the run without a bank (--set loader.pcm_cache=off)"
            )


class DeviceCache:
    """Conformed tracks in a device's memory, from which windows are gathered on the device."""

    def __init__(self, rows: np.ndarray, num_samples: int, device: torch.device):
        try:
            self._waves = torch.zeros(len(rows), num_samples, device=device)
        except RuntimeError as error:  # torch says so when memory runs out, on any device
            need = 4e-9 * len(rows) * num_samples
            raise InputError(
                f"{len(rows)} tracks need {need:.1f} GB of {device}'s memory: --set loader.pcm_cache=disk ({error})"
            ) from None
        self._place = {row: place for place, row in enumerate(rows.tolist())}
        self._valid = np.zeros(len(rows), bool)

    def put(self, row: int, wave: np.ndarray) -> None:
        place = self._place[row]
        self._waves[place] = torch.from_numpy(np.array(wave))
        self._valid[place] = True

    def has(self, rows: np.ndarray) -> bool:
        return all(row in self._place for row in np.unique(rows).tolist())

    def gather(self, part: WindowIndex, window_samples: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The windows of `part`, shape (B, T), on the device; and which of them were heard, (B,) bool, on the CPU."""
        places = np.array([self._place[row] for row in part.tracks.tolist()], np.int64)
        where = torch.from_numpy(np.stack([places, part.starts])).to(self._waves.device, non_blocking=True)
        windows = self._waves.unfold(1, window_samples, 1)  # a view: every window that there is
        return windows[where[0], where[1]], torch.from_numpy(self._valid[places])


def _parse_error(data: dict | None) -> AudioError | None:
    return AudioError(str(data["path"]), str(data["reason"]), float(data["usable_s"])) if data else None


def _line(key: str, entry: CacheEntry) -> str:
    return json.dumps({"key": key, **asdict(entry)})


def _key(path: str) -> str:
    """What changes when a file does; a URL is taken to stay what it is."""
    parts: tuple = (path,)
    if not remote.is_url(path):
        with contextlib.suppress(OSError, ValueError):
            info = os.stat(path)
            parts = os.path.realpath(path), info.st_size, info.st_mtime_ns
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]
