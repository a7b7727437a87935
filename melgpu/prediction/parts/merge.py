"""All parts of a folder to one table in the order of the list, in bounded memory."""

import contextlib
import itertools
import resource
from collections.abc import Generator, Sequence
from pathlib import Path

from melgpu import console
from melgpu.errors import InputError
from melgpu.prediction.parts.contract import NAME, Contract, read_contract
from melgpu.prediction.parts.table_reader import Row, read_metadata, read_rows
from melgpu.prediction.table import column_names
from melgpu.prediction.table_writer import TableWriter, open_table

BLOCK_ROWS = 8192  # that are written together
READ_ROWS = 2**16  # that are in memory, of all parts together
MAX_NAMED = 20  # missing parts in a message
SPARE_FILES = 64  # beside the parts, that are open
LABEL_COLUMN = 1


def merge_parts(folder: Path, out: Path) -> int:
    """Write the rows of all parts to `out`, which has passed `table.check_out`; returns the number of errors.

    Raises InputError with the parts that are missing, or that are not those of the folder's contract.
    """
    contract = read_contract(folder)
    if not contract:
        raise InputError(f"--merge {folder}: no {NAME} there: not a folder of parts")
    _check_parts(folder, contract)
    _allow_open_files(contract.parts)
    names = column_names(contract.class_names)
    error_column = names.index("error")
    num_errors = 0
    num_unusable = 0
    title = f"merging {console.counted(contract.parts, 'part')}"
    with contextlib.ExitStack() as stack:
        rows = stack.enter_context(contextlib.closing(_rows_in_order(folder, contract, names)))
        writer = stack.enter_context(open_table(out, names, contract.metadata().model_dump_json()))
        tracker = stack.enter_context(console.progress(title, contract.rows, "tracks"))
        while block := list(itertools.islice(rows, BLOCK_ROWS)):
            num_errors += sum(row[error_column] is not None for row in block)
            num_unusable += sum(row[LABEL_COLUMN] is None for row in block)
            _write(writer, names, block)
            tracker.advance(len(block))
    errors = f", {num_errors:,} with errors, {num_unusable:,} of them without usable audio" if num_errors else ""
    console.say(f"{console.counted(contract.rows, 'track')}{errors}: {out}")
    return num_errors


def _write(writer: TableWriter, names: Sequence[str], block: Sequence[Row]) -> None:
    writer.write(dict(zip(names, zip(*block, strict=True), strict=True)))


def _check_parts(folder: Path, contract: Contract) -> None:
    """Raise InputError where a part is missing, with the call that makes it, or is not one of the contract."""
    indices = range(contract.parts)
    missing = [index for index in indices if not contract.part_path(folder, index).exists()]
    if missing:
        problems = [
            f"part {index} of {contract.parts} is missing: {contract.part_command(folder.absolute(), index)}"
            for index in missing[:MAX_NAMED]
        ]
        if len(missing) > MAX_NAMED:
            problems.append(f"{len(missing) - MAX_NAMED:,} more parts are missing")
        problems.append(f"the missing parts as indices of an array: --array={array_indices(missing)}")
        raise InputError(problems)
    if contract.format == "parquet":  # a CSV has no metadata
        others = [contract.part_path(folder, index) for index in indices if not _is_of(folder, contract, index)]
        if others:
            raise InputError(f"{path}: not a part of {folder / NAME}: delete it" for path in others[:MAX_NAMED])


def _is_of(folder: Path, contract: Contract, index: int) -> bool:
    return read_metadata(contract.part_path(folder, index)) == contract.metadata(index)


def array_indices(indices: Sequence[int]) -> str:
    """Ascending numbers as a Slurm array: `3,7-9`."""
    ranges = []
    # Of consecutive numbers the difference to their position is the same.
    for _, group in itertools.groupby(enumerate(indices), lambda pair: pair[1] - pair[0]):
        run = [index for _, index in group]
        ranges.append(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}")
    return ",".join(ranges)


def _allow_open_files(num_parts: int) -> None:
    """Raise this process's limit of open files, where one file a part is more. Raises InputError where it cannot."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = num_parts + SPARE_FILES
    if soft >= needed or soft == resource.RLIM_INFINITY:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise InputError(f"{num_parts:,} parts are {needed:,} open files, and the system allows {hard:,} (ulimit -Hn)")
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def _rows_in_order(folder: Path, contract: Contract, names: Sequence[str]) -> Generator[Row]:
    """Row i of the list is the next one of part i mod N. Raises InputError for a part of another length."""
    rows_at_once = max(1, READ_ROWS // contract.parts)
    readers = [read_rows(contract.part_path(folder, index), names, rows_at_once) for index in range(contract.parts)]
    for position in range(contract.rows):
        index = position % contract.parts
        row = next(readers[index], None)
        if row is None:
            raise _wrong_length(folder, contract, index)
        yield row
    for index, reader in enumerate(readers):
        if next(reader, None) is not None:
            raise _wrong_length(folder, contract, index)


def _wrong_length(folder: Path, contract: Contract, index: int) -> InputError:
    path = contract.part_path(folder, index)
    command = contract.part_command(folder.absolute(), index)
    return InputError(f"{path}: not {contract.part_rows(index):,} rows: delete it, and make it again by {command}")
