"""Batches of windows, and prefetching: in a thread, which on a GPU also copies them, on a CUDA stream of its own."""

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
    if device.type == "cuda":
        return _wait_for_copies(_prefetch_in_thread(_queue_copies(batches, device), depth, device), device)
    return _prefetch_in_thread(batches, depth, device)


def _prefetch_in_thread(items: Generator[Item], depth: int, device: torch.device) -> Generator[Item]:
    executor = ThreadPoolExecutor(1, "prefetch", functools.partial(_select_device, device))
    futures: collections.deque[Future[Item | None]] = collections.deque()
    try:
        for _ in range(depth + 1):  # those that wait, and one that is being made
            futures.append(executor.submit(next, items, None))
        while (item := futures.popleft().result()) is not None:
            futures.append(executor.submit(next, items, None))
            yield item
    finally:
        executor.shutdown(cancel_futures=True)  # waits: no decoding after the generator is closed
        items.close()  # not if the wait was interrupted: the thread may still be running them


def _select_device(device: torch.device) -> None:
    """Use a GPU in a new thread, which would allocate pinned memory through the first GPU, and take some of its own."""
    if device.index is not None:
        torch.cuda.set_device(device)


def _queue_copies(batches: Generator[Batch], device: torch.device) -> Generator[tuple[Batch, torch.cuda.Event]]:
    """Each batch on the device, and the event of its copy, which need not be complete yet."""
    copy_stream = _copy_stream(device)
    with contextlib.closing(batches):
        for batch in batches:
            with torch.cuda.stream(copy_stream):
                waves = batch.waves.to(device, non_blocking=True)
            yield replace(batch, waves=waves), copy_stream.record_event()


def _wait_for_copies(copies: Generator[tuple[Batch, torch.cuda.Event]], device: torch.device) -> Generator[Batch]:
    """Batches whose copies the current stream waits for; the host does not."""
    with contextlib.closing(copies):
        for batch, copied in copies:
            stream = torch.cuda.current_stream(device)
            stream.wait_event(copied)
            batch.waves.record_stream(stream)  # the copy stream may not reuse its memory while this stream reads it
            yield batch


@functools.cache
def _copy_stream(device: torch.device) -> torch.cuda.Stream:
    """One stream for all epochs: the caching allocator reuses the memory of its batches."""
    return torch.cuda.Stream(device)
