"""PCM cache: decoded tracks in one memory-mapped file on disk.

The file is an array of slots, each one conformed track in float32; the cache index, a JSONL file beside it, maps each
track's key to its slot. A key hashes path, size and modification time; the file names hold rate, length and decoder
version. Samples are synced before the index refers to them, and a slot is never written again once the index refers to
it: so a killed job, a full disk or a second job at the same time leaves no wrong entry, and complete entries are used.
The files may be deleted whenever no job fills them.
"""

import contextlib
import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from melgpu import console, files
from melgpu.audio import remote, worker
from melgpu.audio.decode import DECODER_VERSION
from melgpu.audio.pool import WorkerPool, checked_file
from melgpu.audio.quarantine import AudioError, has_usable_audio
from melgpu.audio.worker import CheckedFile
from melgpu.data.windows import to_samples
from melgpu.errors import InputError
from melgpu.machine import memory_bytes
from melgpu.recipe_schema import AudioSpec, LoaderSpec

SYNC_EVERY = 16  # tracks: a killed job loses few, and few syncs wait for the disk


# What `loader.pcm_cache = "auto"` needs: room on the disk for more than the cache, and memory in which the pages that
# were read stay, since a disk is slower than decoding.
FREE_DISK_FACTOR = 1.5
MAX_MEMORY_FRACTION = 0.6


def open_cache(folder: Path, audio: AudioSpec, spec: LoaderSpec, num_tracks: int) -> "PcmCache | None":
    """The PCM cache of a recipe; None where `loader.pcm_cache` is off, or auto and there is no room for all tracks."""
    if spec.pcm_cache == "off":
        return None
    cache = PcmCache(folder, audio.sample_rate, to_samples(audio.track_s, audio.sample_rate), audio.min_s)
    if spec.pcm_cache != "auto" or cache.entries:  # what was decoded before is used
        return cache
    return None if lack_of_room(cache, num_tracks) else cache


def lack_of_room(cache: "PcmCache", num_tracks: int) -> str | None:
    """Why a cache of so many tracks would not be of use on this machine; None if it would."""
    needed = num_tracks * cache.slot_bytes
    free = shutil.disk_usage(files.existing_parent(cache.folder)).free
    if free < FREE_DISK_FACTOR * needed:
        return f"the disk has {free / 1e9:.1f} GB left"
    memory = memory_bytes()
    if needed > MAX_MEMORY_FRACTION * memory:
        return f"it would not stay in the memory of {memory / 1e9:.1f} GB"
    return None


@dataclass(frozen=True)
class CacheEntry:
    """The slot of a track, and its audio error if only its beginning is usable."""

    slot: int
    error: AudioError | None


@dataclass(frozen=True)
class CachedTrack:
    """The conformed wave of a track, shape (T,), mapped from the file, and its audio error if it has one."""

    wave: np.ndarray
    error: AudioError | None


