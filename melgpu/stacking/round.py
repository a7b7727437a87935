"""Base predictions of a run's current round to stacks, their evaluation, pseudo labels and, at last, submissions."""

from melgpu import console
from melgpu.audio import quarantine
from melgpu.console import Tracker
from melgpu.data.manifest import Split, in_split
from melgpu.runs.formats import pseudo_labels, submission, timings
from melgpu.runs.run import Run
from melgpu.stacking import dataset, evaluation
from melgpu.stacking.dataset import BasePredictions, StackingSet
from melgpu.stacking.evaluation import EvaluationMetadata, RoundEvaluation
from melgpu.stacking.stack import Stack, fit_subfolds
from melgpu.stacking.stack_file import StackMetadata, save_stack


def stack_round(run: Run, round_number: int) -> None:
    """Fit and save a round's stacks, evaluate them, and write pseudo labels or, after the last round, submissions.

    A round without stackers is evaluated only. Raises InputError where predictions are missing or do not match.
    """
    base = dataset.load_base_predictions(run, round_number)
    stacking_sets = dataset.stacking_sets(run, round_number, base)
    stacks = fit_stacks(run, round_number, stacking_sets)
    round_evaluation = evaluate_stacks(run, round_number, base, stacks)
    if not run.without_pseudo:  # the variant is for a comparison of scores only
        if round_number < run.last_round:
            write_pseudo_labels(run, round_number, round_evaluation, base)
        else:
            write_submissions(run, round_evaluation)
    run.finish_round(round_number, round_evaluation.round_scores())  # last: its file marks the round as stacked


def evaluate_stacks(
    run: Run, round_number: int, base: BasePredictions, stacks: list[tuple[StackingSet, Stack]]
) -> RoundEvaluation:
    """Evaluate a round's stacks; writes both."""
    if any(stack.is_constant for _, stack in stacks):
        console.say("LightGBM found no split: too few validation tracks for stacking.min_child_weight")
    round_evaluation = evaluation.evaluate_round(run, round_number, base, stacks)
    for stacking_set, stack in stacks:
        if stack.weights:
            write_stack(run, round_number, stacking_set, stack, round_evaluation.metadata)
    evaluation.save(round_evaluation, run.paths.evaluation(round_number))
    return round_evaluation


def fit_stacks(run: Run, round_number: int, stacking_sets: list[StackingSet]) -> list[tuple[StackingSet, Stack]]:
    """Each stacking set with its stack; nothing is fitted in a round without stackers."""
    if not run.round_spec(round_number).blend:
        return [(stacking_set, new_stack(run, round_number, stacking_set)) for stacking_set in stacking_sets]
    # The stackers are fitted once for each sub-fold of each stacking set, hence the unit of progress.
    num_fits = sum(stacking_set.num_subfolds for stacking_set in stacking_sets)
    timing = timings.measure(run.paths.timings, round_number, f"stack{run.variant_suffix}", num_fits, "sub-folds")
    with timing, console.progress(f"round {round_number}: stacking", num_fits, "sub-folds") as tracker:
        return [(stacking_set, fit_stack(run, round_number, stacking_set, tracker)) for stacking_set in stacking_sets]


def new_stack(run: Run, round_number: int, stacking_set: StackingSet) -> Stack:
    """A stack before anything is fitted."""
    _, num_models, num_classes = stacking_set.validation.matrix.shape
    return Stack(num_models, num_classes, run.round_spec(round_number).blend)


def fit_stack(run: Run, round_number: int, stacking_set: StackingSet, tracker: Tracker) -> Stack:
    """Fit the stackers of one stacking set, once for each of its sub-folds."""
    spec = run.round_spec(round_number)
    train = stacking_set.train
    subfolds = stacking_set.subfolds
    stack = new_stack(run, round_number, stacking_set)
    title = f"fold {' '.join(map(str, stacking_set.folds))}"
    phase = "pretraining on training tracks" if train else "fitting on validation tracks"
    tracker.advance(0, f"{title}, {phase}")
    # A generator, so that the progress bar advances as sub-folds are fitted.
    settings = run.stack_settings(round_number).stacking
    for subfold in fit_subfolds(train, stacking_set.validation, subfolds, list(spec.blend), settings):
        stack.subfold_stackers.append(subfold)
        tracker.advance(1, f"{title}, sub-fold {len(stack.subfold_stackers)}/{stacking_set.num_subfolds}")
    return stack


def write_stack(
    run: Run, round_number: int, stacking_set: StackingSet, stack: Stack, evaluated: EvaluationMetadata
) -> None:
    """Write a stack, for the prediction of new music."""
    selection = evaluated.selection
    metadata = StackMetadata(
        provenance=evaluated.provenance,
        final_predictor=selection.predictor if selection else evaluated.final_predictor,
        folds=stacking_set.folds,
        backbones=run.round_spec(round_number).backbones,
        class_names=run.class_names,
        weights=dict(stack.weights),
        fitted_weights=[dict(subfold.weights) for subfold in stack.subfold_stackers],
    )
    save_stack(stack, metadata, run.paths.stack(round_number, stacking_set.folds))


def write_submissions(run: Run, round_evaluation: RoundEvaluation) -> None:
    """Write the predicted labels of each test set; a track without usable audio gets the most frequent class."""
    if audio_errors := quarantine.load_errors(run.paths.quarantine):
        console.say(quarantine.summarize(audio_errors, run.paths.quarantine))
    for split, path in run.submission_paths.items():
        rows = [row for row, row_split in enumerate(round_evaluation.splits) if row_split is split]
        classes = round_evaluation.final_probs[rows].argmax(axis=1)
        labels = [round_evaluation.class_names[index] for index in classes]
        submission.write_submission(path, run.manifest.ids_for_submission(split), labels)


def write_pseudo_labels(run: Run, round_number: int, round_evaluation: RoundEvaluation, base: BasePredictions) -> None:
    """Select the pseudo labels for the next round, among tracks with usable audio, and write them."""
    public = run.manifest.rows(Split.PUBLIC)
    usable = ~base.unusable[public]
    ids = [run.manifest.ids[row] for row in public[usable]]
    is_public = in_split(round_evaluation.splits, Split.PUBLIC)
    probs = round_evaluation.final_probs[is_public][usable]  # test rows are in the manifest's order, as `public` is
    selected = pseudo_labels.select(ids, probs, base.votes(public[usable]), run.class_names, run.recipe.pseudo)
    soft_classes = pseudo_labels.soft_classes(run.recipe.pseudo, run.class_names)
    pseudo_labels.save(selected, run.paths.pseudo_labels(round_number), round_number, run.recipe.digest(), soft_classes)
    total_weight = sum(label.confidence for label in selected)
    note = f", which count as {total_weight:.1f} in the loss" if soft_classes else ""
    kind = run.recipe.pseudo.kind
    console.say(
        f"Round {round_number}: {len(selected)} of {len(public)} public test tracks get a {kind} pseudo label{note}"
    )
