"""Timing: warmed up, synchronised, repeated; medians and quartiles; and a description of the machine."""

import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path

import torch
from rich.console import Console

from melgpu import files
from melgpu.machine import num_usable_cores
from melgpu.runs import environment

SCHEMA = 2  # 2: driver and cores
TOLERANCE = 1.03  # times a limit, which is a measurement as well


def measure(call: Callable[[], object], device: torch.device, seconds: float = 1.0, min_calls: int = 5) -> list[float]:
    """Seconds of each call: two calls to warm up, then at least `min_calls` calls and about `seconds` in all."""
    for _ in range(2):
        call()
    samples: list[float] = []
    while len(samples) < min_calls or sum(samples) < seconds:
        synchronize(device)
        started = time.perf_counter()
        call()
        synchronize(device)
        samples.append(time.perf_counter() - started)
    return samples


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def median_and_quartiles(samples: list[float]) -> tuple[float, float, float]:
    """Median, and the first and third quartile."""
    if len(samples) == 1:
        return samples[0], samples[0], samples[0]
    low, median, high = statistics.quantiles(samples, n=4)
    return median, low, high


def reset_peak_memory(device: torch.device) -> float:
    """Reset the peak; returns the MiB in use now."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device) / 2**20
    Path("/proc/self/clear_refs").write_text("5")
    return _status_mib("VmRSS")


def peak_memory(device: torch.device) -> float:
    """Peak MiB since `reset_peak_memory`."""
    return torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else _status_mib("VmHWM")


def memory_in_use(device: torch.device) -> float:
    """MiB in use now."""
    return torch.cuda.memory_allocated(device) / 2**20 if device.type == "cuda" else _status_mib("VmRSS")


def _status_mib(key: str) -> float:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) / 1024


def load_warning(load: float) -> str:
    """A warning where other processes load the machine, by its load average before anything is measured; else empty."""
    if load <= num_usable_cores():
        return ""
    message = f"warning: load average {load:.1f} on {num_usable_cores()} cores: other processes load this machine"
    return f"{message}, these numbers are not to be kept"


def describe_machine(device: torch.device) -> dict:
    """Device, driver, versions, commit, date and load average of a result; to be called before anything is measured.

    Warns where other processes load the machine.
    """
    load = os.getloadavg()[0]
    if load_warning(load):
        print(load_warning(load), file=sys.stderr)
    return metadata(device)


def metadata(device: torch.device) -> dict:
    """Device, driver, versions, commit, date and load average of a result."""
    return {
        **environment.describe(device).model_dump(),
        "device": environment.device_name(device),
        "schema": SCHEMA,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "driver": environment.driver_version(device),
        "cores": num_usable_cores(),
        "load_average": round(os.getloadavg()[0], 2),
        "threads": torch.get_num_threads(),
    }


def console() -> Console:
    """A console for tables: as wide as the terminal, or 132 columns where there is none."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else 132)


def exceeds_limit(row: dict) -> bool:
    """Whether a row's rate exceeds its physical limit; None is no limit."""
    return row["windows_per_s"] > TOLERANCE * (row["limit_windows_per_s"] or float("inf"))


def finish(result: dict, out: Path | None, implausible: Iterable[str]) -> int:
    """Save a result, print it as the last line of the output (JSON), and return the exit code: 1 beyond a limit."""
    if out:
        files.write_text(out, json.dumps(result, indent=1) + "\n")
    names = list(implausible)
    for name in names:
        print(f"implausible: {name} is faster than its limit", file=sys.stderr)
    if not sys.stdout.isatty():  # a terminal has shown the table
        print(json.dumps(result))
    return 1 if names else 0
