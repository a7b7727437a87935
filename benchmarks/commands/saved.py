"""The result of a suite: rows merged with those of earlier calls in its file, which is written after each row."""

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks import measurement, timing
from melgpu import files
from melgpu.errors import InputError

# What two calls must share, so that their rows belong together.
SAME = (
    "device",
    "driver",
    "cores",
    "threads",
    "python",
    "packages",
    "recipe",
    "tracks",
    "workers",
    "batch_size",
    "precision",
    "quick",
    "engine",
)


class SavedSuite:
    """`result` is the content of the file; without a file nothing is written."""

    def __init__(self, path: Path | None, metadata: dict):
        """Raises InputError where a file exists that is of another machine, recipe or version."""
        self.path = path
        self.result: dict = {"benchmark": "suite", **metadata, "rows": [], "failed": [], "findings": []}
        self.last = ""  # what was measured last, for a message
        self._stamp = {"git_commit": metadata["git_commit"], "date": metadata["date"]}
        if path and path.exists():
            self._take_rows(path, read_suite(path))

    def _take_rows(self, path: Path, earlier: dict) -> None:
        different = [key for key in SAME if earlier.get(key) != self.result[key]]
        if different:
            raise InputError(f"{path}: measured elsewhere ({', '.join(different)} differ): choose another --out")
        self.result |= {key: earlier[key] for key in ("rows", "failed", "roofline", "findings") if key in earlier}

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """The block measures a stage anew: what it does not measure again is dropped at its end.

        An error while it prepares costs the stage.
        """
        before = [measured for measured in self.result["rows"] if measured["stage"] == name]
        self.result["failed"] = [failure for failure in self.result["failed"] if failure["stage"] != name]
        try:
            yield
        except Exception as error:  # a network or library that is missing, no memory
            self._fail(name, "preparing", error)
        else:
            stale = [id(measured) for measured in before]
            self.result["rows"] = [measured for measured in self.result["rows"] if id(measured) not in stale]
        self.write()

    def add(self, stage: str, way: str, measure: Callable[[], list[dict]]) -> None:
        """Measure rows and save them; an error is saved instead."""
        try:
            rows = measure()
        except Exception as error:  # each engine and library fails in its own way
            self._fail(stage, way, error)
        else:
            for measured in rows:
                self._replace(measured | self._stamp)
        self.write()

    def _replace(self, measured: dict) -> None:
        key = measured["stage"], measured["way"]
        self.result["rows"] = [row for row in self.result["rows"] if (row["stage"], row["way"]) != key]
        self.result["rows"].append(measured)
        self.last = f"{measured['way']}, {measured['windows_per_s']:,.1f} windows/s"

    def _fail(self, stage: str, way: str, error: Exception) -> None:
        reason = measurement.failure(error)
        self.result["failed"].append({"stage": stage, "way": way, "reason": reason})
        self.last = f"{way} failed: {reason}"

    def write(self) -> None:
        if self.path:
            files.write_text(self.path, json.dumps(self.result, indent=1) + "\n")


def read_suite(path: Path) -> dict:
    """A saved result of a suite. Raises InputError."""
    try:
        result = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a result of a benchmark ({error})") from None
    if not isinstance(result, dict) or result.get("benchmark") != "suite" or result.get("schema") != timing.SCHEMA:
        raise InputError(f"{path}: not a result of python -m benchmarks with schema {timing.SCHEMA}")
    return result
