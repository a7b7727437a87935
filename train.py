#!/usr/bin/env python3
"""Train the networks of a run's current round: manifest, windows, stream, features, backbone, checkpoint."""

import time
from contextlib import nullcontext
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
        help="zalo2019 (the default), demo, modern, scratch or a TOML file; several are laid over each other",
    )
    new.add_argument("--check", action="store_true", help="only look: list what is odd or wrong with the tracks")
    some = parser.add_argument_group("part of a round")
    some.add_argument("--backbone", help="train this network only")
    some.add_argument("--fold", type=int, help="train this fold only")
    return parser.parse_args()


def check(args) -> int:
    """Report on the tracks that the flags, or else the run in args.run, name; 2 where something is wrong."""
    from melgpu import recipe
    from melgpu.runs import preflight, run

    if not args.labels:
        opened = run.open_run(args.run, args.overrides, args.without_pseudo)
        return 2 if preflight.check(opened.manifest, opened.recipe) else 0
    settings = recipe.load(args.recipe, args.overrides)
    sources = {"train": args.labels, "public": args.test, "private": args.private}
    return 2 if preflight.check(preflight.read(sources, args.data), settings) else 0


def open_or_create(args, device):
    """The run in args.run; a new one is made of the recipe and the tracks that the flags name."""
    from melgpu import console, recipe
    from melgpu.audio import quarantine
    from melgpu.data.pcm_cache import open_bank
    from melgpu.errors import InputError
    from melgpu.runs import preflight, run, timings

    if run.exists(args.run):
        ignored = [name for name in ("labels", "test", "private", "data") if getattr(args, name)]
        if ignored:
            console.say(f"{args.run} keeps the tracks it was made with; ignored: --{' --'.join(ignored)}")
        opened = reopen(args)
        preflight.fill(opened)
        return opened
    if not args.labels:
        raise InputError(f"{args.run}: a new run needs --labels: a CSV of file,label or a folder of class folders")
    if args.without_pseudo:
        raise InputError("--without-pseudo is for a run whose first round is done: leave it out")
    preflight.refuse_unwritable(args.run)
    settings = recipe.load(args.recipe, args.overrides)
    sources = {"train": args.labels, "public": args.test, "private": args.private}
    bank, started = open_bank(args.run / "bank", settings.audio, settings.stream), time.monotonic()
    tracks, flaws = preflight.gather(sources, args.data, settings, bank)
    seconds = time.monotonic() - started
    made = run.create(args.run, settings, tracks, str(device))
    timings.note(made.times_path, 1, "decode" if bank else "check files", seconds, len(tracks), "tracks")
    quarantine.note(made.quarantine_path, flaws)
    if flaws:
        console.say(quarantine.summary(flaws, made.quarantine_path))
    return made


def reopen(args):
    """The run in args.run; recipes that the flags name may say how the work is done, but not what comes of it."""
    from dataclasses import replace

    from melgpu import recipe
    from melgpu.runs import run

    opened = run.open_run(args.run, args.overrides, args.without_pseudo)
    if not args.recipe:
        return opened
    wanted = recipe.load(args.recipe, args.overrides)
    run.refuse_other_recipe(args.run, wanted)
    return replace(opened, recipe=wanted)


def main() -> int:
    args = parse_args()
    if args.check:
        return check(args)
    from melgpu import console, distributed

    with distributed.joined(cli.pick_device(args.device)) as device:
        console.console.quiet = not distributed.is_first()
        opened = open_or_create(args, device) if distributed.is_first() else None
        distributed.wait()  # until there is a run
        train_round(opened or reopen(args), args, device)
    return 0


def train_round(run, args, device) -> None:
    """Train what is missing of the current round."""
    from melgpu import console, distributed
    from melgpu.data.loader import Stream
    from melgpu.features import parity
    from melgpu.features.log_mel import LogMel
    from melgpu.runs import environment, preflight, sampling
    from melgpu.training import checkpointing

    if run.current_round is None:
        console.say(f"All rounds are done: python stack.py {run.flags} shows the scores")
        return
    jobs = run.choose_jobs(args.backbone, args.fold)
    missing = [job for job in jobs if not run.is_trained(job)]
    if run.recipe.machine.tensorboard:
        checkpointing.summary_writer()  # or an error now
    machine = run.recipe.machine
    if note := environment.moved(machine.tuned_on, device):
        console.say(note)
    features = LogMel(run.recipe.mel, run.recipe.audio.sample_rate, machine.feature_batch).to(device)
    front_end = parity.figures(features, run.recipe.audio.sample_rate, device)
    parity.refuse_inexact(front_end)
    total = sum(run.recipe.optim_for(job.backbone).max_epochs * sampling.epoch_windows(run, job) for job in missing)
    title = f"round {run.current_round}: training {len(missing)} networks"
    with Stream(run.manifest.paths, run.recipe.audio, run.recipe.stream, device, run.bank) as stream:
        if missing:
            preflight.reside(stream, run.labelled_rows(run.current_round))
        with console.progress(title, total, "windows") as tracker, cli.Stop() as stop:
            for number, job in enumerate(missing, start=1):
                name = f"{number}/{len(missing)} {job.name}"
                with checkpointing.held(run, job) if distributed.is_first() else nullcontext():
                    train_job(run, job, stream, features, front_end, name, tracker, stop)
    distributed.wait()
    left = [job for job in run.jobs(run.current_round) if not run.is_trained(job)]
    state, script = (f"lacks {len(left)} of its networks", "train.py") if left else ("is trained", "predict.py")
    console.say(f"Round {run.current_round} {state}. Next: python {script} {run.flags}")


