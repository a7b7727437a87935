#!/usr/bin/env python3
"""Predict with a run's networks: the tracks that stacking needs, or any music files."""

from pathlib import Path

from melgpu import cli

EPILOG = """examples:
  python predict.py --run runs/mine                                 what stacking needs: every track of the run
  python predict.py --run runs/mine song.mp3 folder/                what is this music?
  python predict.py --run runs/mine folder/ --out genres.csv        all probabilities as CSV

Music files are judged by the latest stacked round: all its networks, their stackers, the blend."""


def parse_args():
    parser = cli.parser(__doc__, EPILOG)
    parser.add_argument("music", nargs="*", metavar="FILE_OR_DIR", help="music files or URLs, or folders of music")
    parser.add_argument("--out", type=Path, metavar="FILE.csv", help="write each file's probabilities of all classes")
    return parser.parse_args()


def main() -> int:
    args = parse_args()
    from melgpu import ranks, report, run
    from melgpu.errors import InputError

    if args.out and not args.music:
        raise InputError("--out needs music files to predict")
    with ranks.joined(cli.pick_device(args.device)) as device:
        report.console.quiet = not ranks.is_first()
        opened = run.open_run(args.run, args.overrides)
        if not args.music:
            return predict_round(opened, device)
        if ranks.count() > 1:
            raise InputError("new music is for one process: leave torchrun out")
        return answer(opened, args.music, args.out, device)


def predict_round(run, device) -> int:
    """Write the predictions of every trained network of the current round for every track of the run."""
    from melgpu import preflight, quarantine, ranks, report
    from melgpu.errors import InputError

    number = run.current_round
    if number is None:
        report.say(f"All rounds are done: python stack.py --run {run.folder} shows the scores")
        return 0
    trained = run.trained(number)
    if not trained:
        raise InputError(f"{run.folder}: round {number} has no trained network; run train.py first")
    if ranks.is_first():
        preflight.fill(run.bank, run.manifest.paths, run.recipe)
    ranks.wait()
    for fold in run.spec(number).folds:
        missing = [job for job in trained if job.fold == fold and not run.is_predicted(job)]
        ranks.wait()  # nobody looks while the first one writes
        if missing:
            predict_fold(run, missing, device)
        ranks.wait()
    untrained = len(run.jobs(number)) - len(trained)
    script = "train.py" if untrained else "stack.py"
    if flaws := quarantine.load(run.quarantine_path):
        report.say(quarantine.summary(flaws, run.quarantine_path))
    report.say(f"Round {number}: {len(trained)} networks predicted. Next: python {script} --run {run.folder}")
    return 0


def predict_fold(run, jobs, device) -> None:
    """Predict with networks of one fold, all of them over one pass of the music."""
    import numpy as np

    from melgpu import ensemble, quarantine, ranks, windows
    from melgpu.errors import InputError
    from melgpu.stream import Stream

    if len(run.manifest) < ranks.count():
        raise InputError(f"{len(run.manifest)} tracks are fewer than {ranks.count()} processes")
    loaded = ensemble.load_networks(run, jobs)
    order = run.prediction_order(np.arange(len(run.manifest)))
    places = windows.shared_places(order, ranks.rank(), ranks.count())
    title = f"round {jobs[0].round}, fold {jobs[0].fold}: {len(jobs)} networks predict {len(run.manifest)} tracks"
    with Stream(run.manifest.paths, run.recipe.audio, run.recipe.stream, device, run.bank) as stream:
        probs, heard = window_probs(loaded, run.recipe, stream, order[places], title)
    parts = ranks.gathered((places, probs, heard, stream.flaws))
    if parts:
        save_fold(run, jobs, order, parts)
        quarantine.note(run.quarantine_path, [flaw for part in parts for flaw in part[3].values()])


def save_fold(run, jobs, order, parts) -> None:
    """Put the shares of all processes, (places in the order, probabilities, heard, flaws), together and save them."""
    import numpy as np

    from melgpu import checkpoint, predictions

    probs = np.empty((len(jobs), len(order), len(run.class_names)), np.float32)
    heard = np.empty(len(order), bool)
    for places, own_probs, own_heard, _ in parts:
        probs[:, places], heard[places] = own_probs, own_heard
    probs[:, ~heard] = run.prior
    num_windows = np.bincount(order.tracks, minlength=len(run.manifest))
    lost = np.isin(np.arange(len(run.manifest)), order.tracks[~heard])
    splits = tuple(run.round_splits(jobs[0].fold))
    for job, own in zip(jobs, probs, strict=True):
        source = {"model": job.backbone, "fold": job.fold, "round": job.round, "recipe": run.recipe.digest()}
        source["checkpoint"] = checkpoint.digest(run.checkpoint(job))
        made = predictions.Predictions(run.manifest.ids, splits, lost, num_windows, own, tuple(run.class_names), source)
        predictions.save(made, run.predictions_path(job))


