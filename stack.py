#!/usr/bin/env python3
"""Stack the networks of a run's current round: scores, pseudo labels for the next round, in the end submission.csv."""

from melgpu import cli

EPILOG = """examples:
  python stack.py --run runs/mine
  python stack.py --run runs/mine --without-pseudo     a round trained without pseudo labels, to see what they change

Needs the predictions of every network of the round (predict.py). Labels of test sets, where their CSVs have them, are
used for the scores alone. report.html is written at the end of each round, and anew by later calls."""


def main() -> None:
    args = cli.parser(__doc__, EPILOG).parse_args()
    from melgpu import console
    from melgpu.report import tables
    from melgpu.runs import run
    from melgpu.stacking.stack import compared_predictor, final_predictor

    opened = run.open_run(args.run, args.overrides, args.without_pseudo)
    number = opened.current_round
    if number is None:
        number = len(opened.recipe.rounds)
    else:
        stack_or_explain(opened, number)
    scores = opened.scores(number)
    console.console.print(tables.score_table(f"Round {number}{opened.remark}", scores))
    answer = final_predictor(opened.recipe.stacking.answer, len(opened.spec(number).blend))
    console.say(tables.gain_line(compared_predictor(answer), scores))
    if doubt := tables.doubt_line(answer, scores):
        console.say(doubt)
    write_page(opened)
    if opened.current_round:
        console.say(f"Round {number} is done. Next: python train.py {opened.flags}")
        return
    for path in () if args.without_pseudo else opened.submissions.values():
        console.say(f"Submission: {path}")
    if not opened.submissions:
        console.say("No submission: the run was begun without --test and --private")
    console.say(f"For music of your own: python predict.py {opened.flags} song.mp3 folder/")


def stack_or_explain(run, number: int) -> None:
    """Stack a round. Raises InputError where its predictions are missing; what earlier rounds gave is shown anew."""
    from melgpu.errors import InputError

    try:
        stack_round(run, number)
    except InputError:
        if run.is_stacked(1):
            write_page(run)
        raise


def write_page(run) -> None:
    """Write the report; whatever is wrong with it costs nothing but the report."""
    from dataclasses import replace

    from melgpu import console
    from melgpu.errors import brief
    from melgpu.report import html

    try:
        html.write(replace(run, without_pseudo=False))
        console.say(f"Report: {run.report_path}")
    except Exception as error:
        console.say(f"No report: {brief(error)}")


def stack_round(run, number: int) -> None:
    """Fit a round's stackers, judge its tracks with them, and write what the round leaves behind."""
    from melgpu import console
    from melgpu.runs import timings
    from melgpu.stacking import dataset, evaluation

    votes = dataset.hear(run, number)
    cases = dataset.cases(run, number, votes)
    fits = sum(case.num_subfolds for case in cases)
    timed = timings.measured(run.times_path, number, f"stack{run.remark}", fits, "sub-folds")
    with timed, console.progress(f"round {number}: stacking", fits, "sub-folds") as tracker:
        stacks = [(case, fit_stack(run, number, case, tracker)) for case in cases]
    if any(stack.is_idle for _, stack in stacks):
        console.say("LightGBM found nothing to learn: too few validation tracks for stacking.min_child_weight")
    made = dataset.judge(run, number, votes, stacks)
    for case, stack in stacks:
        save_stack(run, number, case.folds, stack)
    evaluation.save(made, run.judged_path(number))
    if not run.without_pseudo:
        leave_behind(run, number, made, votes)
    run.finish_round(number, made.scores())


def fit_stack(run, number: int, case, tracker):
    """The stackers of one case, a part for each of its sub-folds."""
    from melgpu.stacking.stack import Stack, fit_subfolds

    spec, (matrix, _) = run.spec(number), case.valid
    stack = Stack(matrix.shape[1], matrix.shape[2], spec.blend)
    title = f"fold {' '.join(map(str, case.folds))}"
    tracker.advance(0, f"{title}, learning from {'the training side' if case.train else 'validation tracks'}")
    for part in fit_subfolds(case.train, case.valid, case.subfolds, list(spec.blend), run.recipe.stacking):
        stack.subfolds.append(part)
        tracker.advance(1, f"{title}, sub-fold {len(stack.subfolds)}/{case.num_subfolds}")
    return stack


def save_stack(run, number: int, folds: tuple[int, ...], stack) -> None:
    """For predict.py, which judges new music with it."""
    from melgpu.stacking.stack import save_stack

    about = {"round": number, "folds": list(folds), "models": list(run.spec(number).backbones)}
    about |= {"class_names": run.class_names, "digest": run.recipe.digest(), "pseudo": run.pseudo_digest(number)}
    save_stack(stack, run.stack_path(number, folds), about)


def leave_behind(run, number: int, made, votes) -> None:
    """Pseudo labels where another round follows, submissions after the last.

    A test track of which nobody heard anything gets no pseudo label, and the training tracks' commonest class.
    """
    from melgpu import console
    from melgpu.audio import quarantine
    from melgpu.runs import submission

    if number < len(run.recipe.rounds):
        label_public(run, number, made, votes)
        return
    if flaws := quarantine.load(run.quarantine_path):
        console.say(quarantine.summary(flaws, run.quarantine_path))
    for split, path in run.submissions.items():
        rows = [row for row, own in enumerate(made.splits) if own == split]
        labels = [made.class_names[c] for c in made.answers[rows].argmax(axis=1)]
        submission.write_submission(path, [made.ids[row] for row in rows], labels)


def label_public(run, number: int, made, votes) -> None:
    """Choose and keep the pseudo labels for the next round."""
    import numpy as np

    from melgpu import console
    from melgpu.runs import pseudo_labels

    public = run.manifest.rows("public")
    is_heard = ~votes.lost[public]
    ids = [run.manifest.ids[row] for row in public[is_heard]]
    probs = made.answers[np.array(made.splits) == "public"][is_heard]
    chosen = pseudo_labels.select(ids, probs, votes.of_networks(public[is_heard]), run.class_names, run.recipe.pseudo)
    pseudo_labels.save(chosen, run.pseudo_path(number), number, run.recipe.digest())
    console.say(f"Round {number}: {len(chosen)} of {len(public)} public test tracks get a pseudo label")


if __name__ == "__main__":
    cli.run(main)