def train_job(run, job, stream, features, front_end: dict, title: str, tracker, stop) -> None:
    """Train one network on one fold to its end, from where it stood; `front_end` are the pictures' figures."""
    import torch

    from melgpu import console, distributed
    from melgpu.data import windows
    from melgpu.errors import InputError
    from melgpu.models import classifier
    from melgpu.runs import sampling
    from melgpu.training import checkpointing, loop

    recipe, optim = run.recipe, run.recipe.optim_for(job.backbone)
    epoch_windows, window_samples = sampling.epoch_windows(run, job), sampling.window_samples(run)
    valid_order = sampling.prediction_order(run, run.fold_rows(job.fold)[1])

    def train_batches(epoch: int, first_step: int):
        order = sampling.epoch_order(run, job, epoch, distributed.rank(), distributed.count())
        return stream.batches(order[first_step * optim.batch_size :], window_samples, optim.batch_size)

    def valid_batches():
        own = windows.share(valid_order, distributed.rank(), distributed.count())
        return stream.batches(own, window_samples, recipe.stream.predict_batch_size)

    torch.manual_seed(recipe.seed)
    if recipe.mel.trainable != "none" and distributed.count() > 1:
        raise InputError(f"mel.trainable {recipe.mel.trainable} learns in one process only: leave torchrun out")
    model = classifier.build(job.backbone, len(run.class_names), recipe).to(stream.device)
    state = loop.start(model, optim, recipe.machine)
    if checkpointing.resume(run, job, state):
        console.say(f"{title}: going on in epoch {state.progress.epoch + 1} after step {state.progress.step}")
    tracker.skip(state.progress.epoch * epoch_windows + state.progress.step * optim.batch_size * distributed.count())
    micro_batch = state.micro_batch
    pictures, targets = model.front_end or features, sampling.training_targets(run, job)
    for done in loop.fit(state, pictures, train_batches, valid_batches, targets, optim, recipe.augment, recipe.seed):
        if isinstance(done, dict):
            end_epoch(run, job, state, front_end, stream, f"{title}, epoch {done['epoch']}/{optim.max_epochs}")
            continue
        show(tracker, title, state, optim, epoch_windows, done * distributed.count())
        if state.micro_batch < micro_batch:
            micro_batch = state.micro_batch
            console.say(f"{title}: the GPU's memory ran out, going on with {micro_batch} windows at once")
        if distributed.is_first() and (stop.wanted or (done and state.progress.step % recipe.machine.save_every == 0)):
            checkpointing.keep_state(run, job, state)
        if distributed.is_first() and stop.wanted:  # the others end with it
            raise KeyboardInterrupt
    tracker.skip((optim.max_epochs - state.progress.epoch) * epoch_windows)
    if distributed.is_first():
        checkpointing.finish(run, job, state)


def show(tracker, title: str, state, optim, epoch_windows: int, done: int) -> None:
    """Tell where a training is after `done` more windows; 0 after a batch of validation."""
    from melgpu import distributed
    from melgpu.training.round import training_detail

    where = f"{title}, epoch {min(state.progress.epoch + 1, optim.max_epochs)}/{optim.max_epochs}"
    steps = max(1, epoch_windows // optim.batch_size // distributed.count())
    if tracker.wants_detail():
        tracker.detail = training_detail(*state.means(), state.progress.best_accuracy, state.clock.seconds())
    tracker.advance(done, f"{where}, step {state.progress.step}/{steps}" if done else f"{where}, validation")


def end_epoch(run, job, state, front_end: dict, stream, title: str) -> None:
    """Keep what an epoch gave, and say so."""
    from melgpu import console, distributed
    from melgpu.audio import quarantine
    from melgpu.training import checkpointing

    flaws = distributed.gathered(stream.flaws)
    if flaws:
        checkpointing.keep(run, job, state, front_end)
        quarantine.note(run.quarantine_path, [flaw for own in flaws for flaw in own.values()])
    record = state.log[-1]
    console.say(f"{title}: loss {record['loss']:.3f}, accuracy on validation windows {record['window_accuracy']:.3f}")


if __name__ == "__main__":
    cli.run(main)
