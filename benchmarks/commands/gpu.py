"""Everything that a GPU must settle: runs the steps, and prints their rows and the table of claims."""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from benchmarks.gpu import wheels
from benchmarks.gpu.result import GpuResult
from benchmarks.gpu.runner import Runner
from benchmarks.gpu.steps import STEPS, Step

END_S = 5.0  # of the minutes, for the tables at the end
HELD = {True: "yes", False: "NO", None: "-"}


def main(args: argparse.Namespace) -> int:
    """Run the steps that are missing in the file; 1 where one of them did not end, or a row failed."""
    deadline = time.monotonic() + 60 * args.minutes - END_S
    if args.wheels:
        print("\n".join(wheels.pinned()))
        return 0
    result = GpuResult(args.out)
    steps = [step for step in STEPS if step.name in args.only] if args.only else _missing(result)
    for step in steps if args.only else []:
        result.forget(step.name)
    if steps:
        with tempfile.TemporaryDirectory() as folder, Runner(result, args.device, Path(folder), deadline, _say) as run:
            run.run(steps)
    _print(result)
    return 0 if all(result.is_done(step.name) for step in steps) else 1


def _missing(result: GpuResult) -> list[Step]:
    """Steps that are not in the file, then those of which rows failed: they may fail again."""
    missing = [step for step in STEPS if not result.is_done(step.name)]
    return sorted(missing, key=lambda step: step.name in result.data["steps"])


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _print(result: GpuResult) -> None:
    """The rows of all steps, and the claims."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 150)
    for step in STEPS:
        record = result.data["steps"].get(step.name)
        if record:
            reason = f"; did not end: {record['reason']}" if record["reason"] else ""
            console.print(f"[bold]{step.title}[/bold] ({step.name}, {record['seconds']:.0f} s{reason})")
            for name, row in record["rows"].items():
                console.print(f"  {name}: {row.get('text') or 'failed: ' + row['error']}", markup=False, soft_wrap=True)
    console.print(make_table(result.data))
    if result.data["load_warning"]:
        console.print(result.data["load_warning"], markup=False)
    if result.small:
        console.print("No GPU: small pictures, networks and numbers of repetitions; this run settles no claim.")
    log = result.path.with_suffix(".log")
    console.print(f"{result.path} has all values, {log} the output; the same command measures what is missing.")


def make_table(data: dict) -> Table:
    """Goal, measured value and verdict of each claim."""
    table = Table(title=f"Claims on {data['device']}", box=SIMPLE)
    for column in ("claim", "goal", "measured", "held"):
        table.add_column(column)
    for claim in data["claims"]:
        table.add_row(claim["claim"], claim["goal"], claim["measured"], HELD[claim["held"]])
    return table
