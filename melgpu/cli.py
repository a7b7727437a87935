"""The flags that all scripts share, signal handling and exit codes.

Exit codes: 0 success, 1 a failure of the machine (disk, device), 2 wrong input (all problems are listed), 130
interrupted. Imports nothing heavy, so that `--help` is fast.
"""

import argparse
import io
import os
import re
import shlex
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from melgpu import process

if TYPE_CHECKING:
    import torch


class _StoreOnce(argparse.Action):
    """Store a flag's value; reject a second one, which argparse would silently store instead."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        if getattr(namespace, self.dest) is not self.default:
            raise argparse.ArgumentError(self, "given twice; the second value would replace the first")
        setattr(namespace, self.dest, values)


def base_parser(description: str | None, epilog: str, needs_run: bool = True) -> argparse.ArgumentParser:
    """An argument parser with the flags that say which run; without `needs_run` a call may leave `--run` out."""
    base = argparse.ArgumentParser(
        description=description, epilog=_as_called(epilog), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    base.register("action", None, _StoreOnce)  # the action of flags that name none
    base.add_argument(
        "--run", type=Path, required=needs_run, metavar="DIR", help="the run folder; everything is written there"
    )
    base.add_argument(
        "--without-pseudo",
        action="store_true",
        help="later rounds without pseudo labels, beside those with them, for a comparison in report.html",
    )
    return base


def parser(description: str, epilog: str, needs_run: bool = True) -> argparse.ArgumentParser:
    """An argument parser with the flags of every script."""
    shared = base_parser(description, epilog, needs_run)
    shared.add_argument(
        "--set",
        action="append",
        default=[],
        dest="overrides",
        metavar="TABLE.KEY=VALUE",
        help="override one setting of the recipe; of an existing run only loader and machine (speed) can change; by "
        "stack.py also stacking",
    )
    shared.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, ...; default: a GPU if there is one")
    return shared


def is_installed() -> bool:
    """Whether this process is an installed command, `melgpu-train`, rather than a script, `train.py`."""
    return Path(sys.argv[0]).name.startswith("melgpu-")


def command_line(script: str, *arguments: str) -> str:
    """A call of `train`, `predict` or `stack` in the form in which this process was called, quoted for the shell."""
    program = f"melgpu-{script}" if is_installed() else f"python {script}.py"
    return f"{program} {shlex.join(arguments)}"


def _as_called(examples: str) -> str:
    """Examples of calls of the scripts, in the form in which this process was called."""
    if not is_installed():
        return examples
    return re.sub(r"-- (\w+)\.py", r"--no-python -- melgpu-\1", re.sub(r"python (\w+)\.py", r"melgpu-\1", examples))


def run(main: Callable[[], int | None]) -> None:
    """Call a script's main and exit with its code; errors that users can fix are printed without a traceback."""
    from melgpu.errors import InputError, is_out_of_memory

    process.prepare()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # like Ctrl-C: with cleanup and code 130
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a file name that the terminal cannot show ends no script
    try:
        code = main() or 0
    except InputError as error:
        for problem in error.problems:
            print(f"error: {problem}", file=sys.stderr)
        if len(error.problems) > 1:
            print(f"{len(error.problems)} problems", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print("interrupted; finished work is saved, and the same command resumes from there", file=sys.stderr)
        code = 130
    except (OSError, RuntimeError) as error:
        if not isinstance(error, OSError) and not is_out_of_memory(error):
            raise
        print(f"error: {_describe(error)}", file=sys.stderr)
        code = 1
    sys.exit(code)


def _describe(error: Exception) -> str:
    """An error's text; of an OSError the file and the system's reason, where it has them."""
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{os.fsdecode(error.filename)}: {error.strerror}"
    return str(error)


class GracefulStop:
    """Turns SIGINT and SIGTERM into the flag `requested`; a second signal raises KeyboardInterrupt at once."""

    requested = False

    def __enter__(self) -> "GracefulStop":
        signals = (signal.SIGINT, signal.SIGTERM)
        self._previous_handlers = {signum: signal.signal(signum, self._handle) for signum in signals}
        return self

    def __exit__(self, *exc: object) -> None:
        for signum, handler in self._previous_handlers.items():
            signal.signal(signum, handler)

    def _handle(self, *signal_and_frame: object) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        print("stopping after this step; a second signal stops at once", file=sys.stderr)


def select_device(name: str) -> "torch.device":
    """The torch device of a name; `auto` is a GPU if there is one, under torchrun that of the local rank.

    Raises InputError.
    """
    import torch

    from melgpu.errors import InputError

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and "LOCAL_RANK" in os.environ:
        # Before the first use: each process would keep some hundred MB of the first GPU for its context.
        name = f"cuda:{os.environ['LOCAL_RANK']}"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)  # a name of a device that does not exist fails only here
        if device.index is not None and device.type == "cuda":
            torch.cuda.set_device(device)  # Triton's kernels and NCCL run on the current one
    except (RuntimeError, AssertionError) as error:  # AssertionError: a torch without CUDA
        raise InputError(f"--device {name}: {str(error).splitlines()[0]}") from None
    return device
