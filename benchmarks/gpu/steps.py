"""The steps in the order of what matters most, each with its limits; imports no torch."""

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.gpu.setting import Measurement, Setting


@dataclass(frozen=True)
class Step:
    """A question; `limit_s` for all of its rows, `row_limit_s` for one, on a GPU.

    `function` is `module:name`: from the setting to the measurements.
    """

    name: str
    title: str
    function: str
    limit_s: float
    row_limit_s: float


def load(function: str) -> Callable[["Setting"], Iterator["Measurement"]]:
    """A step's function, whose module imports torch."""
    module, name = function.split(":")
    return getattr(importlib.import_module(module), name)


def _step(name: str, title: str, function: str, limit_s: float, row_limit_s: float) -> Step:
    return Step(name, title, f"benchmarks.gpu.{function}", limit_s, row_limit_s)


STEPS = (
    _step("checks", "Compiler, driver, limits of the card", "checks:measurements", 75, 45),
    _step("tests", "Tests marked gpu", "checks:gpu_tests", 110, 105),
    _step("parity", "Engines against a float64 reference, on mp3", "features:parity_measurements", 45, 30),
    _step("features", "Waves to pictures", "features:measurements", 60, 20),
    _step("training", "Training steps: from files, from waves, on ready pictures", "training:measurements", 150, 50),
    _step("prediction", "The ensemble from files, and on ready pictures", "pipelines:prediction", 80, 80),
    _step("loader", "Files to batches", "pipelines:loader", 60, 40),
    _step("resume", "Killed, resumed, and compared with trainings that were not", "recovery:resume", 80, 80),
    _step("memory", "Out of memory", "recovery:memory", 45, 30),
    _step("channels_last", "Memory format of each network", "training:channels_last", 90, 30),
    _step("compile", "torch.compile of one network", "training:compiled", 120, 120),
)
NAMES = tuple(step.name for step in STEPS)
