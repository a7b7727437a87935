"""The flags of predict.py beside those of every script."""

import argparse
from pathlib import Path

EPILOG = """examples:
  python predict.py --run runs/mine                                 all tracks of the run, for stacking
  python predict.py --run runs/mine song.mp3 folder/                classify new music
  python predict.py --run runs/mine folder/ --out genres.csv        all probabilities (or .parquet, .jsonl)
  python predict.py --run runs/mine folder/ --min-confidence 0.8    unsure where no class is that likely
  python predict.py --run runs/mine folder/ --write-tags            labels as genre tags: shown; with --yes written
  python predict.py --run runs/mine concert.flac --timeline when/   classes over time (files of any length)
  python predict.py --run runs/mine folder/ --embed vectors.parquet vectors for a search of similar music
  python predict.py --run runs/mine folder/ --out genres.csv --gpus all      a process on each GPU
  python predict.py --list folder/ --write-list tracks.txt --parts 64        a list, for any scheduler
  python predict.py --run runs/mine --list tracks.txt --part 17/64 --out parts/
  python predict.py --merge parts/ --out genres.parquet

Music files are predicted by the latest stacked round: all its networks and the recipe's final predictor."""


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("music", nargs="*", metavar="FILE_OR_DIR", help="music files or URLs, or folders of music")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write all probabilities: .csv, .parquet or .jsonl")
    unsure = "unsure in place of a label less probable than P (0 to 1); report.html shows what a P keeps"
    parser.add_argument("--min-confidence", type=float, metavar="P", help=unsure)
    parser.add_argument("--timeline", type=Path, metavar="DIR", help="write probabilities over time: CSV and PNG")
    parser.add_argument("--embed", type=Path, metavar="FILE.parquet", help="write an embedding of each file")
    parser.add_argument("--write-tags", action="store_const", const=True, help="show the genre tags that --yes writes")
    parser.add_argument("--yes", action="store_const", const=True, help="write them, and confidences as comments")
    parser.add_argument("--gpus", choices=["all"], help="new music on all GPUs of this machine")
    parts = parser.add_argument_group("a list in parts")
    parts.add_argument("--list", type=Path, metavar="LIST", help="files or URLs: .txt, or a column of .csv, .parquet")
    parts.add_argument("--write-list", type=Path, metavar="LIST", help="write a list of the files in the folder --list")
    parts.add_argument("--part", metavar="I/N", help="which part of LIST, from 0; default: the scheduler's index")
    parts.add_argument("--parts", type=int, metavar="N", help="how many parts the list has")
    parts.add_argument("--format", choices=["parquet", "csv"], help="of parts; default: parquet, with pyarrow")
    copied = "an earlier table of this run: only new or changed files are predicted"
    parts.add_argument("--previous", type=Path, metavar="FILE.parquet", help=copied)
    parts.add_argument("--merge", type=Path, metavar="DIR", help="all parts in DIR to one table, --out")
