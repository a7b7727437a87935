"""Write one trained network of a run to a file that needs no melgpu: waveforms in, class probabilities out."""

import argparse
import importlib.util
import os
from pathlib import Path

from melgpu import cli, files
from melgpu.errors import InputError

FORMATS = ("onnx", "pt2")
EXTRA = ("onnx", "onnxscript", "onnxruntime")
EPILOG = """examples:
  melgpu-export --run runs/mine model.onnx                           windows (B, T) -> probabilities (B, C)
  melgpu-export --run runs/mine song.onnx --track                    a track (T,) of any length -> (C,)
  melgpu-export --run runs/mine model.pt2 --format pt2               for torch.export.load
  melgpu-export --run runs/zalo model.onnx --backbone resnet50 --fold 2
  melgpu-export --run runs/mine small.onnx --int8 --audio music/*.mp3

The file is checked by music before it gets its name, and refused where its probabilities differ by more than 0.001."""


def parse_args() -> argparse.Namespace:
    parser = cli.base_parser(__doc__, EPILOG)
    parser.add_argument("out", type=Path, metavar="FILE", help="the file to write")
    parser.add_argument("--format", choices=FORMATS, default="onnx", help="default: onnx")
    parser.add_argument("--track", action="store_true", help="a whole track: repeat or cut, windows, their mean")
    parser.add_argument("--backbone", help="this network, of a run with several")
    parser.add_argument("--fold", type=int, help="of this fold")
    small = parser.add_mutually_exclusive_group()
    small.add_argument("--half", action="store_true", help="the network in float16; the front end stays in float32")
    small.add_argument("--int8", action="store_true", help="the network's weights in 8 bits, computed in float32")
    parser.add_argument("--audio", nargs="+", default=[], metavar="MUSIC", help="check by these files, not the run's")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    _check(args)
    # After the flags are parsed and checked, so that --help and refusals need not import torch.
    from melgpu.export import exporter, selection
    from melgpu.export.metadata import ExportOptions, Precision
    from melgpu.runs.folder import open_run

    small_precision: Precision = "float16" if args.half else "int8"
    precision: Precision = small_precision if args.half or args.int8 else "float32"
    options = ExportOptions(args.format, "track" if args.track else "windows", precision)
    run = open_run(args.run, without_pseudo=args.without_pseudo)
    job = selection.select_job(run, args.backbone, args.fold)
    exporter.export_network(run, job, options, args.out, args.audio)


def _check(args: argparse.Namespace) -> None:
    problems = []
    suffix = args.out.suffix[1:]
    if suffix != args.format:
        remedy = f"; for this one give --format {suffix}" if suffix in FORMATS else ""
        problems.append(f"{args.out}: a file of --format {args.format} is named *.{args.format}{remedy}")
    problems += _unwritable(args.out)
    if args.int8 and args.format == "pt2":
        problems.append("--int8 goes without --format pt2: only ONNX files have such weights")
    missing = [name for name in EXTRA if not importlib.util.find_spec(name)]
    if args.format == "onnx" and missing:
        problems.append(f"an ONNX file needs {', '.join(missing)}: pip install 'melgpu[export]'")
    if problems:
        raise InputError(problems)


def _unwritable(out: Path) -> list[str]:
    """Why a file cannot be written, which else would fail only after all the work."""
    if out.is_dir():
        return [f"{out}: a folder; name a file in it"]
    parent = files.existing_parent(out.parent)  # the others are made
    if not parent.is_dir():
        return [f"{out}: {parent} is not a folder; name another file"]
    if not os.access(parent, os.W_OK | os.X_OK):
        return [f"{out}: {parent} is not writable; name another file"]
    return []


def command() -> None:
    """Run this command, and exit with its code."""
    cli.run(main)


if __name__ == "__main__":
    command()
