"""One entry to all benchmarks: what is my machine's limit, what holds it back, what should I set?"""

import argparse
import importlib
import sys
from pathlib import Path

from benchmarks.cli import arguments
from melgpu import cli

STAGES = ("decode", "resample", "copy", "features", "loader", "train", "predict")
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

TUNE = """Which settings are the fastest here? Tries decoding processes, front end (engines that pass the parity gate on
this device), windows at once, memory layout, torch.compile, the batch of prediction and banks, one after another, each
with the best of those before; writes the best to a TOML file, and measures that against the default, in turn.

All that it writes changes speed only. The batch of training is not tried, for it changes results; whether there is a
bank changes the order of windows, so a gain there is told and not taken (unless the recipe has one already)."""
TUNE_EXAMPLES = """examples:
  python -m benchmarks tune                                     zalo2019 on this machine (tens of minutes)
  python -m benchmarks tune --quick                             a first look: small pictures, few values
  python -m benchmarks tune --recipe modern --write fast.toml   another recipe
  python train.py --run runs/mine --labels music/ --recipe zalo2019 --recipe tuned.toml   and then

A run that is there already trains by them if its own recipes are named before; another engine than its own is refused,
for the recipe's hash knows it. A run says so when its settings were tuned on another device, driver or version."""

COMPARE = """How much faster than the ways that melgpu replaces? The original solution's (librosa loads a file,
matplotlib draws each window's mel picture into a JPEG file, Pillow reads it back) and the front ends that people use
(torchaudio, torchlibrosa, stock nnAudio, librosa; NVIDIA DALI where it is installed), from the same files on the same
cores, in turn; as ratios with their spread, with disk space and the waiting time until the first training step."""
COMPARE_EXAMPLES = """examples:
  python -m benchmarks compare                              two-minute mp3s, pictures of 512 pixels (minutes)
  python -m benchmarks compare --quick                      a first look
  python -m benchmarks compare --music ~/music --out compared.json --plot compared.png"""

COST = """How long will the whole recipe take here? Hours and GPU-hours of every training and prediction on the
competition's tracks, and of judging a thousand, a hundred thousand and ten million tracks, from rates that are measured
now, or that a run of the suite has kept; with all that is assumed."""
COST_EXAMPLES = """examples:
  python -m benchmarks --out suite.json && python -m benchmarks cost --from suite.json
  python -m benchmarks cost                       measures what it needs first (minutes)
  python -m benchmarks cost --recipe modern"""

README_EXAMPLES = """examples:
  python -m benchmarks --out benchmarks/results/suite-my-gpu.json
  python -m benchmarks readme"""


def suite():
    parser = _parser("", __doc__, SUITE)
    parser.add_argument("--only", nargs="+", choices=STAGES, metavar="STAGE", help=f"of {', '.join(STAGES)}")
    parser.add_argument("--plots", type=Path, metavar="DIR", help="keep bars.png, curves.png and roofline.png")
    return parser


def tune():
    parser = _parser(" tune", TUNE, TUNE_EXAMPLES)
    parser.add_argument(
        "--write", type=Path, default=Path("tuned.toml"), metavar="FILE.toml", help="default: tuned.toml"
    )
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="keep a plot")
    return parser


def compare():
    parser = _parser(" compare", COMPARE, COMPARE_EXAMPLES)
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="keep a plot")
    return parser


def cost():
    parser = _parser(" cost", COST, COST_EXAMPLES)
    parser.add_argument(
        "--from", type=Path, dest="measured", metavar="FILE.json", help="what the suite's --out has kept"
    )
    return parser


def readme():
    return argparse.ArgumentParser(
        "python -m benchmarks readme",
        description="Writes README.md's table of results anew, from the JSON in benchmarks/results/.",
        epilog=README_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _parser(command: str, description: str, examples: str):
    parser = arguments(description, tracks="16, on a GPU 128", epilog=examples)
    parser.prog = f"python -m benchmarks{command}"
    parser.add_argument("--quick", action="store_true", help="a first look: the demo's small pictures, two networks")
    return parser


COMMANDS = {"suite": suite, "tune": tune, "compare": compare, "cost": cost, "readme": readme}


def main(given: list[str] | None = None) -> int:
    """Parse the flags (default: the process's own) and call the command's module."""
    given = sys.argv[1:] if given is None else given
    name = given[0] if given and given[0] in COMMANDS else "suite"
    args = COMMANDS[name]().parse_args(given[given[:1] == [name] :])
    return importlib.import_module(f"benchmarks.commands.{name}").main(args)


if __name__ == "__main__":
    cli.run(main)
