"""All benchmarks: the limits of this machine, the bottleneck of each pipeline, the fastest settings."""

import argparse
import importlib
import sys
from pathlib import Path

from benchmarks.cli import make_parser
from benchmarks.gpu.steps import NAMES as STEPS
from melgpu import cli

STAGES = ("decode", "resample", "copy", "features", "loader", "train", "predict")
SUITE = """examples:
  python -m benchmarks                        the whole suite on this machine (minutes)
  python -m benchmarks --quick                a preview in under a minute: small pictures, two networks
  python -m benchmarks --only decode loader   some stages only
  python -m benchmarks --music ~/music --out mine.json --plots plots/
  python -m benchmarks tune --help            which settings are the fastest here? writes tuned.toml
  python -m benchmarks compare --help         how much faster than the baselines?
  python -m benchmarks cost --help            how long will the whole recipe take here?
  python -m benchmarks gpu --help             what does a GPU settle? nine minutes
  python -m benchmarks experiment --help      which settings are more accurate on your music?
  python -m benchmarks export --help          how large, fast and exact are a network's exported files?
  python -m benchmarks readme                 update README.md's tables of results

Each stage is measured alone, then overlapped, and compared with its physical limit; the summary names the bottleneck,
what to change, and the expected gain. A rate above its physical limit fails the run (exit code 1): the measurement is
wrong."""

TUNE = """Which settings are the fastest here? Tries worker processes, engines of the front end (those that pass the
parity gate on this device), its batch size, memory layout, torch.compile and the batch size of prediction, one after
another, each with the best of those before; writes the best to a TOML file, and compares it with the default.

It writes only settings that change nothing but speed. The batch size of training is not tried, as it changes
results."""
TUNE_EXAMPLES = """examples:
  python -m benchmarks tune                                     zalo2019 on this machine (tens of minutes)
  python -m benchmarks tune --quick                             a preview: small pictures, few values
  python -m benchmarks tune --recipe modern --write fast.toml   another recipe
  python train.py --run runs/mine --labels music/ --recipe zalo2019 --recipe tuned.toml   uses the result

An existing run takes them if its own recipes are named before; an engine other than the run's is rejected, as it is
part of the recipe's hash. A run warns if its settings were tuned on another device, driver or version."""

COMPARE = """How much faster than the baselines? The original solution's pipeline (librosa loads a file, matplotlib
plots each window's mel picture into a JPEG file, Pillow reads it back) and the front ends of other libraries
(torchaudio, torchlibrosa, stock nnAudio, librosa; NVIDIA DALI where it is installed), from the same files on the same
cores, in turn; as ratios with their range, with disk space and the waiting time until the first training step."""
COMPARE_EXAMPLES = """examples:
  python -m benchmarks compare                              two-minute mp3s, pictures of 512 pixels (minutes)
  python -m benchmarks compare --quick                      a preview
  python -m benchmarks compare --music ~/music --out compared.json --plot compared.png"""

COST = """How long will the whole recipe take here, and what does new music cost? Hours and GPU-hours of every training
and prediction on the competition's tracks; tracks a second by networks and views; hours, price and number of parts for
a thousand to a hundred million tracks, with decoding, pictures and networks apart. From rates that are measured now or
saved by the suite or by gpu; with all assumptions."""
COST_EXAMPLES = """examples:
  python -m benchmarks --out suite.json && python -m benchmarks cost --from suite.json
  python -m benchmarks cost                       measures the rates first (minutes)
  python -m benchmarks cost --from gpu.json --price 2.50    of an hour of that GPU
  python -m benchmarks cost --recipe modern"""

GPU = """What does a GPU settle? Compiler and driver, tests, exactness and speed of the front end, training from files,
the ensemble, the loader, resuming, running out of memory, memory formats, torch.compile: in steps, the most important
ones first, each saved as soon as it is measured. Ends with the table of claims: goal, measured, held or not.

The same command with the same file measures what is missing. A row that fails, crashes or takes too long is said to,
and costs nothing else. On a CPU everything is small and no claim is settled."""
GPU_EXAMPLES = """examples:
  python -m benchmarks gpu --out benchmarks/results/gpu-my-card.json
  python -m benchmarks gpu --minutes 4 --only features training    these steps anew
  python -m benchmarks gpu --wheels                                what a bare machine needs, as name==version
  pip download --no-deps --only-binary=:all: --python-version 3.12 --platform manylinux_2_28_x86_64 \\
    --platform manylinux_2_27_x86_64 --platform manylinux2014_x86_64 -d wheels $(python -m benchmarks gpu --wheels)"""

EXPERIMENT = """Which settings are more accurate on your music? Trains a base recipe and variants of it on the same
folds with the same seeds, and compares each with the base on the same tracks, with 95 % intervals by bootstrap over
tracks and the smallest difference that could have been seen.

A cell, one training, is saved when it is finished, as class probabilities of its validation and test tracks with all
settings, commit and machine; the same command makes those that are missing and resumes one that was killed. Several
processes can share a folder. The table of the finished cells is also written, as results.json and table.md."""
EXPERIMENT_EXAMPLES = """examples:
  python -m benchmarks experiment variants.toml --labels music/ --folder runs/compared
  python -m benchmarks experiment variants.toml --folder runs/compared --labels music/ --only base mixup
  python -m benchmarks experiment variants.toml --folder runs/compared --only       the table alone

variants.toml:
  folds = [0, 1, 2]
  seeds = [0]
  [base]
  recipes = ["quick"]
  backbone.pretrained = true
  optim.max_epochs = 9
  [variants.mixup]
  augment.mixup_alpha = 0.2
  [variants.scratch]
  recipes = ["scratch"]"""

