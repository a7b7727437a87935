"""Train the networks of a run's current round."""

import argparse
from pathlib import Path

from melgpu import cli

EPILOG = """examples:
  python train.py --run runs/mine --labels music/                     a folder with one sub-folder a class
  python train.py --run runs/zalo --data audio/ --labels train.csv --test test.csv --private private.csv
  python train.py --run runs/mine --labels music/ --check             what is in there? nothing is made
  python train.py --run runs/mine                                     go on with the current round
  python train.py --run runs/mine --backbone resnet50 --fold 2        just this network and fold
  torchrun --nproc-per-node 4 -- train.py --run runs/mine             on four GPUs (mind the two dashes)

A new run needs --labels; its recipe (default: zalo2019) and tracks are kept in the run's folder, and later calls need
only --run. Finished networks are skipped, an interrupted one goes on where it was."""


def parse_args() -> argparse.Namespace:
    parser = cli.parser(__doc__, EPILOG)
    new = parser.add_argument_group("a new run")
    new.add_argument("--labels", type=Path, metavar="CSV_OR_DIR", help="training tracks: file,label or class folders")
    new.add_argument("--test", type=Path, metavar="CSV_OR_DIR", help="the public test set, source of pseudo labels")
    new.add_argument("--private", type=Path, metavar="CSV_OR_DIR", help="the private test set")
    new.add_argument("--data", metavar="DIR_OR_URL", help="where the files that the CSVs name lie")
    new.add_argument(
        "--recipe",
        action="append",
        default=[],
        metavar="NAME_OR_FILE",
        help="zalo2019 (the default), demo, modern, scratch or a TOML file; several are laid over each other",
    )
    new.add_argument("--check", action="store_true", help="only look: list what is odd or wrong with the tracks")
    part = parser.add_argument_group("part of a round")
    part.add_argument("--backbone", help="train this network only")
    part.add_argument("--fold", type=int, help="train this fold only")
    return parser.parse_args()


def main() -> int:
    args = parse_args()
    from melgpu import console, distributed
    from melgpu.runs import setup
    from melgpu.training.round import train_round

    source = setup.Sources(args.labels, args.test, args.private, args.data)
    request = setup.Request(args.run, args.recipe, args.overrides, args.without_pseudo)
    if args.check:
        return 2 if setup.check_dataset(request, source) else 0
    with distributed.init_distributed(cli.select_device(args.device)) as device:
        console.silence(not distributed.is_main_process())
        run = setup.open_or_create(request, source, str(device)) if distributed.is_main_process() else None
        distributed.barrier()  # until there is a run
        train_round(run or setup.reopen(request), args.backbone, args.fold, device)
    return 0
