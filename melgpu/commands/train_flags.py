"""The flags of train.py beside those of every script."""

import argparse
from pathlib import Path

from melgpu import cli

EPILOG = """examples:
  python train.py --run runs/mine --recipe quick --labels music/      one network; a folder with one sub-folder a class
  python train.py --run runs/zalo --data audio/ --labels train.csv --test test.csv --private private.csv
  python train.py --run runs/mine --labels music/ --check             check the data set only
  python train.py --run runs/mine --labels music/ --labels-from-tags genre    labels and artists from tags
  python train.py --run runs/small --teacher runs/mine                one network that learns from a run's
  python train.py --run runs/mine                                     resume the current round
  python train.py --run runs/mine --data /new/music/                  go on after the music was moved
  python train.py --run runs/mine --backbone resnet50 --fold 2        this network and fold only
  torchrun --nproc-per-node 4 -- train.py --run runs/mine             on four GPUs (with the two dashes)

A new run needs --labels, or --teacher, which has tracks. Its recipe and tracks are saved in the run folder, and
later calls need only --run. Finished networks are skipped, an interrupted one is resumed."""


def parse_args(description: str) -> argparse.Namespace:
    parser = cli.parser(description, EPILOG)
    new = parser.add_argument_group("a new run")
    new.add_argument("--labels", type=Path, metavar="CSV_OR_DIR", help="training tracks: file,label or class folders")
    new.add_argument("--labels-from-tags", choices=("genre",), help="labels from this tag of the files of a folder")
    new.add_argument("--test", type=Path, metavar="CSV_OR_DIR", help="the public test set, source of pseudo labels")
    new.add_argument("--private", type=Path, metavar="CSV_OR_DIR", help="the private test set")
    data_help = "folder or URL of the files that the CSVs name; of an existing run: their new place"
    new.add_argument("--data", metavar="DIR_OR_URL", help=data_help)
    names = "zalo2019 (the default), student (that with --teacher), quick, demo, modern, scratch"
    recipe_help = f"{names} or a TOML file; several are merged"
    new.add_argument("--recipe", action="append", default=[], metavar="NAME_OR_FILE", help=recipe_help)
    teacher_help = "a finished run, whose answers a student learns; without --labels on its tracks"
    new.add_argument("--teacher", type=Path, metavar="RUN", help=teacher_help)
    new.add_argument("--check", action="store_true", help="only report on the data set: formats, duplicates, problems")
    part = parser.add_argument_group("part of a round")
    part.add_argument("--backbone", help="train this network only")
    part.add_argument("--fold", type=int, help="train this fold only")
    return parser.parse_args()