EXPORT = """How large, fast and exact are the files that melgpu-export writes of a network? Exports it in all formats
and precisions to a temporary folder, and gives the network in PyTorch and the files the same windows in turn, one at
a time, on the CPU, with the same number of threads. The windows are of tracks that the network was not trained on,
three of each."""
EXPORT_EXAMPLES = """examples:
  python -m benchmarks export --run runs/mine
  python -m benchmarks export --run runs/zalo --backbone resnet50 --fold 2 --out exported.json"""

README_EXAMPLES = """examples:
  python -m benchmarks --out benchmarks/results/suite-my-gpu.json
  python -m benchmarks readme
  make demo && python -m benchmarks readme --demo runs/demo    the table of the demo"""


def suite() -> argparse.ArgumentParser:
    parser = _parser("", __doc__, SUITE)
    parser.add_argument("--only", nargs="+", choices=STAGES, metavar="STAGE", help=f"of {', '.join(STAGES)}")
    parser.add_argument("--plots", type=Path, metavar="DIR", help="save bars.png, curves.png and roofline.png")
    return parser


def tune() -> argparse.ArgumentParser:
    parser = _parser(" tune", TUNE, TUNE_EXAMPLES)
    parser.add_argument(
        "--write", type=Path, default=Path("tuned.toml"), metavar="FILE.toml", help="default: tuned.toml"
    )
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="save a plot")
    return parser


def compare() -> argparse.ArgumentParser:
    parser = _parser(" compare", COMPARE, COMPARE_EXAMPLES)
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="save a plot")
    return parser


def cost() -> argparse.ArgumentParser:
    parser = _parser(" cost", COST, COST_EXAMPLES)
    saved = "a result of the suite or of gpu, saved by --out"
    parser.add_argument("--from", type=Path, dest="result_file", metavar="FILE.json", help=saved)
    parser.add_argument("--price", type=float, metavar="P", help="of an hour of the GPU, or without one of the machine")
    return parser


def gpu() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m benchmarks gpu",
        description=GPU,
        epilog=GPU_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--minutes", type=float, default=9.0, help="stop after so many (default: 9)")
    parser.add_argument("--only", nargs="+", choices=STEPS, metavar="STEP", help=f"anew, of {', '.join(STEPS)}")
    parser.add_argument("--wheels", action="store_true", help="list the packages that a bare machine needs, and stop")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, ...; default: a GPU where there is one")
    parser.add_argument(
        "--out", type=Path, default=Path("gpu.json"), metavar="FILE.json", help="the result (default: gpu.json)"
    )
    return parser


def experiment() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m benchmarks experiment",
        description=EXPERIMENT,
        epilog=EXPERIMENT_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("variants", type=Path, metavar="VARIANTS.toml", help="base, variants, folds and seeds")
    parser.add_argument(
        "--folder", type=Path, required=True, metavar="DIR", help="for cells, results and decoded audio"
    )
    for flag, tracks in (("labels", "training tracks"), ("test", "a test set"), ("private", "another test set")):
        parser.add_argument(f"--{flag}", type=Path, metavar="CSV_OR_DIR", help=f"{tracks}, as of train.py")
    parser.add_argument("--data", metavar="DIR_OR_URL", help="folder or URL of the files that the CSVs name")
    parser.add_argument(
        "--set", action="append", default=[], dest="overrides", metavar="TABLE.KEY=VALUE", help="in all cells"
    )
    parser.add_argument("--only", nargs="*", metavar="VARIANT", help="make only their cells; without a name: none")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, ...; default: a GPU where there is one")
    return parser


def export() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m benchmarks export",
        description=EXPORT,
        epilog=EXPORT_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--run", type=Path, required=True, metavar="RUN", help="a run with a trained network")
    parser.add_argument("--backbone", help="this network, of a run with several")
    parser.add_argument("--fold", type=int, help="of this fold")
    parser.add_argument("--tracks", type=int, default=32, help="number of its validation tracks (default: 32)")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="save the result")
    return parser


def readme() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m benchmarks readme",
        description="Updates README.md's tables of results from the JSON in benchmarks/results/.",
        epilog=README_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    demo = "save the result of this finished run of make demo first"
    parser.add_argument("--demo", type=Path, metavar="RUN", help=demo)
    return parser


def _parser(command: str, description: str, examples: str) -> argparse.ArgumentParser:
    parser = make_parser(description, tracks="16, on a GPU 128", epilog=examples)
    parser.prog = f"python -m benchmarks{command}"
    parser.add_argument("--quick", action="store_true", help="a preview: the demo's small pictures, two networks")
    return parser


COMMANDS = {
    "suite": suite,
    "tune": tune,
    "compare": compare,
    "cost": cost,
    "gpu": gpu,
    "experiment": experiment,
    "export": export,
    "readme": readme,
}
# Where it is not in benchmarks.commands.
MODULES = {"experiment": "benchmarks.experiments.command", "export": "benchmarks.export.command"}


def main(argv: list[str] | None = None) -> int:
    """Parse the flags (default: those of the process) and call the command's module."""
    argv = sys.argv[1:] if argv is None else argv
    name = argv[0] if argv and argv[0] in COMMANDS else "suite"
    args = COMMANDS[name]().parse_args(argv[argv[:1] == [name] :])
    return importlib.import_module(MODULES.get(name, f"benchmarks.commands.{name}")).main(args)


if __name__ == "__main__":
    cli.run(main)
