#!/usr/bin/env python3
"""Stack the networks of a run's current round: scores, pseudo labels for the next round, in the end submission.csv."""

from melgpu import cli

EPILOG = """examples:
  python stack.py --run runs/mine
  python stack.py --run runs/mine --without-pseudo     a round trained without pseudo labels, to see what they change

Needs the predictions of every network of the round (predict.py). Labels of test sets, where their CSVs have them, are
used for the scores alone. Every call writes report.html anew."""


def main() -> None:
    args = cli.parser(__doc__, EPILOG).parse_args()
    from dataclasses import replace

    from melgpu import page, report, run, stacking

    opened = run.open_run(args.run, args.overrides, args.without_pseudo)
    number = opened.current_round
    if number is None:
        number = len(opened.recipe.rounds)
    else:
        stack_round(opened, number)
    scores = opened.scores(number)
    report.console.print(report.score_table(f"Round {number}{opened.remark}", scores))
    answer = stacking.answer(opened.recipe.stacking.weights, len(opened.spec(number).blend))
    report.say(report.gain_line(answer, scores))
    page.write(replace(opened, without_pseudo=False))
    report.say(f"Report: {opened.report_path}")
    if opened.current_round:
        report.say(f"Round {number} is done. Next: python train.py {opened.flags}")
        return
    for path in () if args.without_pseudo else opened.submissions.values():
        report.say(f"Submission: {path}")
    report.say(f"For music of your own: python predict.py {opened.flags} song.mp3 folder/")


def stack_round(run, number: int) -> None:
    """Fit a round's stackers, judge its tracks with them, and write what the round leaves behind."""
    from melgpu import judged, jury, report, times

    votes = jury.hear(run, number)
    cases = jury.cases(run, number, votes)
    fits = sum(case.num_subfolds for case in cases)
    timed = times.measured(run.times_path, number, f"stack{run.remark}", fits, "sub-folds")
    with timed, report.progress(f"round {number}: stacking", fits, "sub-folds") as tracker:
        stacks = [(case, fit_stack(run, number, case, tracker)) for case in cases]
    made = jury.judge(run, number, votes, stacks)
    for case, stack in stacks:
        save_stack(run, number, case.folds, stack)
    judged.save(made, run.judged_path(number))
    if not run.without_pseudo:
        leave_behind(run, number, made, votes)
    run.finish_round(number, made.scores())


def fit_stack(run, number: int, case, tracker):
    """The stackers of one case, a part for each of its sub-folds."""
    from melgpu.stacking import Stack, fit

    spec, (matrix, _) = run.spec(number), case.valid
    stack = Stack(matrix.shape[1], matrix.shape[2], spec.blend)
    for subfold in range(case.num_subfolds):
        tracker.advance(0, f"fold {' '.join(map(str, case.folds))}, sub-fold {subfold + 1}/{case.num_subfolds}")
        part = fit(subfold, case.train, case.valid, case.subfolds, list(spec.blend), run.recipe.stacking)
        stack.subfolds.append(part)
        tracker.advance(1)
    return stack


def save_stack(run, number: int, folds: tuple[int, ...], stack) -> None:
    """For predict.py, which judges new music with it."""
    from melgpu import stacking

    about = {"round": number, "folds": list(folds), "models": list(run.spec(number).backbones)}
    about |= {"class_names": run.class_names, "digest": run.recipe.digest(), "pseudo": run.pseudo_digest(number)}
    stacking.save(stack, run.stack_path(number, folds), about)


def leave_behind(run, number: int, made, votes) -> None:
    """Pseudo labels where another round follows, submissions after the last.

    A test track of which nobody heard anything gets no pseudo label, and the training tracks' commonest class.
    """
    from melgpu import quarantine, report

    if number < len(run.recipe.rounds):
        label_public(run, number, made, votes)
        return
    if flaws := quarantine.load(run.quarantine_path):
        report.say(quarantine.summary(flaws, run.quarantine_path))
    answers = dict(zip(made.ids, (made.class_names[c] for c in made.answers.argmax(axis=1)), strict=True))
    for split, path in run.submissions.items():
        ids = [run.manifest.ids[row] for row in run.manifest.rows(split)]
        report.write_submission(path, ids, [answers[name] for name in ids])


def label_public(run, number: int, made, votes) -> None:
    """Choose and keep the pseudo labels for the next round."""
    import numpy as np

    from melgpu import pseudo, report

    public = run.manifest.rows("public")
    heard = public[~votes.lost[public]]
    place = {name: number for number, name in enumerate(made.ids)}
    ids = [run.manifest.ids[row] for row in heard]
    probs = made.answers[np.array([place[name] for name in ids], int)]
    chosen = pseudo.select(ids, probs, votes.of_networks(heard), run.class_names, run.recipe.pseudo)
    pseudo.save(chosen, run.pseudo_path(number), number, run.recipe.digest())
    report.say(f"Round {number}: {len(chosen)} of {len(public)} public test tracks get a pseudo label")


if __name__ == "__main__":
    cli.run(main)
