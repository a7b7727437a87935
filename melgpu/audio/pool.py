"""A pool of decoding processes that may hang or crash: one result is lost, the worker process is replaced."""

import collections
import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Literal, TypeVar

from melgpu.audio import fingerprint
from melgpu.audio.quarantine import AudioError
from melgpu.audio.worker import CheckedFile
from melgpu.machine import num_usable_cores

Result = TypeVar("Result")


class WorkerLostError(Exception):
    """A worker process that crashed or timed out; the message holds which."""


def num_processes(workers: int | Literal["auto"]) -> int:
    """`workers`, limited to the usable cores; "auto": all of them but two, divided among the ranks of this machine.

    One of the two is for the main process, the other for its threads, which gather batches and write files.
    """
    cores = num_usable_cores()
    if workers == "auto":
        return max(1, (cores - 2) // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
    return min(workers, cores)


def all_processes(workers: int | Literal["auto"]) -> int:
    """`num_processes` of work for which the main process waits: "auto" need not leave it a core."""
    return num_usable_cores() if workers == "auto" else num_processes(workers)


def wait_for_end(future: Future) -> None:
    """Cancel a call, or wait until it has ended in any way."""
    if not future.cancel():
        future.exception()


def decoding_error(path: str, future: Future[AudioError | None]) -> AudioError | None:
    """The audio error of a file that was decoded by a worker process, whose loss is one, too."""
    try:
        return future.result()
    except WorkerLostError as error:
        return AudioError(path, str(error), 0.0)


def checked_file(path: str, future: Future[CheckedFile]) -> CheckedFile:
    """What a worker process tells of a file, whose loss is an audio error."""
    try:
        return future.result()
    except WorkerLostError as error:
        return CheckedFile(AudioError(path, str(error), 0.0), fingerprint.NONE)


class WorkerPool(contextlib.AbstractContextManager):
    """Calls functions in `workers` processes, started lazily; 0 calls them synchronously in this process."""

    def __init__(self, workers: int | Literal["auto"], timeout_s: float):
        self.workers = num_processes(workers)
        self.timeout_s = timeout_s
        self._threads = ThreadPoolExecutor(max(1, self.workers), "decoding")  # one per process
        self._thread_local = threading.local()
        self._processes: list[WorkerProcess] = []

    def __exit__(self, *exc: object) -> None:
        # Processes are killed first, since shutdown waits for the threads that wait for their results; connections are
        # closed last, when no thread uses them any more.
        for process in self._processes:
            process.kill()
        self._threads.shutdown(cancel_futures=True)
        for process in self._processes:
            process.close()

    def submit(self, function: Callable[..., Result], *arguments: object) -> Future[Result]:
        """The future result of a call; WorkerLostError if its process crashed or took longer than `timeout_s`."""
        if self.workers:
            return self._threads.submit(self._call, function, arguments)
        future: Future[Result] = Future()
        try:
            future.set_result(function(*arguments))
        except Exception as error:
            future.set_exception(error)
        return future

    def submit_in_order(self, calls: Iterable[tuple]) -> Generator[Future]:
        """`submit` for each (function, arguments ...), with a bounded queue; yields the futures in the given order.

        When it is closed early, no call is left running.
        """
        pending: collections.deque[Future] = collections.deque()
        try:
            for call in calls:
                pending.append(self.submit(*call))
                if len(pending) > 3 * self.workers:  # without workers after each call: nothing is done ahead
                    yield pending.popleft()
            while pending:
                yield pending.popleft()
        finally:
            for future in pending:
                wait_for_end(future)

    def _call(self, function: Callable[..., Result], arguments: tuple) -> Result:
        if not hasattr(self._thread_local, "process"):
            self._thread_local.process = WorkerProcess(self.timeout_s)
            self._processes.append(self._thread_local.process)
        return self._thread_local.process.call(function, arguments)


class WorkerProcess:
    """One worker process and the connection to it."""

    def __init__(self, timeout_s: float):
        self.timeout_s = timeout_s
        self._closed = False
        self._process: subprocess.Popen | None = None

    def call(self, function: Callable[..., Result], arguments: tuple) -> Result:
        if self._process and self._process.poll() is not None:  # killed while idle: not caused by this call
            self._terminate()
        if not self._process:
            self._start()
        try:
            self._connection.send((function, arguments))
            if not self._connection.poll(self.timeout_s):
                self._terminate()
                raise WorkerLostError(f"its decoder hung (no result within {self.timeout_s:g} s)")
            result, exception = self._connection.recv()
        except (EOFError, ConnectionError):
            raise WorkerLostError(f"its decoder crashed ({self._terminate()})") from None
        if exception:
            raise exception
        return result

    def _start(self) -> None:
        """A new interpreter, no fork: safe with CUDA and threads, and without the imports of the main script."""
        if self._closed:
            raise WorkerLostError("the pool is closed")
        self._connection, child_connection = multiprocessing.Pipe()
        parent_alive_fd, self._alive_fd = os.pipe()  # its end of file signals the parent's exit
        # multiprocessing's spawn would import the main script again, and torch with it.
        serve = f"import sys; sys.path[:] = {sys.path!r}; from melgpu.audio import worker; worker.serve"
        encoding = f"-Xutf8={sys.flags.utf8_mode}"  # of file names: the same as here
        command = [sys.executable, encoding, "-c", f"{serve}({child_connection.fileno()}, {parent_alive_fd})"]
        self._scratch = tempfile.TemporaryDirectory(prefix="melgpu-")  # its downloads are deleted with it
        self._process = subprocess.Popen(
            command,
            pass_fds=(child_connection.fileno(), parent_alive_fd),
            process_group=0,  # Ctrl-C is not sent to it
            env={**os.environ, "TMPDIR": self._scratch.name},
        )
        child_connection.close()  # the child has its own; while this copy is open a crash does not end the connection
        os.close(parent_alive_fd)

    def _terminate(self) -> str:
        """Kill the process; returns the signal or exit code that it ended with."""
        process = self._process
        self._process = None
        if process is None:
            return "stopped"
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.2)  # a crashed process ends by itself, and its own signal is returned
        process.kill()
        code = process.wait()
        self._connection.close()
        os.close(self._alive_fd)
        self._scratch.cleanup()
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"

    def kill(self) -> None:
        """Callable from another thread: aborts the current call and prevents a restart."""
        self._closed = True
        process = self._process  # read once: the thread of a call may set it to None
        if process:
            process.kill()

    def close(self) -> None:
        self._terminate()
