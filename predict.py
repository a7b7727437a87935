#!/usr/bin/env python3
"""Predict with a run's networks: the tracks that stacking needs, or any music files."""

import contextlib
from pathlib import Path

from melgpu import cli

EPILOG = """examples:
  python predict.py --run runs/mine                                 what stacking needs: every track of the run
  python predict.py --run runs/mine song.mp3 folder/                what is this music?
  python predict.py --run runs/mine folder/ --out genres.csv        all probabilities as CSV
  python predict.py --run runs/mine concert.flac --timeline when/   what is heard when? (files of any length)

Music files are judged by the latest stacked round: all its networks, and what the recipe makes of them."""


def parse_args():
    parser = cli.parser(__doc__, EPILOG)
    parser.add_argument("music", nargs="*", metavar="FILE_OR_DIR", help="music files or URLs, or folders of music")
    parser.add_argument("--out", type=Path, metavar="FILE.csv", help="write each file's probabilities of all classes")
    parser.add_argument("--timeline", type=Path, metavar="DIR", help="write the classes along each file: a CSV, a PNG")
    return parser.parse_args()


def main() -> int:
    args = parse_args()
    from melgpu import console, distributed
    from melgpu.errors import InputError
    from melgpu.runs import environment, run

    if args.out and not args.music:
        raise InputError("--out needs music files to predict")
    if args.timeline and (args.out or not args.music):
        raise InputError("--timeline needs music files to predict, and no --out: it writes a CSV for each")
    with distributed.joined(cli.pick_device(args.device)) as device:
        console.console.quiet = not distributed.is_first()
        opened = run.open_run(args.run, args.overrides, args.without_pseudo)
        if note := environment.moved(opened.recipe.machine.tuned_on, device):
            console.say(note)
        if not args.music:
            return predict_round(opened, device)
        if distributed.count() > 1:
            raise InputError("new music is for one process: leave torchrun out")
        if args.timeline:
            return write_timelines(opened, args.music, args.timeline, device)
        return answer(opened, args.music, args.out, device)


def predict_round(run, device) -> int:
    """Write the predictions of every trained network of the current round for every track of the run."""
    import numpy as np

    from melgpu import console, distributed
    from melgpu.audio import quarantine
    from melgpu.errors import InputError
    from melgpu.runs import preflight, sampling, timings

    number = run.current_round
    if number is None:
        console.say(f"All rounds are done: python stack.py {run.flags} shows the scores")
        return 0
    trained = run.trained(number)
    if not trained:
        raise InputError(f"{run.folder}: round {number} has no trained network; run train.py first")
    if distributed.is_first():
        preflight.fill(run)
    distributed.wait()
    missing, first = [job for job in trained if not run.is_predicted(job)], distributed.is_first()
    windows = len(missing) * len(sampling.prediction_order(run, np.arange(len(run.manifest))))
    done = (f"predict{run.remark}, resumed", 0) if run.journals(number) else (f"predict{run.remark}", windows)
    distributed.wait()  # nobody looks while the first one writes
    if missing:
        with timings.measured(run.times_path, number, *done, "windows") if first else contextlib.nullcontext():
            predict_jobs(run, missing, device)
        for path in run.journals(number) if first else ():
            path.unlink()  # their answers are in the predictions
    untrained = len(run.jobs(number)) - len(trained)
    script = "train.py" if untrained else "stack.py"
    if flaws := quarantine.load(run.quarantine_path):
        console.say(quarantine.summary(flaws, run.quarantine_path))
    console.say(f"Round {number}: {len(trained)} networks predicted. Next: python {script} {run.flags}")
    return 0


