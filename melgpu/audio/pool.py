"""Decoding processes that may hang or crash without harm: the file is lost, the process replaced, the run goes on."""

import collections
import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor


class WorkerLost(Exception):
    """A process that crashed or hung over its work; says which."""


def num_processes(workers: int) -> int:
    """How many of `workers` processes this machine has cores for."""
    return min(workers, os.cpu_count() or 1)


class WorkerPool(contextlib.AbstractContextManager):
    """Calls functions in `workers` processes, which start when first needed; 0 calls them here and now, unguarded."""

    def __init__(self, workers: int, timeout_s: float):
        self.workers, self.timeout_s = num_processes(workers), timeout_s
        self._threads = ThreadPoolExecutor(max(1, self.workers), "decoding")  # each minds one process
        self._own = threading.local()
        self._desks: list[WorkerProcess] = []

    def __exit__(self, *exc) -> None:
        for desk in self._desks:
            desk.kill()
        self._threads.shutdown(cancel_futures=True)
        for desk in self._desks:
            desk.close()

    def submit(self, function: Callable, *arguments) -> Future:
        """The result of a call to come; it raises WorkerLost where its process crashed or took over `timeout_s`."""
        if self.workers:
            return self._threads.submit(self._call, function, arguments)
        done: Future = Future()
        try:
            done.set_result(function(*arguments))
        except Exception as error:
            done.set_exception(error)
        return done

    def in_order(self, calls: Iterable[tuple]) -> Iterator[Future]:
        """`submit` for each (function, arguments ...), a few beyond those that run, in the order given."""
        pending: collections.deque[Future] = collections.deque()
        for call in calls:
            pending.append(self.submit(*call))
            if len(pending) > 3 * self.workers:
                yield pending.popleft()
        yield from pending

    def _call(self, function: Callable, arguments: tuple):
        if not hasattr(self._own, "desk"):
            self._own.desk = WorkerProcess(self.timeout_s)
            self._desks.append(self._own.desk)
        return self._own.desk.call(function, arguments)


class WorkerProcess:
    """One process and the pipe to it."""

    def __init__(self, timeout_s: float):
        self.timeout_s, self._closed = timeout_s, False
        self._process: subprocess.Popen | None = None

    def call(self, function: Callable, arguments: tuple):
        if self._process and self._process.poll() is not None:  # killed while idle: no fault of this file
            self._end()
        if not self._process:
            self._start()
        try:
            self._pipe.send((function, arguments))
            if not self._pipe.poll(self.timeout_s):
                self._end()
                raise WorkerLost(f"its decoder hung (no answer within {self.timeout_s:g} s)")
            result, error = self._pipe.recv()
        except (EOFError, ConnectionError):
            raise WorkerLost(f"its decoder crashed ({self._end()})") from None
        if error:
            raise error
        return result

    def _start(self) -> None:
        """A fresh interpreter: safe beside CUDA and threads, and free of whatever the main script imports."""
        if self._closed:
            raise WorkerLost("the pool is closed")
        self._pipe, theirs = multiprocessing.Pipe()
        lifeline, self._lifeline = os.pipe()
        serve = f"import sys; sys.path[:] = {sys.path!r}; from melgpu.audio import worker; worker.serve"
        command = [sys.executable, "-c", f"{serve}({theirs.fileno()}, {lifeline})"]
        self._scratch = tempfile.TemporaryDirectory(prefix="melgpu-")  # what it fetches goes with it
        self._process = subprocess.Popen(
            command,
            pass_fds=(theirs.fileno(), lifeline),
            process_group=0,  # out of Ctrl-C's reach
            env={**os.environ, "TMPDIR": self._scratch.name},
        )
        theirs.close()
        os.close(lifeline)

    def _end(self) -> str:
        """Kill the process; what it had died of."""
        process, self._process = self._process, None
        if process is None:
            return "stopped"
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.2)
        process.kill()
        code = process.wait()
        self._pipe.close()
        os.close(self._lifeline)
        self._scratch.cleanup()
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"

    def kill(self) -> None:
        """From another thread: ends what the process does, and it starts no more."""
        self._closed = True
        if process := self._process:
            process.kill()

    def close(self) -> None:
        self._end()
