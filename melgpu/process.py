"""Prepares a process before torch is imported: standard streams, UTF-8, a user's name, threads, GPU memory.

What cron, a container or a system of another encoding leaves unset is set, so that it ends no script. Imports nothing
heavy.
"""

import contextlib
import getpass
import os
import sys
import time
from pathlib import Path

from melgpu.machine import num_usable_cores

LOAD = Path("/proc/loadavg")  # its fourth field: threads that run now, a slash, threads that exist
NUM_LOAD_SAMPLES = 5
LOAD_SAMPLE_EVERY_S = 0.01


def prepare() -> None:
    """Prepare the process of a script; called first, before it opens any file. May start its interpreter anew."""
    open_standard_streams()
    restart_in_utf8()
    set_user_name()
    limit_threads()
    set_wait_policy()
    configure_allocator()


def open_standard_streams() -> None:
    """Open those of standard input, output and error that are closed (cron, daemons, `2>&-`) as /dev/null.

    Else the next file that is opened would get the number of a standard stream, and what a library prints.
    """
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        if is_open(descriptor):
            continue
        os.open(os.devnull, os.O_RDWR)  # it gets the lowest free number, which is this one
        os.set_inheritable(descriptor, True)
        mode = "r" if name == "stdin" else "w"
        setattr(sys, name, open(descriptor, mode, encoding="utf-8", closefd=False))  # noqa: SIM115


def is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def restart_in_utf8() -> None:
    """Where the locale has another encoding, start the interpreter anew in its UTF-8 mode (PEP 540).

    File names, CSV files and arguments are UTF-8 whatever the locale. The mode cannot be changed in a running process.
    """
    # With PYTHONUTF8=1 it was in vain (`python -E` ignores variables): no third start.
    if sys.getfilesystemencoding() == "utf-8" or os.environ.get("PYTHONUTF8") == "1":
        return
    os.environ["PYTHONUTF8"] = "1"
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def set_user_name() -> None:
    """Set USER where the system has no name for the user (`docker run --user 12345`): torch asks for one."""
    try:
        getpass.getuser()
    except (KeyError, OSError):  # OSError since Python 3.13
        os.environ["USER"] = f"uid-{os.getuid()}"


def limit_threads() -> None:
    """Set torch's number of threads to a container's quota: it counts the cores of the machine.

    More threads than the quota has time for wait for each other in every operation.
    """
    num_usable = num_usable_cores()
    if num_usable < len(os.sched_getaffinity(0)):
        os.environ.setdefault("OMP_NUM_THREADS", str(num_usable))


def num_busy_threads() -> int:
    """How many threads of other processes run all the time, on the whole machine; 0 where that is not known."""
    counts = []
    for _ in range(NUM_LOAD_SAMPLES):  # the least of some samples: other threads run for a moment
        with contextlib.suppress(OSError, ValueError, IndexError):
            counts.append(int(LOAD.read_text(encoding="utf-8").split()[3].split("/")[0]) - 1)  # this one runs, too
        time.sleep(LOAD_SAMPLE_EVERY_S)
    return max(0, min(counts, default=0))


def set_wait_policy() -> None:
    """Let torch's threads sleep while they wait for each other, where other processes keep their cores busy.

    By default they spin, which is faster on free cores. Beside a busy process a thread that spins uses up its share of
    a core, and all wait until it gets another one, in every operation.
    """
    if num_busy_threads() + num_usable_cores() > (os.cpu_count() or 1):
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def configure_allocator() -> None:
    """Let the segments of GPU memory grow: networks of other sizes follow one another, and fixed ones fragment."""
    if "PYTORCH_CUDA_ALLOC_CONF" not in os.environ:  # its name in older versions, which users may have set
        os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
