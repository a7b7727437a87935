"""What all parts of a folder have in common, in its parts.json: run, list, number of parts, format.

The first task writes it. A task of another run, list or number of parts is refused.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from melgpu import cli, files
from melgpu.errors import InputError
from melgpu.models import schema
from melgpu.models.schema import Count, NonNegative, Schema
from melgpu.prediction.table import RunDigests, TableMetadata

NAME = "parts.json"

Format = Literal["parquet", "csv"]


class Contract(Schema):
    """What all parts have in common.

    parts : how many; rows : of the list; list_path, run_path : absolute; list_sha256 : of the list's file
    """

    parts: Count
    rows: NonNegative
    list_path: str
    list_sha256: str
    run_path: str
    digests: RunDigests
    class_names: tuple[str, ...]
    min_confidence: float
    format: Format

    def differences(self, other: "Contract") -> Iterator[str]:
        """Why parts of the other one are no parts of this."""
        if self.list_sha256 != other.list_sha256:
            yield f"parts of another list ({self.list_path}, {self.rows:,} rows)"
        if self.parts != other.parts:
            yield f"{self.parts} parts, not {other.parts}"
        if (self.digests, self.class_names) != (other.digests, other.class_names):
            yield f"parts by another run, or by networks that have changed since ({self.run_path})"
        if self.min_confidence != other.min_confidence:
            yield f"parts with --min-confidence {self.min_confidence:g}"

    def part_rows(self, index: int) -> int:
        """The number of rows of a part."""
        return len(range(index, self.rows, self.parts))

    def part_path(self, folder: Path, index: int) -> Path:
        """The file of a part."""
        return folder / f"part-{index:05d}.{self.format}"

    def metadata(self, part: int | None = None) -> TableMetadata:
        """What the file of a part, or of all, says about itself."""
        return TableMetadata(digests=self.digests, list_sha256=self.list_sha256, part=part, parts=self.parts)

    def part_command(self, folder: Path, index: int) -> str:
        """The call that makes a part."""
        arguments = ["--run", self.run_path, "--list", self.list_path, "--part", f"{index}/{self.parts}"]
        arguments += ["--out", str(folder)]
        if self.min_confidence:
            arguments += ["--min-confidence", f"{self.min_confidence:g}"]
        return cli.command_line("predict", *arguments)


def read_contract(folder: Path) -> Contract | None:
    """The contract of a folder of parts; None where there is none yet. Raises InputError for a damaged one."""
    path = folder / NAME
    return schema.read_json(Contract, path) if path.exists() else None


def agree(folder: Path, contract: Contract, format_given: bool) -> Contract:
    """Write a folder's contract, or compare with what another task has written; returns the one that holds.

    Unless it was given, the format is that of the folder. Raises InputError where they differ.
    """
    if folder.is_file():
        raise InputError(f"--out {folder}: a file; name a folder for the parts")
    settled = read_contract(folder) or _write_first(folder, contract)
    problems = [f"{folder} has {difference}: name another --out" for difference in settled.differences(contract)]
    if format_given and settled.format != contract.format:
        problems.append(f"{folder} has parts in the format {settled.format}: leave --format out")
    if problems:
        raise InputError(problems)
    return settled


def _write_first(folder: Path, contract: Contract) -> Contract:
    """Write a contract where there is none; returns that of another task where that was faster."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / NAME
    own = folder / f".{NAME}.{os.uname().nodename}.{os.getpid()}"  # tasks of other machines write here, too
    files.write_text(own, contract.model_dump_json(indent=1) + "\n")
    try:
        os.link(own, path)  # unlike a rename it fails where the file exists
    except FileExistsError:
        pass
    except OSError:  # a file system without links
        if not path.exists():
            own.replace(path)
    finally:
        own.unlink(missing_ok=True)
    return schema.read_json(Contract, path)
