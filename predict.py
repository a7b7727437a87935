#!/usr/bin/env python3
"""Predict with a run's networks: the tracks that stacking needs, or any music files."""

import csv
import io
from pathlib import Path

from melgpu import cli

EPILOG = """examples:
  python predict.py --run runs/mine                                 what stacking needs: every track of the run
  python predict.py --run runs/mine song.mp3 folder/                what is this music?
  python predict.py --run runs/mine folder/ --out genres.csv        all probabilities as CSV

Music files are judged by the latest stacked round: all its networks, their stackers, the blend."""


def parse_args():
    parser = cli.parser(__doc__, EPILOG)
    parser.add_argument("music", type=Path, nargs="*", metavar="FILE_OR_DIR", help="music files, or folders of them")
    parser.add_argument("--out", type=Path, metavar="FILE.csv", help="write each file's probabilities of all classes")
    return parser.parse_args()


def main() -> int:
    args = parse_args()
    from melgpu import run
    from melgpu.errors import InputError

    device = cli.pick_device(args.device)
    opened = run.open_run(args.run, args.overrides)
    if args.music:
        return answer(opened, args.music, args.out, device)
    if args.out:
        raise InputError("--out needs music files to predict")
    return predict_round(opened, device)


def predict_round(run, device) -> int:
    """Write the predictions of every trained network of the current round for every track of the run."""
    from melgpu import report
    from melgpu.errors import InputError

    number = run.current_round
    if number is None:
        report.say(f"All rounds are done: python stack.py --run {run.folder} shows the scores")
        return 0
    trained = run.trained(number)
    if not trained:
        raise InputError(f"{run.folder}: round {number} has no trained network; run train.py first")
    for fold in run.spec(number).folds:
        missing = [job for job in trained if job.fold == fold and not run.is_predicted(job)]
        if missing:
            predict_fold(run, missing, device)
    untrained = len(run.jobs(number)) - len(trained)
    script = "train.py" if untrained else "stack.py"
    report.say(f"Round {number}: {len(trained)} networks predicted. Next: python {script} --run {run.folder}")
    return 0


def predict_fold(run, jobs, device) -> None:
    """Predict with networks of one fold, all of them over one pass of the music."""
    import numpy as np

    from melgpu import backbone, checkpoint, predictions

    loaded = [backbone.load(run.checkpoint(job)) for job in jobs]
    order = run.prediction_order(np.arange(len(run.manifest)))
    num_windows = np.bincount(order.tracks, minlength=len(run.manifest))
    title = f"round {jobs[0].round}, fold {jobs[0].fold}: {len(jobs)} networks predict {len(run.manifest)} tracks"
    probs = window_probs(loaded, run.recipe, run.manifest.paths, order, device, run.folder / "bank", title)
    splits = tuple(run.round_splits(jobs[0].fold))
    for job, own in zip(jobs, probs, strict=True):
        source = {"model": job.backbone, "fold": job.fold, "round": job.round, "recipe": run.recipe.digest()}
        source["checkpoint"] = checkpoint.digest(run.checkpoint(job))
        made = predictions.Predictions(run.manifest.ids, splits, num_windows, own, tuple(run.class_names), source)
        predictions.save(made, run.predictions_path(job))


def window_probs(loaded, recipe, paths, order, device, bank_folder, title):
    """Probabilities of every window of `order`, shape (K, W, C), by (network, what its checkpoint says) pairs."""
    import torch

    from melgpu import backbone, inference, parity, report, windows
    from melgpu.features import LogMel
    from melgpu.stream import Stream

    features = LogMel(recipe.mel, recipe.audio.sample_rate).to(device)
    bfloat16 = backbone.use_bfloat16(recipe.optim.precision, device)
    models = [model.to(device) for model, _ in loaded]
    front_end = parity.figures(features, recipe.audio.sample_rate, device)
    for about in (about for model, about in loaded if model.front_end is None):
        parity.refuse_other(front_end, about["front_end"], f"{about['backbone']}, fold {about['fold']}")
    window_samples = windows.samples(recipe.windows.window_s, recipe.audio.sample_rate)
    found = []
    with (
        Stream(paths, recipe.audio, recipe.stream, device, bank_folder) as stream,
        report.progress(title, len(order), "windows") as tracker,
    ):
        batches = stream.batches(order, window_samples, recipe.stream.predict_batch_size)
        for batch, probs in inference.window_probs(models, features, batches, recipe.predict.flip, bfloat16):
            found.append(probs)
            tracker.advance(len(batch.tracks))
    return torch.cat(found, dim=1).numpy()


def answer(run, music: list[Path], out: Path | None, device) -> int:
    """Name the likeliest classes of music files; 2 where some could not be read."""
    import numpy as np

    from melgpu import ensemble, files, report, windows
    from melgpu.errors import InputError

    judges = ensemble.load(run)
    readable, problems = find_music(music, judges.recipe)
    if not readable:
        raise InputError(problems)
    settings = judges.recipe.model_copy(update={"stream": run.recipe.stream.model_copy(update={"bank": "off"})})
    order = windows.prediction_order(
        np.arange(len(readable)), np.zeros(len(readable), bool), settings.audio, settings.windows
    )
    title = f"{len(judges.networks)} networks listen to {len(readable)} files"
    probs = window_probs(judges.networks, settings, [str(p) for p in readable], order, device, run.folder, title)
    probs = judges.combine(probs.reshape(len(judges.networks), len(readable), -1, probs.shape[-1]).mean(axis=2))
    report.console.print(report.answer_table(readable, probs, judges.class_names))
    if out:
        text = io.StringIO(newline="")
        rows = ([path, *(f"{p:.6f}" for p in own)] for path, own in zip(readable, probs, strict=True))
        csv.writer(text).writerows([["file", *judges.class_names], *rows])
        files.write_text(out, text.getvalue())
        report.say(f"Probabilities of all classes: {out}")
    for problem in problems:
        report.say(f"skipped: {problem}")
    return 2 if problems else 0


def find_music(given: list[Path], settings) -> tuple[list[Path], list[str]]:
    """Every audio file named or below a folder named, and what is wrong with the others."""
    from melgpu.manifest import AUDIO_SUFFIXES, find_audio, is_utf8
    from melgpu.preflight import unreadable

    paths, problems = [], []
    for path in given:
        found = find_audio(path) if path.is_dir() else [path]
        if not found:
            problems.append(f"{path}: no audio files ({' '.join(AUDIO_SUFFIXES)}) in this folder")
        problems += [f"{name!r}: the file's name is not UTF-8" for name in map(str, found) if not is_utf8(name)]
        paths += [name for name in found if is_utf8(str(name))]
    paths = list(dict.fromkeys(paths))
    broken = unreadable(paths, settings)
    return [path for path, problem in zip(paths, broken, strict=True) if not problem], problems + list(
        filter(None, broken)
    )


if __name__ == "__main__":
    cli.run(main)
