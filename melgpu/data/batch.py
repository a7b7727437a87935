"""Batches of windows, and prefetching: in a thread on the CPU, on a CUDA stream of its own to the device."""

import collections
import contextlib
import functools
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeVar

import torch

from melgpu.audio.quarantine import AudioError

Item = TypeVar("Item")


@dataclass(frozen=True)
class Batch:
    """B windows of T samples: `waves` (B, T) float32, `tracks` (B,) manifest rows, `starts` (B,) in samples.

    `valid` (B,) bool, false where a file has no usable audio and the wave is zeros. `errors` are the audio errors found
    since the batch before. `waves` lies on the device; the others stay on the CPU.
    """

    waves: torch.Tensor
    tracks: torch.Tensor
    starts: torch.Tensor
    valid: torch.Tensor
    errors: tuple[AudioError, ...] = ()


def prefetch(batches: Generator[Batch], depth: int, device: torch.device) -> Generator[Batch]:
    """The same batches on the device, `depth` of them made ahead by a thread, which ends when this is closed."""
    prefetched = _prefetch_in_thread(batches, depth)
    return _copy_to_gpu(prefetched, device) if device.type == "cuda" else prefetched


def _prefetch_in_thread(batches: Generator[Batch], depth: int) -> Generator[Batch]:
    executor = ThreadPoolExecutor(1, "prefetch")
    futures: collections.deque[Future[Batch | None]] = collections.deque()
    try:
        for _ in range(depth + 1):  # those that wait, and one that is being made
            futures.append(executor.submit(next, batches, None))
        while (batch := futures.popleft().result()) is not None:
            futures.append(executor.submit(next, batches, None))
            yield batch
    finally:
        executor.shutdown(cancel_futures=True)  # waits: no decoding after the generator is closed
        batches.close()  # not if the wait was interrupted: the thread may still be running them


def _copy_to_gpu(batches: Generator[Batch], device: torch.device) -> Generator[Batch]:
    """Each batch is copied, on a CUDA stream of its own, while the one before it is in use."""
    with contextlib.closing(delay_by_one(_queue_copies(batches, device))) as queued:
        for batch, copied in queued:
            stream = torch.cuda.current_stream(device)
            stream.wait_event(copied)  # does not block the host
            batch.waves.record_stream(stream)  # the copy stream may not reuse its memory while this stream reads it
            yield batch


def _queue_copies(batches: Generator[Batch], device: torch.device) -> Generator[tuple[Batch, torch.cuda.Event]]:
    copy_stream = _copy_stream(device)
    with contextlib.closing(batches):
        for batch in batches:
            with torch.cuda.stream(copy_stream):
                waves = batch.waves.to(device, non_blocking=True)
            yield replace(batch, waves=waves), copy_stream.record_event()


@functools.cache
def _copy_stream(device: torch.device) -> torch.cuda.Stream:
    """One stream for all epochs: the caching allocator reuses the memory of its batches."""
    return torch.cuda.Stream(device)


def delay_by_one(queued: Generator[Item]) -> Generator[Item]:
    """Each item after the following one has been queued: the device has work while the consumer waits for an item."""
    pending = []
    with contextlib.closing(queued):
        for item in queued:
            pending.append(item)
            if len(pending) == 2:
                yield pending.pop(0)
        yield from pending