class PcmCache:
    """Waves of tracks at one sample rate, conformed to one length, of files that have at least `min_s` of audio."""

    def __init__(self, folder: Path, sample_rate: int, num_samples: int, min_s: float = 0.0):
        self.folder = folder
        self.sample_rate = sample_rate
        self.num_samples = num_samples
        self.min_s = min_s
        self.pcm_path = folder / f"pcm-{sample_rate}-{num_samples}-v{DECODER_VERSION}.f32"
        self.index_path = self.pcm_path.with_suffix(".jsonl")
        self.entries: dict[str, CacheEntry] = {}
        self.waves = np.empty((0, num_samples), np.float32)
        self._refresh()

    @property
    def slot_bytes(self) -> int:
        return 4 * self.num_samples

    def find(self, path: str) -> CachedTrack | None:
        """The track of a file; None for a miss, or where the file has changed."""
        entry = self.entries.get(_key(path))
        return CachedTrack(self.waves[entry.slot], entry.error) if entry else None

    def fill(self, paths: Iterable[str], pool: WorkerPool) -> Iterator[CheckedFile]:
        """Decode what is missing; yields each file's audio error and fingerprint, in order.

        Waits for another job that fills the cache. A file without usable audio is decoded again the next time. Raises
        InputError where the disk is too small.
        """
        paths = list(paths)
        with self._locked():
            self._refresh()
            self._remove_stale_entries()
            num_missing = sum(self.find(path) is None for path in paths)
            self._check_disk_space(num_missing)
            yield from self._fill(paths, pool)
            self._refresh()

    def _fill(self, paths: list[str], pool: WorkerPool) -> Iterator[CheckedFile]:
        # Taken before decoding: a file that is replaced meanwhile has another key and is decoded again.
        keys = {path: _key(path) for path in paths}
        # The slot of a file without usable audio stays a hole of the file, which takes no space on the disk.
        first_slot = 1 + max((entry.slot for entry in self.entries.values()), default=-1)
        missing = [path for path, key in keys.items() if key not in self.entries]
        slots = {path: slot for slot, path in enumerate(missing, start=first_slot)}
        calls = (
            self._decode_call(path, slots[path]) if path in slots else self._read_call(self.entries[key])
            for path, key in keys.items()
        )
        checked: dict[str, CheckedFile] = {}
        decoded: list[tuple[str, CacheEntry]] = []
        # Closed before the lock is released: no worker may write after that.
        with contextlib.closing(pool.submit_in_order(calls)) as futures:
            try:
                for path in paths:
                    if path not in checked:
                        checked[path] = checked_file(path, next(futures))
                        if path in slots and has_usable_audio(checked[path].error):
                            decoded.append((keys[path], CacheEntry(slots[path], checked[path].error)))
                        elif path not in slots:  # its samples are there, also if the worker was lost
                            checked[path] = replace(checked[path], error=self.entries[keys[path]].error)
                    yield checked[path]
                    if len(decoded) >= SYNC_EVERY:
                        self._sync(decoded)
            finally:
                self._sync(decoded)

    def _decode_call(self, path: str, slot: int) -> tuple:
        track = path, self.sample_rate, self.num_samples
        return worker.check_to_file, *track, str(self.pcm_path), slot * self.slot_bytes, self.min_s

    def _read_call(self, entry: CacheEntry) -> tuple:
        track = self.sample_rate, self.num_samples
        return worker.check_written, entry.error, *track, str(self.pcm_path), entry.slot * self.slot_bytes

    def _sync(self, decoded: list[tuple[str, CacheEntry]]) -> None:
        """Samples first, then the lines of the index that refer to them."""
        if not decoded:
            return
        # Workers wrote the samples through descriptors of their own; any descriptor syncs the whole file.
        with open(self.pcm_path, "rb") as file:
            os.fdatasync(file.fileno())
        with open(self.index_path, "a", encoding="utf-8") as file:
            # the line feed comes first: a truncated line before these stays a line of its own
            file.writelines("\n" + _format_entry(key, entry) for key, entry in decoded)
            file.flush()
            os.fdatasync(file.fileno())
        decoded.clear()

    def _refresh(self) -> None:
        """Read the index, and map the complete slots of the file."""
        num_slots = self.pcm_path.stat().st_size // self.slot_bytes if self.pcm_path.exists() else 0
        # The index may refer to slots beyond the end, where the file was truncated or deleted.
        self.entries = {key: entry for key, entry in self._read_index() if 0 <= entry.slot < num_slots}
        if num_slots:
            mapped = np.memmap(self.pcm_path, np.float32, "r", shape=(num_slots, self.num_samples))
            self.waves = np.asarray(mapped)  # views of a memmap take twice the memory of those of an array

    def _remove_stale_entries(self) -> None:
        """Rewrite the index without entries beyond the file's end: as it grows, they would refer to other tracks."""
        if len(self.entries) < len(dict(self._read_index())):
            lines = (_format_entry(key, entry) for key, entry in self.entries.items())
            files.write_text(self.index_path, "\n".join(lines))

    def _read_index(self) -> Iterator[tuple[str, CacheEntry]]:
        if not self.index_path.is_file():
            return
        for line in self.index_path.read_text(encoding="utf-8", errors="replace").splitlines():
            with contextlib.suppress(ValueError, KeyError, TypeError, OverflowError, RecursionError):  # malformed
                data = json.loads(line)
                yield str(data["key"]), CacheEntry(int(data["slot"]), _parse_error(data["error"]))

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.pcm_path, "ab") as file:  # created where it is missing, never truncated
            if not files.lock(file.fileno(), wait=True):  # the kernel releases it however this process ends
                console.say_once(f"{self.folder}: {files.UNLOCKED_NOTE}")
            yield

    def _check_disk_space(self, num_missing: int) -> None:
        needed = num_missing * self.slot_bytes
        free = shutil.disk_usage(self.folder).free
        if needed > free:
            raise InputError(
                # Rounded up and down: they differ however little is missing.
                f"{self.folder}: the PCM cache needs {math.ceil(needed / 1e6):,} MB more and the disk has "
                f"{free // 10**6:,} MB left: free some space, or start the run without a PCM cache "
                "(--set loader.pcm_cache=off)"
            )


def _parse_error(data: dict | None) -> AudioError | None:
    return AudioError(str(data["path"]), str(data["reason"]), float(data["usable_s"])) if data else None


def _format_entry(key: str, entry: CacheEntry) -> str:
    return json.dumps({"key": key, **asdict(entry)})


def _key(path: str) -> str:
    """Changes when the file changes; the content of a URL is assumed constant."""
    parts: tuple = (path,)
    if not remote.is_url(path):
        with contextlib.suppress(OSError, ValueError):  # no such file, or no valid name: the key is of the path alone
            info = os.stat(path)
            parts = (os.path.realpath(path), info.st_size, info.st_mtime_ns)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]
