"""What a batch holds, and how batches are made before they are asked for: by a thread, by the GPU's copy engine."""

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

    `heard` (B,) bool, false where a file gave nothing and the wave is silence. `waves` lies on the device; the others
    stay on the CPU.
    """

    waves: torch.Tensor
    tracks: torch.Tensor
    starts: torch.Tensor
    valid: torch.Tensor


def prefetch(items: Iterator[Item], depth: int) -> Iterator[Item]:
    """The same items, made by a thread up to `depth` of them before they are taken."""
    made: queue.Queue = queue.Queue(depth)
    stop = threading.Event()

    def make() -> None:
        end: tuple = (False, None)
        try:
            with contextlib.closing(items):
                for item in items:
                    _put(made, (True, item), stop)
                    if stop.is_set():
                        return
        except BaseException as error:  # whatever it is, the taker gets it
            end = (False, error)
        _put(made, end, stop)

    thread = threading.Thread(target=make, name="gathering", daemon=True)
    thread.start()
    try:
        while (more := made.get())[0]:
            yield more[1]
        if more[1]:
            raise more[1]
    finally:
        stop.set()
        thread.join()  # nobody decodes for a stream that is over


def _put(made: queue.Queue, item: tuple, stop: threading.Event) -> None:
    while not stop.is_set():
        with contextlib.suppress(queue.Full):
            made.put(item, timeout=0.1)
            return


def prefetch_to_device(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """Batches on a GPU: each is copied, on a CUDA stream of its own, while the one before it is in use."""
    copies, waiting = _copy_stream(device), None
    with contextlib.closing(batches):
        for batch in batches:
            with torch.cuda.stream(copies):
                waves = batch.waves.to(device, non_blocking=True)
            following = replace(batch, waves=waves), copies.record_event()
            if waiting:
                yield _wait_for_copy(*waiting)
            waiting = following
        if waiting:
            yield _wait_for_copy(*waiting)


@functools.cache
def _copy_stream(device: torch.device) -> torch.cuda.Stream:
    """One for all epochs: the memory of its batches is kept for the next ones."""
    return torch.cuda.Stream(device)


def _wait_for_copy(batch: Batch, copied: torch.cuda.Event) -> Batch:
    """No wait of this process: the GPU's current stream waits for the copy."""
    stream = torch.cuda.current_stream(batch.waves.device)
    stream.wait_event(copied)
    batch.waves.record_stream(stream)
    return batch
