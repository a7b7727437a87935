"""Base predictions of a run's current round to stacks, their evaluation, pseudo labels and, in the end, submissions."""

import numpy as np

from melgpu import console
from melgpu.audio import quarantine
from melgpu.console import Tracker
from melgpu.runs import pseudo_labels, submission, timings
from melgpu.runs.run import Run
from melgpu.stacking import dataset, evaluation
from melgpu.stacking.dataset import BasePredictions, StackingSet
from melgpu.stacking.evaluation import RoundEvaluation
from melgpu.stacking.stack import Stack, fit_subfolds, save_stack


def stack_round(run: Run, number: int) -> None:
    """Fit a round's stackers, evaluate them, and write what the round leaves behind.

    Raises InputError where predictions are missing or do not belong together.
    """
    votes = dataset.load_base_predictions(run, number)
    cases = dataset.stacking_sets(run, number, votes)
    fits = sum(case.num_subfolds for case in cases)
    timed = timings.measure(run.timings_path, number, f"stack{run.variant}", fits, "sub-folds")
    with timed, console.progress(f"round {number}: stacking", fits, "sub-folds") as tracker:
        stacks = [(case, fit_stack(run, number, case, tracker)) for case in cases]
    if any(stack.is_constant for _, stack in stacks):
        console.say("LightGBM found nothing to learn: too few validation tracks for stacking.min_child_weight")
    made = evaluation.evaluate_round(run, number, votes, stacks)
    for case, stack in stacks:
        write_stack(run, number, case, stack)
    evaluation.save(made, run.evaluation_path(number))
    if not run.without_pseudo:
        if number < len(run.recipe.rounds):
            write_pseudo_labels(run, number, made, votes)
        else:
            write_submissions(run, made)
    run.finish_round(number, made.scores())


def fit_stack(run: Run, number: int, case: StackingSet, tracker: Tracker) -> Stack:
    """The stackers of one stacking set, a part for each of its sub-folds."""
    spec = run.spec(number)
    _, num_models, num_classes = case.validation[0].shape
    stack = Stack(num_models, num_classes, spec.blend)
    title = f"fold {' '.join(map(str, case.folds))}"
    tracker.advance(0, f"{title}, learning from {'the training side' if case.train else 'validation tracks'}")
    for part in fit_subfolds(case.train, case.validation, case.subfolds, list(spec.blend), run.recipe.stacking):
        stack.subfolds.append(part)
        tracker.advance(1, f"{title}, sub-fold {len(stack.subfolds)}/{case.num_subfolds}")
    return stack


def write_stack(run: Run, number: int, case: StackingSet, stack: Stack) -> None:
    """Write a stack for predict.py, which predicts new music with it."""
    metadata = {
        "round": number,
        "folds": list(case.folds),
        "models": list(run.spec(number).backbones),
        "class_names": run.class_names,
        "recipe_digest": run.recipe.digest(),
        "pseudo_digest": run.pseudo_digest(number),
    }
    save_stack(stack, run.stack_path(number, case.folds), metadata)


def write_submissions(run: Run, made: RoundEvaluation) -> None:
    """The final labels of each test set; a track without usable audio gets the training tracks' commonest class."""
    if audio_errors := quarantine.load_errors(run.quarantine_path):
        console.say(quarantine.summarize(audio_errors, run.quarantine_path))
    for split, path in run.submissions.items():
        rows = [row for row, own in enumerate(made.splits) if own == split]
        labels = [made.class_names[c] for c in made.final_probs[rows].argmax(axis=1)]
        submission.write_submission(path, [made.ids[row] for row in rows], labels)


def write_pseudo_labels(run: Run, number: int, made: RoundEvaluation, votes: BasePredictions) -> None:
    """Choose the pseudo labels for the next round, of tracks with usable audio, and write them."""
    public = run.manifest.rows("public")
    has_audio = ~votes.unusable[public]
    ids = [run.manifest.ids[row] for row in public[has_audio]]
    probs = made.final_probs[np.array(made.splits) == "public"][has_audio]
    chosen = pseudo_labels.select(ids, probs, votes.votes(public[has_audio]), run.class_names, run.recipe.pseudo)
    pseudo_labels.save(chosen, run.pseudo_path(number), number, run.recipe.digest())
    console.say(f"Round {number}: {len(chosen)} of {len(public)} public test tracks get a pseudo label")
