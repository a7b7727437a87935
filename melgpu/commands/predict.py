"""Predict with a run's networks: the tracks that stacking needs, or any music files."""

import argparse
from pathlib import Path

from melgpu import cli

EPILOG = """examples:
  python predict.py --run runs/mine                                 all tracks of the run, for stacking
  python predict.py --run runs/mine song.mp3 folder/                classify new music
  python predict.py --run runs/mine folder/ --out genres.csv        all probabilities as CSV
  python predict.py --run runs/mine concert.flac --timeline when/   classes over time (files of any length)

Music files are predicted by the latest stacked round: all its networks and the recipe's final predictor."""


def parse_args() -> argparse.Namespace:
    parser = cli.parser(__doc__, EPILOG)
    parser.add_argument("music", nargs="*", metavar="FILE_OR_DIR", help="music files or URLs, or folders of music")
    parser.add_argument("--out", type=Path, metavar="FILE.csv", help="write each file's probabilities of all classes")
    parser.add_argument("--timeline", type=Path, metavar="DIR", help="write probabilities over time: CSV and PNG")
    return parser.parse_args()


def main() -> int:
    args = parse_args()
    # After the flags are parsed, so that --help answers without importing torch.
    from melgpu import console, distributed
    from melgpu.errors import InputError
    from melgpu.prediction import music
    from melgpu.prediction.round import predict_round
    from melgpu.runs import environment
    from melgpu.runs.folder import open_run

    if args.out and not args.music:
        raise InputError("--out needs music files to predict")
    if args.timeline and (args.out or not args.music):
        raise InputError("--timeline needs music files to predict, and no --out: it writes a CSV for each")
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
        return 2 if music.predict_files(run, args.music, args.out, device) else 0


def command() -> None:
    """Run this script, and exit with its code."""
    cli.run(main)
