"""Music files on all GPUs of a machine: a process for each GPU and part, merged; one that dies is started again."""

import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from melgpu import console
from melgpu.errors import InputError
from melgpu.prediction.music import find_music
from melgpu.prediction.parts import file_list
from melgpu.prediction.parts.merge import merge_parts

MAX_RESTARTS = 3  # of one process
POLL_EVERY_S = 0.5


class Worker:
    """The process of a part on a device; the cores of the machine are divided among all."""

    def __init__(self, command: list[str], num_processes: int):
        self.command = command
        self.environ = {**os.environ, "LOCAL_WORLD_SIZE": str(num_processes)}
        self.restarts = 0
        self.process = subprocess.Popen(command, env=self.environ)

    def is_finished(self) -> bool:
        """Whether the part is written; a process that died is started again. Raises InputError after too many."""
        code = self.process.poll()
        if not code:
            return code == 0
        if code == 2 or self.restarts == MAX_RESTARTS:  # wrong input, which its output names, stays wrong
            raise InputError(f"a process ended with exit code {code}: {shlex.join(self.command)}")
        self.restarts += 1
        console.say(f"a process ended with exit code {code}: started again, {self.restarts} of {MAX_RESTARTS}")
        self.process = subprocess.Popen(self.command, env=self.environ)
        return False


def all_gpus() -> list[str]:
    """The names of this machine's GPUs. Raises InputError where there are none."""
    import torch

    if not torch.cuda.device_count():
        raise InputError("--gpus all: there is no GPU here that torch can use: leave it out")
    return [f"cuda:{index}" for index in range(torch.cuda.device_count())]


def predict_on_devices(music: Sequence[str], out: Path, devices: Sequence[str], flags: Sequence[str]) -> int:
    """Write the table `out` of music files, predicted on several devices; returns the number of errors.

    `flags` are those of the calls for a part, `--run` among them. Parts are in a hidden folder beside `out` until it is
    written: the same call resumes. Raises InputError where a process has died too often.
    """
    folder = out.with_name(f".{out.name}.parts")
    num_problems = _write_list(music, folder, len(devices))
    commands = [_command(folder, index, devices, flags) for index in range(len(devices))]
    workers = [Worker(command, len(devices)) for command in commands]
    try:
        while sum(worker.is_finished() for worker in workers) < len(workers):
            time.sleep(POLL_EVERY_S)
    finally:  # after an error or Ctrl-C: the others end, too
        for worker in workers:
            worker.process.terminate()
            worker.process.wait()
    num_errors = merge_parts(folder, out)
    shutil.rmtree(folder)
    return num_problems + num_errors


def _write_list(music: Sequence[str], folder: Path, num_parts: int) -> int:
    """Freeze the list of the files; returns the number of problems with others, which it says.

    Parts of another list, which an interrupted call has left, are deleted.
    """
    path, new_path = folder / "tracks.csv", folder / "new.csv"
    paths, problems = find_music(list(music))
    if not paths:
        raise InputError(problems)
    for problem in problems:
        console.say(f"error: {problem}")
    file_list.write_list(new_path, paths)
    if path.exists() and path.read_bytes() != new_path.read_bytes():
        console.say(f"{folder}: parts of an interrupted call for other files are deleted")
        shutil.rmtree(folder)
        file_list.write_list(new_path, paths)
    new_path.replace(path)
    file_list.freeze(path, len(paths), num_parts)
    return len(problems)


def _command(folder: Path, index: int, devices: Sequence[str], flags: Sequence[str]) -> list[str]:
    part = ["--list", str(folder / "tracks.csv"), "--part", f"{index}/{len(devices)}", "--out", str(folder)]
    return [sys.executable, sys.argv[0], *part, "--device", devices[index], *flags]
