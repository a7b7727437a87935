"""The work of predict.py on a list in parts: freeze the list, predict a part, merge all; all GPUs of a machine."""

import argparse
import importlib.util

from melgpu import cli, console
from melgpu.prediction.parts import contract, file_list, scheduler
from melgpu.prediction.parts.contract import Contract, Format
from melgpu.prediction.parts.freeze import freeze_folder
from melgpu.prediction.parts.merge import merge_parts


def run_parts(args: argparse.Namespace) -> int | None:
    """The exit code of what the flags ask for; None where they ask for no parts."""
    if args.merge:
        merge_parts(args.merge, args.out)
        return 0
    if args.write_list:
        scheduler.check_count(args.parts or 1)
        return 2 if freeze_folder(args.list, args.write_list, args.parts) else 0
    if args.list:
        _predict_part(args)
        return 0
    return _predict_on_gpus(args) if args.gpus else None


def _predict_part(args: argparse.Namespace) -> None:
    names = file_list.open_list(args.list)
    settled = contract.read_contract(args.out)
    counts = {file_list.frozen_path(names.path): names.parts, args.out / contract.NAME: settled and settled.parts}
    part = scheduler.choose_part(args.part, args.parts, {str(file): count for file, count in counts.items() if count})
    console.say(f"{part}, from {part.source}")
    # Not before the cheap checks, which need no torch.
    from melgpu.prediction.ensemble import run_digests
    from melgpu.prediction.parts.part import PartTask, predict_part
    from melgpu.prediction.parts.previous import check_previous
    from melgpu.runs import environment
    from melgpu.runs.folder import open_run

    device = cli.select_device(args.device)
    run = open_run(args.run, args.overrides, args.without_pseudo)
    this = Contract(
        parts=part.count,
        rows=names.rows,
        list_path=str(names.path.absolute()),
        list_sha256=names.sha256,
        run_path=str(run.folder.absolute()),
        digests=run_digests(run),
        class_names=tuple(run.class_names),
        min_confidence=args.min_confidence or 0.0,
        format=args.format or _default_format(),
    )
    if args.previous:
        check_previous(args.previous, this.digests)
    if note := environment.tuning_mismatch(run.recipe.machine.tuned_on, device):
        console.say(note)
    agreed = contract.agree(args.out, this, args.format is not None)
    predict_part(run, PartTask(part, names, agreed, args.out, args.previous), device)


def _default_format() -> Format:
    if importlib.util.find_spec("pyarrow"):
        return "parquet"
    console.say("note: parts are CSV files; with pyarrow (pip install 'melgpu[parquet]') they are Parquet files")
    return "csv"


def _predict_on_gpus(args: argparse.Namespace) -> int:
    from melgpu.prediction.parts.gpus import all_gpus, predict_on_devices

    flags = ["--run", str(args.run), *(part for text in args.overrides for part in ("--set", text))]
    flags += ["--without-pseudo"] if args.without_pseudo else []
    flags += ["--previous", str(args.previous)] if args.previous else []
    flags += ["--min-confidence", str(args.min_confidence)] if args.min_confidence else []
    return 2 if predict_on_devices(args.music, args.out, all_gpus(), flags) else 0
