"""What this machine offers to a process: cores and memory, as its container and its affinity limit them."""

import contextlib
import math
import os
from pathlib import Path

# Of cgroup 2, and of the container itself, whose view of the tree ends there; "max" is no limit.
CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # "200000 100000" are two cores
MEMORY_LIMIT = Path("/sys/fs/cgroup/memory.max")


def num_usable_cores() -> int:
    """How many cores this process may use: those it is bound to (taskset, Slurm), or a container's quota of them."""
    num_cores = len(os.sched_getaffinity(0))
    with contextlib.suppress(OSError, ValueError):  # no such file outside a container; ValueError: no limit
        quota, period = map(int, CPU_QUOTA.read_text(encoding="utf-8").split())
        return min(num_cores, max(1, math.ceil(quota / period)))
    return num_cores


def memory_bytes() -> int:
    """The memory of the machine, or of the container if that is less."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with contextlib.suppress(OSError, ValueError):  # as above
        return min(total, int(MEMORY_LIMIT.read_text(encoding="utf-8")))
    return total
