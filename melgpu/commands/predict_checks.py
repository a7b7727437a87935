"""Which flags of predict.py go together; imports no torch."""

import argparse

from melgpu.errors import InputError
from melgpu.prediction import table, tagging

PLAIN = ("out", "min_confidence", "write_tags", "yes", "timeline", "embed")  # with music files; the last two alone
# Of the flags that choose another work, those that go with it, beside --run, --set, --device and --without-pseudo.
MODES = {
    "merge": ("out",),
    "write_list": ("list", "parts"),
    "list": ("part", "parts", "out", "format", "previous", "min_confidence"),
    "gpus": ("music", "out", "previous", "min_confidence"),
}
NEEDED = {"merge": ("out",), "write_list": ("list",), "list": ("run", "out"), "gpus": ("run", "music", "out")}
SHARED = ("run", "overrides", "without_pseudo", "device")


def check_flags(args: argparse.Namespace) -> None:
    """Raise InputError where flags do not go together, or a file cannot be written."""
    given = [name for name, value in vars(args).items() if value not in (None, [], False) and name not in SHARED]
    mode = next((name for name in MODES if name in given), None)
    if mode:
        _check_mode(mode, given, args)
    else:
        _check_plain(given, args)
        tagging.requested(args.write_tags, args.yes)
    if args.min_confidence is not None and not 0 <= args.min_confidence <= 1:
        raise InputError(f"--min-confidence {args.min_confidence:g}: not a number from 0 to 1")
    if args.out and mode != "list":  # whose --out is a folder
        table.check_out(args.out)
    if args.embed:
        table.check_embed(args.embed)


def _check_mode(mode: str, given: list[str], args: argparse.Namespace) -> None:
    problems = [f"{_flag(mode)} goes without {_flag(name)}" for name in given if name not in (mode, *MODES[mode])]
    problems += [f"{_flag(mode)} needs {_flag(name)}" for name in NEEDED[mode] if not getattr(args, name)]
    if problems:
        raise InputError(problems)


def _check_plain(given: list[str], args: argparse.Namespace) -> None:
    names = [name for name in PLAIN if getattr(args, name) is not None]
    of_parts = [name for name in given if name not in ("music", *PLAIN)]
    if of_parts:
        raise InputError(f"{_flag(name)} needs --list" for name in of_parts)
    if not args.run:
        raise InputError("--run DIR is needed: the run folder")
    if names and not args.music:
        raise InputError(f"{_flag(name)} needs music files to predict" for name in names)
    if (args.timeline or args.embed) and len(names) > 1:
        raise InputError(f"{_flag(names[-1])} writes files of its own and goes without {_flag(names[0])}")


def _flag(name: str) -> str:
    return "music files" if name == "music" else f"--{name.replace('_', '-')}"
