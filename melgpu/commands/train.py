"""Train the networks of a run's current round."""

import argparse
from pathlib import Path

from melgpu import cli
from melgpu.commands import stack

EPILOG = """examples:
  python train.py --run runs/mine --recipe quick --labels music/      one network; a folder with one sub-folder a class
  python train.py --run runs/zalo --data audio/ --labels train.csv --test test.csv --private private.csv
  python train.py --run runs/mine --labels music/ --check             check the data set only
  python train.py --run runs/mine --labels music/ --labels-from-tags genre    labels and artists from tags
  python train.py --run runs/mine                                     resume the current round
  python train.py --run runs/mine --data /new/music/                  go on after the music was moved
  python train.py --run runs/mine --backbone resnet50 --fold 2        this network and fold only
  torchrun --nproc-per-node 4 -- train.py --run runs/mine             on four GPUs (with the two dashes)

A new run needs --labels; its recipe (default: zalo2019) and tracks are saved in the run folder, and later calls need
only --run. Finished networks are skipped, an interrupted one is resumed."""


def parse_args() -> argparse.Namespace:
    parser = cli.parser(__doc__, EPILOG)
    new = parser.add_argument_group("a new run")
    new.add_argument("--labels", type=Path, metavar="CSV_OR_DIR", help="training tracks: file,label or class folders")
    new.add_argument("--labels-from-tags", choices=("genre",), help="labels from this tag of the files of a folder")
    new.add_argument("--test", type=Path, metavar="CSV_OR_DIR", help="the public test set, source of pseudo labels")
    new.add_argument("--private", type=Path, metavar="CSV_OR_DIR", help="the private test set")
    data_help = "folder or URL of the files that the CSVs name; of an existing run: their new place"
    new.add_argument("--data", metavar="DIR_OR_URL", help=data_help)
    new.add_argument(
        "--recipe",
        action="append",
        default=[],
        metavar="NAME_OR_FILE",
        help="zalo2019 (the default), quick, demo, modern, scratch or a TOML file; several are merged in order",
    )
    new.add_argument("--check", action="store_true", help="only report on the data set: formats, duplicates, problems")
    part = parser.add_argument_group("part of a round")
    part.add_argument("--backbone", help="train this network only")
    part.add_argument("--fold", type=int, help="train this fold only")
    return parser.parse_args()


def main() -> int:
    args = parse_args()
    # After the flags are parsed, so that --help answers without importing torch.
    from melgpu import console, distributed
    from melgpu.prediction.round import predict_round
    from melgpu.runs import setup
    from melgpu.training.round import train_round

    sources = setup.Sources(args.labels, args.test, args.private, args.data, args.labels_from_tags)
    request = setup.RunRequest(args.run, args.recipe, args.overrides, args.without_pseudo)
    if args.check:
        return 2 if setup.check_dataset(request, sources) else 0
    with distributed.init_distributed(cli.select_device(args.device)) as device:
        console.set_quiet(not distributed.is_main_process())
        run = None
        if distributed.is_main_process():  # it alone writes files
            run = setup.open_or_create(request, sources, device)
        distributed.barrier()  # until the main process has created the run
        run = run or setup.reopen(request)
        train_round(run, args.backbone, args.fold, device)
        round_number = run.current_round
        if not run.recipe.is_one_step or (round_number and run.untrained_jobs(round_number)):
            return 0
        if round_number:
            predict_round(run, device)
        # A process that was killed may have stacked the round and not written its report.
        if distributed.is_main_process() and (round_number or not run.report_path.exists()):
            stack.finish_round(run)
    return 0


def command() -> None:
    """Run this script, and exit with its code."""
    cli.run(main)