def predict_jobs(run, jobs, device) -> None:
    """Predict with networks of a round, all of them over one pass of the music, or as many as memory holds."""
    import torch

    from melgpu import console, distributed
    from melgpu.errors import InputError

    try:
        predict_together(run, jobs, device)
        return
    except torch.OutOfMemoryError:
        if len(jobs) == 1 or distributed.count() > 1:
            raise InputError("the device's memory runs out: set a smaller stream.predict_batch_size") from None
    half = -(-len(jobs) // 2)
    console.say(f"the device's memory does not hold {len(jobs)} networks: {half} at a time, more passes")
    for part in (jobs[:half], jobs[half:]):
        predict_jobs(run, part, device)


def predict_together(run, jobs, device) -> None:
    """Predict with networks of a round over one pass of the music, and save what each says."""
    import numpy as np

    from melgpu import distributed
    from melgpu.audio import quarantine
    from melgpu.data import windows
    from melgpu.data.loader import Stream
    from melgpu.errors import InputError
    from melgpu.models import checkpoint
    from melgpu.prediction import ensemble, predictor
    from melgpu.prediction.resume_log import Journal
    from melgpu.runs import sampling

    if len(run.manifest) < distributed.count():
        raise InputError(f"{len(run.manifest)} tracks are fewer than {distributed.count()} processes")
    networks = ensemble.load_networks(run, jobs)
    digests = [checkpoint.digest(run.checkpoint(job)) for job in jobs]
    order = sampling.prediction_order(run, np.arange(len(run.manifest)))
    places = windows.shared_places(order, distributed.rank(), distributed.count())
    title = f"round {jobs[0].round}: {len(jobs)} networks predict {len(run.manifest)} tracks"
    about = {"checkpoints": digests, "batch": run.recipe.stream.predict_batch_size, "ranks": distributed.count()}
    probs, heard = np.empty((len(jobs), len(places), len(run.class_names)), np.float32), np.empty(len(places), bool)
    stream = Stream(run.manifest.paths, run.recipe.audio, run.recipe.stream, device, run.bank)
    with stream, Journal(run.journal_path(jobs[0].round, distributed.rank(), digests), about) as journal:
        for part, answers in predictor.listen(networks, run.recipe, stream, order[places], journal, title):
            probs[:, part], heard[part] = answers.probs, answers.heard
        shares = distributed.gathered((places, probs, heard, stream.flaws))
        if shares:
            save_together(run, jobs, digests, order, shares)
            quarantine.note(run.quarantine_path, [flaw for share in shares for flaw in share[3].values()])
        distributed.wait()


def save_together(run, jobs, digests, order, shares) -> None:
    """Put the shares of all processes, (places in the order, probabilities, heard, flaws), together and save them."""
    import numpy as np

    from melgpu.runs import predictions

    probs = np.empty((len(jobs), len(order), len(run.class_names)), np.float32)
    heard = np.empty(len(order), bool)
    for places, own_probs, own_heard, _ in shares:
        probs[:, places], heard[places] = own_probs, own_heard
    probs[:, ~heard] = run.prior
    num_windows = np.bincount(order.tracks, minlength=len(run.manifest))
    lost = np.isin(np.arange(len(run.manifest)), order.tracks[~heard])
    ids, class_names = run.manifest.ids, tuple(run.class_names)
    for job, digest, own in zip(jobs, digests, probs, strict=True):
        source = {"model": job.backbone, "fold": job.fold, "round": job.round}
        source |= {"recipe": run.recipe.digest(), "pseudo": run.pseudo_digest(job.round), "checkpoint": digest}
        splits = tuple(run.round_splits(job.fold))
        made = predictions.Predictions(ids, splits, lost, num_windows, own, class_names, source)
        predictions.save(made, run.predictions_path(job))


def answer(run, music: list[str], out: Path | None, device) -> int:
    """Name the likeliest classes of music files; 2 where some could not be read in full."""
    from melgpu import console
    from melgpu.data.loader import Stream
    from melgpu.errors import InputError
    from melgpu.prediction import ensemble, predictor

    if out:
        music.refuse_foreign(out)
    judges = ensemble.load(run)
    paths, problems = find_music(music)
    guarded = {"bank": "off", "on_error": "quarantine", "max_broken_share": 1.0}
    here = {"stream": run.recipe.stream.model_copy(update=guarded), "machine": run.recipe.machine}
    settings = judges.recipe.model_copy(update=here)
    with Stream(paths, settings.audio, settings.stream, device) as stream:
        if paths:
            probs, lost = predictor.track_probs(judges, settings, stream, out)
    flaws = [str(flaw) for flaw in stream.flaws.values()]
    if not paths or lost.all():
        raise InputError([*problems, *flaws])
    console.console.print(music.answer_table(paths, probs, judges.class_names, lost))
    if out:
        music.write_answers(out, paths, probs, judges.class_names, stream.flaws)
        predictor.journal_path(out).unlink(missing_ok=True)
        console.say(f"Probabilities of all classes: {out}")
    for problem in [*problems, *flaws]:
        console.say(f"broken: {problem}")
    return 2 if problems or flaws else 0


def write_timelines(run, music: list[str], folder: Path, device) -> int:
    """Write what is heard when in each music file, from end to end; 2 where some could not be read in full."""
    from melgpu import console
    from melgpu.errors import InputError
    from melgpu.prediction import ensemble, music, timeline_plot
    from melgpu.prediction.predictor import Listeners
    from melgpu.prediction.timeline import Timeline, expected_windows

    judges = ensemble.load(run)
    paths, problems = find_music(music)
    settings = judges.recipe.model_copy(update={"machine": run.recipe.machine})
    listeners = Listeners(judges.networks, settings, device)
    audio, spec, batch_size = judges.recipe.audio, judges.recipe.windows, run.recipe.stream.predict_batch_size
    folder.mkdir(parents=True, exist_ok=True)  # not after hours
    expected = [expected_windows(path, audio, spec) for path in paths]
    written = []
    title = f"{len(judges.networks)} networks listen to {len(paths)} files from end to end"
    with console.progress(title, sum(expected), "windows") as tracker:
        for path, name, count in zip(paths, timeline_plot.distinct_names(paths), expected, strict=True):
            timeline, before = Timeline(path, audio, spec, device), tracker.done
            if write_timeline(timeline, judges, listeners, batch_size, folder / name, tracker):
                written.append(f"{path}: {folder / name}.csv and .png")
            tracker.skip(before + count - tracker.done)  # headers may lie
            problems += [timeline.flaw] if timeline.flaw else []
    if not written:
        raise InputError(problems)
    for line in [*written, *(f"broken: {problem}" for problem in problems)]:
        console.say(line)
    return 2 if problems else 0


def write_timeline(timeline, judges, listeners, batch_size: int, out: Path, tracker) -> bool:
    """Write OUT.csv and OUT.png of one file; False and nothing where it gives nothing."""
    import numpy as np

    from melgpu.prediction import timeline_plot

    spans_s, answers = [], []
    with contextlib.closing(timeline.batches(batch_size)) as batches:
        for batch, probs in listeners.probs(batches):
            spans_s.append(timeline.span_s(batch.starts))
            answers.append(judges.combine(probs.numpy()))
            tracker.advance(len(batch.starts), out.name)
    if not answers:
        return False
    title = Path(timeline.path).name
    timeline_plot.save(out, title, np.concatenate(spans_s), np.concatenate(answers), judges.class_names)
    return True


def find_music(given: list[str]) -> tuple[list[str], list[str]]:
    """Every audio file or URL named or below a folder named, and what is wrong with the names of others."""
    from melgpu.data.sources import AUDIO_SUFFIXES, find_audio, is_utf8

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
