"""Runs steps in worker processes, within limits of time, and saves the result after each row."""

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from benchmarks.gpu import music
from benchmarks.gpu.result import GpuResult
from benchmarks.gpu.steps import Step
from melgpu.errors import InputError, one_line

START_LIMIT_S = 120.0  # imports, and the first call of the driver
MIN_STEP_S = 5.0  # with less time left no step begins
SMALL_FACTOR = 5.0  # limits are for a GPU: a small run may share two slow cores
TRACKS, SMALL_TRACKS = 128, 3
TRACK_S, SMALL_TRACK_S = 120, 18  # of the recipes in `setting`


class WorkerLostError(Exception):
    """A worker process that crashed or took too long."""


class Worker:
    """A worker process and the messages that it sends; its output is appended to a log."""

    def __init__(self, device: str, folder: Path, log_path: Path):
        self.log = log_path
        receiving, sending = os.pipe()
        command = [sys.executable, "-m", "benchmarks.gpu.worker", device, str(folder), str(sending)]
        with open(self.log, "ab") as log:
            # Its own process group: what it started, such as decoding processes, ends with it.
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=log, stderr=log, pass_fds=(sending,), process_group=0, text=True
            )
        os.close(sending)
        self._messages: queue.Queue[dict | None] = queue.Queue()
        threading.Thread(target=self._receive, args=(receiving,), daemon=True).start()

    def _receive(self, descriptor: int) -> None:
        with open(descriptor) as lines, contextlib.suppress(ValueError):  # of a line that was cut off
            for line in lines:
                self._messages.put(json.loads(line))
        self._messages.put(None)

    def request(self, step: Step, skip: Iterable[str]) -> None:
        if self._process.stdin is None:
            raise ValueError("a worker without stdin")
        with contextlib.suppress(BrokenPipeError):  # it has crashed, which `receive` will say
            self._process.stdin.write(json.dumps({"function": step.function, "skip": list(skip)}) + "\n")
            self._process.stdin.flush()

    def receive(self, limit_s: float) -> dict:
        """The next message. Raises TimeoutError, and WorkerLostError where the process has ended."""
        try:
            message = self._messages.get(timeout=max(0.0, limit_s))
        except queue.Empty:
            raise TimeoutError from None
        if message is None:
            code = self._process.wait()
            raise WorkerLostError(f"its process ended with code {code}: {self._last_line()}")
        return message

    def _last_line(self) -> str:
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return one_line(ValueError(lines[-1] if lines else "it wrote nothing"))

    def kill(self) -> None:
        _kill_group(self._process)


def _kill_group(process: subprocess.Popen) -> None:
    """End a process and those that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


class Runner(contextlib.AbstractContextManager):
    """Runs steps one after another until a deadline (of time.monotonic); one worker serves as long as it lives."""

    def __init__(self, result: GpuResult, device: str, folder: Path, deadline: float, say: Callable[[str], None]):
        self.result = result
        self.device = device
        self.folder = folder
        self.deadline = deadline
        self.say = say
        self._worker: Worker | None = None
        self._music: subprocess.Popen | None = None

    def __exit__(self, *exc: object) -> None:
        self._end_worker()
        if self._music:
            _kill_group(self._music)

    def run(self, steps: Iterable[Step]) -> None:
        """Run all steps for which there is time. Raises InputError where no worker starts, or on another machine."""
        self._start_worker()
        for step in steps:
            if self._left() < MIN_STEP_S:
                self.result.end(step.name, "not run: the minutes are over")
                continue
            self.say(f"{step.name}: {step.title}")
            started = time.monotonic()
            reason = self._run_step(step)
            self.result.end(step.name, reason, time.monotonic() - started)
            if reason:
                self.say(f"  {step.name} did not end: {reason}")

    def _left(self) -> float:
        return self.deadline - time.monotonic()

    def _start_worker(self) -> Worker:
        self._worker = Worker(self.device, self.folder, self.result.path.with_suffix(".log"))
        try:
            message = self._worker.receive(min(START_LIMIT_S, self._left()))
        except TimeoutError:
            raise InputError(f"the worker process did not start within {START_LIMIT_S:.0f} s") from None
        except WorkerLostError as error:
            raise InputError(f"the worker process does not start: {error}") from None
        if not self._music:  # the first worker: later ones would find the load of the steps
            self.result.set_machine(message["machine"])
            self._music = self._start_music()
            if message["machine"]["load_warning"]:
                self.say(message["machine"]["load_warning"])
        return self._worker

    def _start_music(self) -> subprocess.Popen:
        small = self.result.small
        count, seconds = (SMALL_TRACKS, SMALL_TRACK_S) if small else (TRACKS, TRACK_S)
        return music.start(self.folder, count, seconds, self.result.path.with_suffix(".log"))

    def _end_worker(self) -> None:
        if self._worker:
            self._worker.kill()
        self._worker = None

    def _run_step(self, step: Step) -> str:
        """Why a step did not end; empty where it did. A lost worker costs the row that it measured."""
        factor = SMALL_FACTOR if self.result.small else 1.0
        deadline = min(time.monotonic() + factor * step.limit_s, self.deadline)
        tried = set(self.result.measured(step.name))
        while True:
            try:
                worker = self._worker or self._start_worker()
            except InputError as error:  # after a row that has taken the device with it
                return str(error)
            worker.request(step, tried)
            row, reason = self._receive_rows(worker, step.name, deadline, factor * step.row_limit_s)
            if row is None:
                return reason
            self._end_worker()
            self.result.add_row(step.name, row, {"error": reason})
            self.say(f"  {row}: {reason}")
            tried |= {row, *self.result.measured(step.name)}
            if time.monotonic() > deadline - MIN_STEP_S:
                return reason

    def _receive_rows(self, worker: Worker, step: str, deadline: float, row_limit_s: float) -> tuple[str | None, str]:
        """Save a step's rows until it ends: None and why, or the row during which the worker was lost, and why."""
        row = None
        row_deadline = deadline
        while True:
            try:
                message = worker.receive(min(deadline, row_deadline) - time.monotonic())
            except (TimeoutError, WorkerLostError) as error:
                reason = str(error) or self._too_long(deadline, row_limit_s)
                if row is None:
                    self._end_worker()
                return row, reason
            if "began" in message:
                row = message["began"]
                row_deadline = time.monotonic() + row_limit_s
            elif "measured" in message:
                self.result.add_row(step, message["measured"], message["row"])
                self.say(f"  {message['measured']}: {message['row'].get('text') or message['row'].get('error')}")
                row, row_deadline = None, deadline
            else:
                return None, message["ended"]

    def _too_long(self, deadline: float, row_limit_s: float) -> str:
        now = time.monotonic()
        if now >= self.deadline:
            return "cut off: the minutes are over"
        return "cut off: the step's time is over" if now >= deadline else f"took more than {row_limit_s:.0f} s"
