"""A process that runs the steps it is told: requests as lines of JSON from stdin, rows as lines of JSON to a pipe.

    python -m benchmarks.gpu.worker DEVICE FOLDER FILE_DESCRIPTOR

Its output is the worker's log. The first message is `machine`; then come, for each row, `began` and `measured`, and for
each step `ended`.
"""

import gc
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks import measurement, timing
from benchmarks.gpu import setting, steps
from benchmarks.gpu.setting import Measurement, Setting
from melgpu import cli

DEVICE_LOST = 3  # the exit code after an error that no later call on the device survives
Send = Callable[[dict], None]


def describe(current: Setting) -> dict:
    """The machine and the recipe, for the result."""
    tables = current.recipe.model_dump(mode="json")
    kept = {name: tables[name] for name in ("audio", "windows", "mel", "loader", "machine")}
    machine = timing.describe_machine(current.device)
    machine["load_warning"] = timing.load_warning(machine["load_average"])
    return {**machine, "small": current.small, "networks": current.networks, "recipe": kept}


def run_step(function: str, skip: list[str], current: Setting, send: Send) -> None:
    """Measure the rows of a step but those to skip; what fails is said instead of its values."""
    try:
        for row in steps.load(function)(current):
            if row.name not in skip:
                send({"began": row.name})
                values = measure(row)
                free_memory(current.device, values.get("error", ""))
                send({"measured": row.name, "row": values})
    except Exception as error:  # while a step prepares its rows
        send({"ended": measurement.failure(error)})
    else:
        send({"ended": ""})


def measure(row: Measurement) -> dict:
    """A row's values, or `error`, and its seconds."""
    started = time.perf_counter()
    try:
        values = row.measure()
    except Exception as error:  # each engine and library fails in its own way
        values = {"error": measurement.failure(error), "not_installed": isinstance(error, ModuleNotFoundError)}
    return {**values, "seconds": round(time.perf_counter() - started, 2)}


def free_memory(device: torch.device, error_before: str) -> None:
    """Give a GPU's memory back; ends this process where an error has made the device unusable."""
    gc.collect()
    if device.type == "cuda":
        try:
            torch.cuda.synchronize(device)
            torch.cuda.empty_cache()
        except RuntimeError:
            print(f"the device is lost after {error_before}", file=sys.stderr, flush=True)
            os._exit(DEVICE_LOST)  # the interpreter's own end would hang in CUDA


def main() -> None:
    device, folder, descriptor = sys.argv[1:]
    with open(int(descriptor), "w", buffering=1) as messages:

        def send(message: dict) -> None:
            messages.write(json.dumps(message) + "\n")

        current = setting.make(cli.select_device(device), Path(folder))
        send({"machine": describe(current)})
        for line in sys.stdin:
            request = json.loads(line)
            run_step(request["function"], request["skip"], current, send)


if __name__ == "__main__":
    main()
