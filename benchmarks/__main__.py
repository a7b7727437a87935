"""One entry to all benchmarks: what is my machine's limit, what holds it back, what should I set?"""

import importlib
import sys

from benchmarks import flags
from melgpu import cli

STAGES = ("decode", "resample", "copy", "features", "stream", "train", "predict")
SUITE = """examples:
  python -m benchmarks                        the whole suite on this machine (minutes)
  python -m benchmarks --quick                a first look in under a minute: small pictures, two networks
  python -m benchmarks --only decode stream   some stages only
  python -m benchmarks --music ~/music --out mine.json --plots plots/
  python -m benchmarks tune --help            which settings are the fastest here? writes tuned.toml
  python -m benchmarks compare --help         how much faster than the ways that melgpu replaces?
  python -m benchmarks cost --help            how long will the whole recipe take here?
  python -m benchmarks readme                 write README.md's table of results anew

Each stage is measured alone, then overlapped, beside what the machine can do at most; the end says what limits, what
to change, and the gain to expect. A figure above its physical limit fails the run (exit code 1): something is wrong
with the measurement."""


def suite():
    parser = flags.arguments(__doc__, tracks=16, epilog=SUITE)
    parser.prog = "python -m benchmarks"
    parser.add_argument("--only", nargs="+", choices=STAGES, metavar="STAGE", help=f"of {', '.join(STAGES)}")
    parser.add_argument("--quick", action="store_true", help="a first look in under a minute")
    parser.add_argument("--plots", type=flags.Path, metavar="DIR", help="keep bars.png, curves.png and roofline.png")
    return parser


COMMANDS = {"suite": suite}


def main(given: list[str] | None = None) -> int:
    """Parse the flags (default: the process's own) and call the command's module."""
    given = sys.argv[1:] if given is None else given
    name = given[0] if given and given[0] in COMMANDS else "suite"
    args = COMMANDS[name]().parse_args(given[given[:1] == [name] :])
    return importlib.import_module(f"benchmarks.{name}").main(args)


if __name__ == "__main__":
    cli.run(main)
