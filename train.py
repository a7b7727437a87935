#!/usr/bin/env python3
"""Train the networks of a run's current round: manifest, windows, stream, features, backbone, checkpoint."""

from pathlib import Path

from melgpu import cli

EPILOG = """examples:
  python train.py --run runs/mine --labels music/                     a folder with one sub-folder a class
  python train.py --run runs/zalo --data audio/ --labels train.csv --test test.csv --private private.csv
  python train.py --run runs/mine --labels music/ --check             what is in there? nothing is made
  python train.py --run runs/mine                                     go on with the current round
  python train.py --run runs/mine --backbone resnet50 --fold 2        just this network and fold

A new run needs --labels; its recipe (default: zalo2019) and tracks are kept in the run's folder, and later calls need
only --run. Finished networks are skipped, an interrupted one goes on after its last whole epoch."""


def parse_args():
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
        help="demo, scratch or a TOML file, laid over zalo2019; several are laid over each other",
    )
    new.add_argument("--check", action="store_true", help="only look: list what is odd or wrong with the tracks")
    some = parser.add_argument_group("part of a round")
    some.add_argument("--backbone", help="train this network only")
    some.add_argument("--fold", type=int, help="train this fold only")
    return parser.parse_args()


def check(args) -> int:
    """Report on the tracks that the flags, or else the run in args.run, name; 2 where training would refuse them."""
    from melgpu import preflight, recipe, run

    if not args.labels:
        opened = run.open_run(args.run, args.overrides)
        return 2 if preflight.check(opened.manifest, opened.recipe) else 0
    settings = recipe.load(args.recipe, args.overrides)
    sources = {"train": args.labels, "public": args.test, "private": args.private}
    return 2 if preflight.check(preflight.read(sources, args.data), settings) else 0


def open_or_create(args, device):
    """The run in args.run; a new one is made of the recipe and the tracks that the flags name."""
    from melgpu import preflight, quarantine, recipe, report, run
    from melgpu.bank import open_bank
    from melgpu.errors import InputError

    if run.exists(args.run):
        ignored = [name for name in ("labels", "test", "private", "data") if getattr(args, name)]
        if ignored:
            report.say(f"{args.run} keeps the tracks it was made with; ignored: --{' --'.join(ignored)}")
        if args.recipe:
            run.refuse_other_recipe(args.run, recipe.load(args.recipe, args.overrides))
        opened = run.open_run(args.run, args.overrides)
        preflight.fill(opened.bank, opened.manifest.paths, opened.recipe)
        return opened
    if not args.labels:
        raise InputError(f"{args.run}: a new run needs --labels: a CSV of file,label or a folder of class folders")
    settings = recipe.load(args.recipe, args.overrides)
    sources = {"train": args.labels, "public": args.test, "private": args.private}
    bank = open_bank(args.run / "bank", settings.audio, settings.stream)
    tracks, flaws = preflight.gather(sources, args.data, settings, bank)
    made = run.create(args.run, settings, tracks, str(device))
    quarantine.note(made.quarantine_path, flaws)
    if flaws:
        report.say(quarantine.summary(flaws, made.quarantine_path))
    return made


def main() -> int:
    args = parse_args()
    if args.check:
        return check(args)
    from melgpu import parity, preflight, report
    from melgpu.features import LogMel
    from melgpu.stream import Stream

    device = cli.pick_device(args.device)
    run = open_or_create(args, device)
    if run.current_round is None:
        report.say(f"All rounds are done: python stack.py --run {run.folder} shows the scores")
        return 0
    jobs = run.choose_jobs(args.backbone, args.fold)
    missing = [job for job in jobs if not run.is_trained(job)]
    features = LogMel(run.recipe.mel, run.recipe.audio.sample_rate).to(device)
    front_end = parity.figures(features, run.recipe.audio.sample_rate, device)
    parity.refuse_inexact(front_end)
    total = sum(run.recipe.optim_for(job.backbone).max_epochs * run.epoch_windows(job) for job in missing)
    title = f"round {run.current_round}: training {len(missing)} networks"
    with Stream(run.manifest.paths, run.recipe.audio, run.recipe.stream, device, run.bank) as stream:
        preflight.reside(stream, run.labelled_rows(run.current_round))
        with report.progress(title, total, "windows") as tracker:
            for number, job in enumerate(missing, start=1):
                train_job(run, job, stream, features, front_end, f"{number}/{len(missing)} {job.name}", tracker)
    left = [job for job in run.jobs(run.current_round) if not run.is_trained(job)]
    script = "train.py" if left else "predict.py"
    report.say(
        f"Round {run.current_round}: {len(left)} networks left to train. Next: python {script} --run {run.folder}"
    )
    return 0


def train_job(run, job, stream, features, front_end: dict, title: str, tracker) -> None:
    """Train one network on one fold to its end, from its last whole epoch; `front_end` are the pictures' figures."""
    import torch

    from melgpu import backbone, keeping, quarantine, report, training, windows
    from melgpu.run import class_numbers

    recipe, optim = run.recipe, run.recipe.optim_for(job.backbone)
    window_samples = windows.samples(recipe.windows.window_s, recipe.audio.sample_rate)
    labels = torch.from_numpy(class_numbers(run.labelled(job.round)[0], run.class_names))
    train_order, valid_order = run.training_order(job), run.prediction_order(run.fold_rows(job.fold)[1])
    epoch_windows = run.epoch_windows(job)

    def train_batches(epoch: int):
        order = windows.shuffled(train_order, recipe.shuffle_tracks_for(job.backbone), recipe.seed, epoch)
        return stream.batches(windows.whole_batches(order, optim.batch_size), window_samples, optim.batch_size)

    def valid_batches():
        return stream.batches(valid_order, window_samples, recipe.stream.predict_batch_size)

    torch.manual_seed(recipe.seed)
    own = backbone.own_front_end(recipe)
    model = backbone.build(job.backbone, len(run.class_names), recipe.backbone, own).to(stream.device)
    state = training.start(model, optim)
    keeping.resume(run, job, state)
    tracker.skip(state.progress.epoch * epoch_windows)
    steps = training.fit(
        state, own or features, train_batches, valid_batches, labels, optim, recipe.augment, recipe.seed
    )
    for record in steps:
        where = f"{title}, epoch {min(state.progress.epoch + 1, optim.max_epochs)}/{optim.max_epochs}"
        if record is None:
            tracker.advance(min(optim.batch_size, epoch_windows), where)
        else:
            keeping.keep(run, job, state, front_end)
            quarantine.note(run.quarantine_path, stream.flaws.values())
            report.say(
                f"{title}, epoch {record['epoch']}/{optim.max_epochs}: loss {record['loss']:.3f}, "
                f"accuracy on validation windows {record['window_accuracy']:.3f}"
            )
    tracker.skip((optim.max_epochs - state.progress.epoch) * epoch_windows)
    keeping.finish(run, job, state)


if __name__ == "__main__":
    cli.run(main)
