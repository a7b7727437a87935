"""Writes files in a thread, so that the device goes on training meanwhile."""

import contextlib
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor


class BackgroundWriter(contextlib.AbstractContextManager):
    """Runs writes one after another in a thread; at most one is pending. Leaving the block waits for it.

    `submitted_at` is the clock time of the last write, by `time.monotonic`; before the first, that of the start.
    """

    def __init__(self) -> None:
        self.submitted_at = time.monotonic()
        self._executor = ThreadPoolExecutor(1, "writer")
        self._pending: Future[None] | None = None

    def submit(self, write: Callable[..., None], *arguments: object) -> None:
        """Start a write, after the pending one has ended; raises the error of that one."""
        self.wait()
        self._pending = self._executor.submit(write, *arguments)
        self.submitted_at = time.monotonic()

    def wait(self) -> None:
        """Block until the pending write has ended; raises its error."""
        pending = self._pending
        self._pending = None  # its error is raised once
        if pending:
            pending.result()

    def __exit__(self, *exc: object) -> None:
        self._executor.shutdown()
        # After another error the one of the write would hide the cause.
        if exc == (None, None, None):
            self.wait()


class HostCopy:
    """A copy of nested tensors in host memory, which training does not change.

    From a GPU the tensors are copied to pinned memory in the order of the current stream, for which the host does not
    wait: what is queued later, as the next step, changes them only after they are copied.
    """

    def __init__(self, value: object):
        self._copied: torch.cuda.Event | None = None
        self._value = self._copy(value)

    def get(self) -> Any:
        """The copy; waits until it is complete."""
        if self._copied:
            self._copied.synchronize()
        return self._value

    def _copy(self, value: object) -> object:
        if isinstance(value, Tensor):
            copy = value.detach().to("cpu", copy=True, non_blocking=True)  # pinned, where it comes from a GPU
            if value.is_cuda:
                self._copied = torch.cuda.current_stream(value.device).record_event()
            return copy
        if isinstance(value, dict):
            return {key: self._copy(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self._copy(item) for item in value]
        return value