def window_probs(loaded, recipe, stream, order, title):
    """Probabilities of every window of `order`, shape (K, W, C), by (network, what its checkpoint says) pairs.

    Also which windows were heard, shape (W,): where a file gave nothing, the answer is of silence.
    """
    import torch

    from melgpu import backbone, inference, parity, report, windows
    from melgpu.features import LogMel

    device = stream.device
    features = LogMel(recipe.mel, recipe.audio.sample_rate).to(device)
    bfloat16 = backbone.use_bfloat16(recipe.optim.precision, device)
    models = [model.to(device) for model, _ in loaded]
    front_end = parity.figures(features, recipe.audio.sample_rate, device)
    for about in (about for model, about in loaded if model.front_end is None):
        parity.refuse_other(front_end, about["front_end"], f"{about['backbone']}, fold {about['fold']}")
    window_samples = windows.samples(recipe.windows.window_s, recipe.audio.sample_rate)
    found, heard = [], []
    with report.progress(title, len(order), "windows") as tracker:
        batches = stream.batches(order, window_samples, recipe.stream.predict_batch_size)
        for batch, probs in inference.window_probs(models, features, batches, recipe.predict.flip, bfloat16):
            found.append(probs)
            heard.append(batch.heard)
            tracker.advance(len(batch.tracks))
    return torch.cat(found, dim=1).numpy(), torch.cat(heard).numpy()


def answer(run, music: list[str], out: Path | None, device) -> int:
    """Name the likeliest classes of music files; 2 where some could not be read in full."""
    import numpy as np

    from melgpu import ensemble, report, windows
    from melgpu.errors import InputError
    from melgpu.stream import Stream

    judges = ensemble.load(run)
    paths, problems = find_music(music)
    guarded = {"bank": "off", "on_error": "quarantine", "max_broken_share": 1.0}
    settings = judges.recipe.model_copy(update={"stream": run.recipe.stream.model_copy(update=guarded)})
    order = windows.prediction_order(
        np.arange(len(paths)), np.zeros(len(paths), bool), settings.audio, settings.windows
    )
    with Stream(paths, settings.audio, settings.stream, device) as stream:
        title = f"{len(judges.networks)} networks listen to {len(paths)} files"
        probs, heard = window_probs(judges.networks, settings, stream, order, title) if paths else ([], [])
    flaws = [str(flaw) for flaw in stream.flaws.values()]
    if not np.any(heard):
        raise InputError([*problems, *flaws])
    lost = ~heard.reshape(len(paths), -1).any(axis=1)
    probs = judges.combine(probs.reshape(len(judges.networks), len(paths), -1, probs.shape[-1]).mean(axis=2))
    probs[lost] = run.prior
    report.console.print(report.answer_table(paths, probs, judges.class_names, lost))
    if out:
        report.write_answers(out, paths, probs, judges.class_names, stream.flaws)
        report.say(f"Probabilities of all classes: {out}")
    for problem in [*problems, *flaws]:
        report.say(f"broken: {problem}")
    return 2 if problems or flaws else 0


def find_music(given: list[str]) -> tuple[list[str], list[str]]:
    """Every audio file or URL named or below a folder named, and what is wrong with the names of others."""
    from melgpu.listing import AUDIO_SUFFIXES, find_audio, is_utf8

    paths, problems = [], []
    for name in given:
        found = [str(path) for path in find_audio(Path(name))] if Path(name).is_dir() else [name]
        if not found:
            problems.append(f"{name}: no audio files ({' '.join(AUDIO_SUFFIXES)}) in this folder")
        problems += [f"{path!r}: the file's name is not UTF-8" for path in found if not is_utf8(path)]
        paths += [path for path in found if is_utf8(path)]
    return list(dict.fromkeys(paths)), problems


if __name__ == "__main__":
    cli.run(main)
