"""Predict with a run's networks: the tracks that stacking needs, or any music files."""

import argparse
from pathlib import Path

from melgpu import cli
from melgpu.errors import InputError

EPILOG = """examples:
  python predict.py --run runs/mine                                 all tracks of the run, for stacking
  python predict.py --run runs/mine song.mp3 folder/                classify new music
  python predict.py --run runs/mine folder/ --out genres.csv        all probabilities (or .parquet, .jsonl)
  python predict.py --run runs/mine folder/ --min-confidence 0.8    unsure where no class is that likely
  python predict.py --run runs/mine concert.flac --timeline when/   classes over time (files of any length)
  python predict.py --run runs/mine folder/ --embed vectors.parquet vectors for a search of similar music

Music files are predicted by the latest stacked round: all its networks and the recipe's final predictor."""


def parse_args() -> argparse.Namespace:
    parser = cli.parser(__doc__, EPILOG)
    parser.add_argument("music", nargs="*", metavar="FILE_OR_DIR", help="music files or URLs, or folders of music")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write all probabilities: .csv, .parquet or .jsonl")
    unsure = "unsure in place of a label less probable than P (0 to 1); report.html shows what a P keeps"
    parser.add_argument("--min-confidence", type=float, metavar="P", help=unsure)
    parser.add_argument("--timeline", type=Path, metavar="DIR", help="write probabilities over time: CSV and PNG")
    parser.add_argument("--embed", type=Path, metavar="FILE.parquet", help="write an embedding of each file")
    return parser.parse_args()


def check_flags(args: argparse.Namespace) -> None:
    """Raise InputError where flags do not go together, or a file cannot be written; imports no torch."""
    from melgpu.prediction import table

    flags = [flag for flag in ("out", "min_confidence", "timeline", "embed") if getattr(args, flag) is not None]
    names = [f"--{flag.replace('_', '-')}" for flag in flags]
    if names and not args.music:
        raise InputError(f"{name} needs music files to predict" for name in names)
    if (args.timeline or args.embed) and len(names) > 1:
        raise InputError(f"{names[-1]} writes files of its own and goes without {names[0]}")
    if args.min_confidence is not None and not 0 <= args.min_confidence <= 1:
        raise InputError(f"--min-confidence {args.min_confidence:g}: not a number from 0 to 1")
    if args.out:
        table.check_out(args.out)
    if args.embed:
        table.check_embed(args.embed)


def main() -> int:
    args = parse_args()
    check_flags(args)
    # After the flags are parsed, so that --help answers without importing torch.
    from melgpu import console, distributed
    from melgpu.prediction import music
    from melgpu.prediction.round import predict_round
    from melgpu.runs import environment
    from melgpu.runs.folder import open_run

    with distributed.init_distributed(cli.select_device(args.device)) as device:
        console.set_quiet(not distributed.is_main_process())
        run = open_run(args.run, args.overrides, args.without_pseudo)
        # A speed that was measured elsewhere changes no result, so this is only a note.
        if note := environment.tuning_mismatch(run.recipe.machine.tuned_on, device):
            console.say(note)
        if not args.music:  # the tracks that stacking needs
            predict_round(run, device)
            return 0
        if distributed.world_size() > 1:
            raise InputError("new music is predicted by one process: leave torchrun out")
        if args.timeline:
            return 2 if music.write_timelines(run, args.music, args.timeline, device) else 0
        if args.embed:
            return 2 if music.embed_files(run, args.music, args.embed, device) else 0
        return 2 if music.predict_files(run, args.music, args.out, device, args.min_confidence or 0.0) else 0


def command() -> None:
    """Run this script, and exit with its code."""
    cli.run(main)
