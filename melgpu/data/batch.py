"""Batches of windows, and prefetching: in a thread on the CPU, on a CUDA stream of its own to the device."""

import contextlib
import functools
import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

import torch

Item = TypeVar("Item")


@dataclass(frozen=True)
class Batch:
    """B windows of T samples: `waves` (B, T) float32, `tracks` (B,) manifest rows, `starts` (B,) in samples.

    `valid` (B,) bool, false where a file has no usable audio and the wave is zeros. `waves` lies on the device; the
    others stay on the CPU.
    """

    waves: torch.Tensor
    tracks: torch.Tensor
    starts: torch.Tensor
    valid: torch.Tensor


def prefetch(items: Iterator[Item], depth: int) -> Iterator[Item]:
    """The same items, produced by a thread up to `depth` items ahead of the consumer."""
    buffer: queue.Queue = queue.Queue(depth)  # of (True, item), and at the end (False, error or None)
    stop = threading.Event()

    def produce() -> None:
        end: tuple = (False, None)
        try:
            with contextlib.closing(items):
                for item in items:
                    _put(buffer, (True, item), stop)
                    if stop.is_set():
                        return
        except BaseException as error:  # of any kind: raised again in the consumer
            end = (False, error)
        _put(buffer, end, stop)

    thread = threading.Thread(target=produce, name="prefetch", daemon=True)
    thread.start()
    try:
        while True:
            is_item, value = buffer.get()
            if not is_item:
                break
            yield value
        if value:
            raise value
    finally:
        stop.set()
        thread.join()  # no decoding after the iterator is closed


def _put(buffer: queue.Queue, entry: tuple, stop: threading.Event) -> None:
    # With a timeout, to see `stop`: nobody empties a full queue after the consumer has stopped.
    while not stop.is_set():
        with contextlib.suppress(queue.Full):
            buffer.put(entry, timeout=0.1)
            return


def prefetch_to_device(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """Batches on a GPU: each is copied, on a CUDA stream of its own, while the one before it is in use."""
    copy_stream = _copy_stream(device)
    pending = None
    with contextlib.closing(batches):
        for batch in batches:
            with torch.cuda.stream(copy_stream):
                waves = batch.waves.to(device, non_blocking=True)
            following = (replace(batch, waves=waves), copy_stream.record_event())
            # Yielded one batch late, when the copy of the following one is already under way.
            if pending:
                yield _wait_for_copy(*pending)
            pending = following
        if pending:
            yield _wait_for_copy(*pending)


@functools.cache
def _copy_stream(device: torch.device) -> torch.cuda.Stream:
    """One stream for all epochs: the caching allocator reuses the memory of its batches."""
    return torch.cuda.Stream(device)


def _wait_for_copy(batch: Batch, copied: torch.cuda.Event) -> Batch:
    """Does not block the host: the GPU's current stream waits for the copy."""
    stream = torch.cuda.current_stream(batch.waves.device)
    stream.wait_event(copied)
    batch.waves.record_stream(stream)  # allocated on the copy stream: it may not be reused while this stream reads it
    return batch
