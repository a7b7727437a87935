"""The flags that all scripts share, and how they end.

Exit codes: 0 done, 1 the machine failed (disk, device), 2 the input is wrong (all problems are listed), 130
interrupted. Imports nothing heavy, so that `--help` answers at once.
"""

import argparse
import signal
import sys
from collections.abc import Callable
from pathlib import Path


class _StoreOnce(argparse.Action):
    """Keeps a flag's value; a second one would silently take its place."""

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        if getattr(namespace, self.dest) is not self.default:
            raise argparse.ArgumentError(self, "given twice; the second would take the place of the first")
        setattr(namespace, self.dest, values)


def parser(description: str, epilog: str) -> argparse.ArgumentParser:
    """A parser with the flags of every script."""
    shared = argparse.ArgumentParser(
        description=description, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    shared.register("action", None, _StoreOnce)
    shared.add_argument(
        "--run", type=Path, required=True, metavar="DIR", help="the run's folder; all it makes is there"
    )
    shared.add_argument(
        "--set",
        action="append",
        default=[],
        dest="overrides",
        metavar="TABLE.KEY=VALUE",
        help="change one setting of the recipe; of an existing run only stream and machine (speed) can change",
    )
    shared.add_argument(
        "--without-pseudo",
        action="store_true",
        help="later rounds without pseudo labels, beside those with them: report.html then shows what they change",
    )
    shared.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, ...; default: a GPU where there is one")
    return shared


def run(main: Callable[[], int | None]) -> None:
    """Call a script's main and end the process with its exit code, without a traceback for what users can mend."""
    from melgpu.errors import InputError

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        code = main() or 0
    except InputError as error:
        for problem in error.problems:
            print(f"error: {problem}", file=sys.stderr)
        if len(error.problems) > 1:
            print(f"{len(error.problems)} problems", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print("interrupted; what was finished is kept, and the same command goes on from there", file=sys.stderr)
        code = 130
    except (OSError, RuntimeError) as error:
        if not isinstance(error, OSError) and type(error).__name__ != "OutOfMemoryError":  # torch's
            raise
        print(f"error: {error}", file=sys.stderr)
        code = 1
    sys.exit(code)


class GracefulStop:
    """Whether the user or the system asked to stop; who asks twice does not wait for the work in hand."""

    requested = False

    def __enter__(self) -> "GracefulStop":
        self._before = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *exc) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, *signal_and_frame) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        print("stopping after this step; asked once more, at once", file=sys.stderr)


def select_device(name: str):
    """The torch device of a name; `auto` is a GPU where there is one. Raises InputError."""
    import torch

    from melgpu.errors import InputError

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
        if device.index is not None and device.type == "cuda":
            torch.cuda.set_device(device)  # Triton's kernels run on the current one
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"--device {name}: {str(error).splitlines()[0]}") from None
    return device
