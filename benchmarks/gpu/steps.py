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

    `function` is `module:name` in this package: from the setting to the measurements.
    """

    name: str
    title: str
    function: str
    limit_s: float
    row_limit_s: float

    def load(self) -> Callable[["Setting"], Iterator["Measurement"]]:
        """The function, whose module imports torch."""
        module, name = self.function.split(":")
        return getattr(importlib.import_module(f"benchmarks.gpu.{module}"), name)


STEPS = (
    Step("checks", "Compiler, driver, limits of the card", "checks:measurements", 75, 45),
    Step("tests", "Tests marked gpu", "checks:gpu_tests", 110, 105),
    Step("parity", "Engines against a float64 reference, on mp3", "features:parity_measurements", 45, 30),
    Step("features", "Waves to pictures", "features:measurements", 60, 20),
    Step("training", "Training steps: from files, from waves, on ready pictures", "training:measurements", 150, 50),
    Step("prediction", "The ensemble from files, and on ready pictures", "pipelines:prediction", 80, 80),
    Step("loader", "Files to batches", "pipelines:loader", 60, 40),
    Step("resume", "Killed, resumed, and compared with trainings that were not", "recovery:resume", 80, 80),
    Step("memory", "Out of memory", "recovery:memory", 45, 30),
    Step("channels_last", "Memory format of each network", "training:channels_last", 90, 30),
    Step("compile", "torch.compile of one network", "training:compiled", 120, 120),
)
NAMES = tuple(step.name for step in STEPS)
