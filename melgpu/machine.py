"""What this machine offers to a process: cores and memory, as its container and its affinity limit them."""

import os
from pathlib import Path

CGROUP_MEMORY_LIMIT = Path("/sys/fs/cgroup/memory.max")  # of cgroup 2; "max" without a limit


def usable_cores() -> int:
    """The cores that this process may use, by its affinity and its cgroup's CPU quota; at least 1."""
    import joblib  # only here: decoding processes need no count

    return joblib.cpu_count()


def memory_bytes() -> int:
    """The memory of the machine, or of the container if that is less."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        return min(total, int(CGROUP_MEMORY_LIMIT.read_text()))
    except (OSError, ValueError):  # no cgroup 2, or no limit
        return total
