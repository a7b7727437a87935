"""The result of `benchmarks gpu`: steps, their rows and the claims, in a JSON file that is written after each row."""

import json
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.gpu.claims import claims
from melgpu import files
from melgpu.errors import InputError

SCHEMA = 1
SAME = ("device", "driver", "cores", "small")  # of two calls whose steps belong to one result


class GpuResult:
    """`data` is the content of the file."""

    def __init__(self, path: Path):
        """The result in a file, of an earlier call, or an empty one. Raises InputError for another file."""
        self.path = path
        self.data: dict = {"benchmark": "gpu", "gpu_schema": SCHEMA, "steps": {}}
        self._commit: str | None = None
        if path.exists():
            self.data = _read(path)

    @property
    def small(self) -> bool:
        """Whether it was measured on a CPU, which settles nothing."""
        return self.data["small"]

    def set_machine(self, machine: dict) -> None:
        """What the worker says of machine and recipe. Raises InputError where the file's steps are of another."""
        different = [key for key in SAME if self.data["steps"] and self.data[key] != machine[key]]
        if different:
            raise InputError(f"{self.path}: measured on another machine ({', '.join(different)}): choose another --out")
        self._commit = machine["git_commit"]
        self.data |= machine
        self._write()

    def is_done(self, step: str) -> bool:
        """Whether a step has ended, and none of its rows failed, except for packages that are not installed."""
        record = self.data["steps"].get(step)
        if not record or not record["done"]:
            return False
        return not any("error" in row and not row.get("not_installed") for row in record["rows"].values())

    def forget(self, step: str) -> None:
        """Drop a step, to be measured anew."""
        self.data["steps"].pop(step, None)

    def measured(self, step: str) -> list[str]:
        """The rows of a step that need not be measured again: those without an error, of this commit."""
        record = self._record(step)
        return [name for name, row in record["rows"].items() if "error" not in row]

    def add_row(self, step: str, name: str, row: dict) -> None:
        self._record(step)["rows"][name] = row
        self._write()

    def end(self, step: str, reason: str, seconds: float = 0.0) -> None:
        """Mark a step as done, or say why it is not."""
        record = self._record(step)
        date = datetime.now(UTC).isoformat(timespec="seconds")
        record |= {"done": not reason, "reason": reason, "date": date}
        record["seconds"] = round(record["seconds"] + seconds, 1)
        self._write()

    def _record(self, step: str) -> dict:
        """A step's record; one of another commit is dropped, since its rows would not belong to the new ones."""
        record = self.data["steps"].get(step)
        if record is None or record["git_commit"] != self._commit:
            record = {"git_commit": self._commit, "done": False, "reason": "", "seconds": 0.0, "rows": {}}
            self.data["steps"][step] = record
        return record

    def _write(self) -> None:
        self.data["claims"] = claims(self.data)
        files.write_text(self.path, json.dumps(self.data, indent=1) + "\n")


def _read(path: Path) -> dict:
    try:
        data = json.loads(files.read_text(path))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a result of python -m benchmarks gpu ({error})") from None
    if not isinstance(data, dict) or (data.get("benchmark"), data.get("gpu_schema")) != ("gpu", SCHEMA):
        raise InputError(f"{path}: not a result of python -m benchmarks gpu of this version: choose another --out")
    return data
