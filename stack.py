#!/usr/bin/env python3
"""Stack the networks of a run's current round: scores, pseudo labels for the next round, in the end submission.csv."""

from melgpu import cli

EPILOG = """example:
  python stack.py --run runs/mine

Needs the predictions of every network of the round (predict.py). Labels of test sets, where their CSVs have them, are
used for the scores alone."""


def main() -> None:
    args = cli.parser(__doc__, EPILOG).parse_args()
    from melgpu import report, run

    opened = run.open_run(args.run, args.overrides)
    number = opened.current_round
    if number is None:
        number = len(opened.recipe.rounds)
    else:
        stack_round(opened, number)
    report.console.print(report.score_table(f"Round {number}", opened.scores(number)))
    if opened.current_round:
        report.say(f"Round {number} is done. Next: python train.py --run {opened.folder}")
        return
    for path in opened.submissions.values():
        report.say(f"Submission: {path}")
    report.say(f"For music of your own: python predict.py --run {opened.folder} song.mp3 folder/")


def stack_round(run, number: int) -> None:
    """Fit the stackers of each fold, judge the test sets with all of them, and write what the round leaves behind."""
    import numpy as np

    from melgpu import report
    from melgpu.run import class_numbers

    loaded = {fold: load_members(run, number, fold) for fold in run.spec(number).folds}
    matrices = {fold: matrix_of(run, members) for fold, members in loaded.items()}
    lost = np.any([member.lost for members in loaded.values() for member in members], axis=0)
    truth = class_numbers(run.manifest, run.class_names)
    valid, test = [], []
    fits = len(matrices) * len(run.spec(number).blend)
    with report.progress(f"round {number}: stacking", fits, "stackers") as tracker:
        for fold, matrix in matrices.items():
            train_rows, valid_rows = (rows[~lost[rows]] for rows in run.round_rows(number, fold))
            fold_valid, fold_test = stack_fold(run, number, fold, matrix, train_rows, valid_rows, tracker)
            valid.append((fold_valid, truth[valid_rows]))
            test.append(fold_test)
    judged = {name: np.mean([fold[name] for fold in test], axis=0) for name in test[0]}
    for probs in judged.values():
        probs[lost[run.test_rows]] = run.prior
    scores = score_validation(valid)
    for split in run.test_splits:
        score_test(scores, split, judged, run.manifest.rows(split), run.test_rows, truth)
    leave_behind(run, number, judged["blend"], lost)
    run.finish_round(number, scores)


def load_members(run, number: int, fold: int) -> list:
    """The predictions of a fold's networks. Raises InputError where some are missing."""
    from melgpu import predictions
    from melgpu.errors import InputError

    jobs = [job for job in run.jobs(number) if job.fold == fold]
    missing = [job.name for job in jobs if not (run.is_trained(job) and run.is_predicted(job))]
    if missing:
        names = (f"round {number}: no predictions of {name} as it is now" for name in missing)
        raise InputError([*names, f"run python train.py and python predict.py with --run {run.folder} first"])
    return [predictions.load(run.predictions_path(job)) for job in jobs]


def matrix_of(run, members: list):
    """Track probabilities of a fold's networks, shape (N, K, C), one row a row of the manifest. Raises InputError."""
    from melgpu import predictions

    return predictions.align(members, run.manifest.ids, run.class_names, run.recipe.digest())


def stack_fold(run, number: int, fold: int, matrix, train_rows, valid_rows, tracker) -> tuple[dict, dict]:
    """Fit and save one fold's stackers; probabilities of its validation tracks (out of fold) and of the test tracks."""
    from melgpu import stacking
    from melgpu.run import class_numbers

    spec, labels = run.spec(number), class_numbers(run.labelled(number)[0], run.class_names)
    sides = (matrix[train_rows], labels[train_rows]), (matrix[valid_rows], labels[valid_rows])
    stack, out_of_fold = stacking.Stack(matrix.shape[1], matrix.shape[2]), {}
    for name in spec.blend:
        tracker.advance(0, f"fold {fold}: {name}")
        stack.members[name], out_of_fold[name] = stacking.fit(name, *sides, run.recipe.stacking)
        tracker.advance(1)
    about = {"round": number, "fold": fold, "models": list(spec.backbones), "class_names": run.class_names}
    stacking.save(stack, run.stack_path(number, fold), {**about, "digest": run.recipe.digest()})
    on_valid = with_members(spec, matrix[valid_rows], out_of_fold)
    return on_valid, with_members(spec, matrix[run.test_rows], stack.predict(matrix[run.test_rows]))


def with_members(spec, matrix, stacked: dict) -> dict:
    """The stackers' probabilities between those of each network and their mean, and the blend."""
    from melgpu import stacking

    networks = {name: matrix[:, k] for k, name in enumerate(spec.backbones)}
    return {**networks, "mean": matrix.mean(axis=1), **stacked, "blend": stacking.blend(stacked, spec.blend)}


def score_validation(folds: list) -> dict:
    """{name: {"validation": (accuracy, tracks)}} over the validation tracks of all folds."""
    import numpy as np

    from melgpu.metrics import accuracy

    labels = np.concatenate([labels for _, labels in folds])
    return {
        name: {"validation": (accuracy(np.concatenate([probs[name] for probs, _ in folds]), labels), len(labels))}
        for name in folds[0][0]
    }


def score_test(scores: dict, split: str, judged: dict, rows, test_rows, truth) -> None:
    """Add a test set's column to the scores, over the tracks whose labels are known."""
    import numpy as np

    from melgpu.metrics import accuracy

    known = np.isin(test_rows, rows) & (truth[test_rows] >= 0)
    for name, probs in judged.items():
        if known.any():
            scores[name][split] = (accuracy(probs[known], truth[test_rows][known]), int(known.sum()))


def leave_behind(run, number: int, probs, lost) -> None:
    """Pseudo labels where another round follows, submissions after the last; `probs` of the test rows, (T, C).

    A track in `lost`, (N,) bool, gave nothing to hear: its answer is the training tracks' commonest class.
    """
    from melgpu import pseudo, quarantine, report

    split_of = [run.manifest.splits[row] for row in run.test_rows]
    ids = [run.manifest.ids[row] for row in run.test_rows]
    if number < len(run.recipe.rounds):
        heard = ~lost[run.test_rows]
        public = [i for i, split in enumerate(split_of) if split == "public" and heard[i]]
        chosen = pseudo.select([ids[i] for i in public], probs[public], run.class_names, run.recipe.pseudo.threshold)
        pseudo.save(chosen, run.pseudo_path(number), number, run.recipe.digest())
        report.say(f"Round {number}: {len(chosen)} of {len(public)} public test tracks get a pseudo label")
        return
    if flaws := quarantine.load(run.quarantine_path):
        report.say(quarantine.summary(flaws, run.quarantine_path))
    for split, path in run.submissions.items():
        rows = [i for i, own in enumerate(split_of) if own == split]
        report.write_submission(path, [ids[i] for i in rows], [run.class_names[c] for c in probs[rows].argmax(axis=1)])


if __name__ == "__main__":
    cli.run(main)
