"""Stacks the last round of a run anew by other settings, from predictions that are there: nothing is trained.

The new stack is written beside the old one, into a folder of its own. Then one file, stack_settings.json, switches, and
the old folder is deleted: a process that is killed leaves the old result or the new one. What is derived from a stack,
submissions and report, is deleted before the switch; who calls `restack` writes it afterwards, or a later call does.
"""

import shutil
from dataclasses import replace

import numpy as np

from melgpu import console
from melgpu.data.manifest import Split, in_split
from melgpu.errors import InputError
from melgpu.recipe import recipe_differences
from melgpu.recipe_schema import StackSettings
from melgpu.runs.folder import switch_stack
from melgpu.runs.run import Run
from melgpu.stacking import dataset, evaluation
from melgpu.stacking.dataset import StackingSet
from melgpu.stacking.round import evaluate_stacks, fit_stacks, new_stack, write_submissions
from melgpu.stacking.stack import Stack, is_stop_row, with_fitted_weights
from melgpu.stacking.stack_file import load_stack


def restack(run: Run, settings: StackSettings) -> Run:
    """The run with the last round stacked by `settings`; of both variants, where the one without pseudo labels is.

    Nothing is done where these are its settings. Raises InputError, and changes nothing, where an earlier round is not
    stacked or predictions are missing.
    """
    last_round = run.last_round
    if settings == run.stack_settings(last_round):
        return run
    _check_ready(run)
    is_changed = settings != run.recipe.stack_settings(last_round)
    changed = replace(run, changed_stack=settings if is_changed else None)
    variants = _variants(run)
    for variant in variants:
        dataset.check_complete(variant, last_round)
    changes = recipe_differences(run.stacking_recipe(last_round), changed.stacking_recipe(last_round))
    console.say(f"Stacking round {last_round} anew: {'; '.join(changes)}")
    for variant in variants:
        _stack_beside(variant, replace(variant, changed_stack=changed.changed_stack))
    for path in (*run.submission_paths.values(), run.paths.report):
        path.unlink(missing_ok=True)
    switch_stack(changed)
    for variant in variants:
        _delete_other_stacks(replace(variant, changed_stack=changed.changed_stack))
    return changed


def _delete_other_stacks(run: Run) -> None:
    """Delete the stacks of the last round by other settings."""
    for stack_folder in run.paths.stack_folders(run.last_round):
        if stack_folder != run.paths.stack_folder(run.last_round):
            shutil.rmtree(stack_folder, ignore_errors=True)  # what is left of it has no effect


def write_missing_submissions(run: Run) -> None:
    """Write the submissions of a stacked last round where one is missing, as after a kill before it was written."""
    with_pseudo = replace(run, without_pseudo=False)
    is_missing = not all(path.exists() for path in run.submission_paths.values())
    if is_missing and with_pseudo.is_stacked(run.last_round):
        write_submissions(with_pseudo, evaluation.load(with_pseudo.paths.evaluation(run.last_round)))


def _check_ready(run: Run) -> None:
    current_round = run.current_round
    if current_round and current_round < run.last_round:
        raise InputError(
            f"{run.folder}: settings of the stack can change in the last round, {run.last_round}, and round "
            f"{current_round} is not stacked yet: leave --set out"
        )


def _variants(run: Run) -> list[Run]:
    """The requested variant, and the other one if it is stacked: both have the same settings, to be comparable."""
    others = [replace(run, without_pseudo=not run.without_pseudo)] if run.last_round > 1 else []
    return [run, *(other for other in others if other.is_stacked(run.last_round))]


def _stack_beside(old: Run, new: Run) -> None:
    """Write the last round's stack of `new`, beside that of `old`."""
    last_round = new.last_round
    shutil.rmtree(new.paths.stack_folder(last_round), ignore_errors=True)  # of a call that was killed
    base = dataset.load_base_predictions(new, last_round)
    stacking_sets = dataset.stacking_sets(new, last_round, base)
    stacks = _fitted_stacks(old, new, stacking_sets) or fit_stacks(new, last_round, stacking_sets)
    round_evaluation = evaluate_stacks(new, last_round, base, stacks)
    new.finish_round(last_round, round_evaluation.round_scores())


def _fitted_stacks(old: Run, new: Run, stacking_sets: list[StackingSet]) -> list[tuple[StackingSet, Stack]] | None:
    """The stackers that were fitted already; None where settings of fitting or tracks changed, or a file is damaged."""
    last_round = new.last_round
    before, after = old.stack_settings(last_round), new.stack_settings(last_round)
    same_output = {"final_predictor": after.stacking.final_predictor}
    if not old.is_stacked(last_round) or before.stacking.model_copy(update=same_output) != after.stacking:
        return None
    if not after.blend or not after.blend.keys() <= before.blend.keys():
        return None
    try:
        if not _are_of_evaluation(old, stacking_sets):
            console.say("Other predictions or usable validation tracks than before: the stackers are fitted anew")
            return None
        return [(each, _fitted_stack(old, new, each)) for each in stacking_sets]
    except InputError as error:
        console.say(f"{error}: its stackers are fitted anew")
        return None


def _are_of_evaluation(old: Run, stacking_sets: list[StackingSet]) -> bool:
    """Whether the stackers were fitted on these tracks, and on these predictions of them.

    Other tracks have other sub-folds, none of them out of fold; networks that were trained again predict otherwise.
    """
    evaluated = evaluation.load(old.paths.evaluation(old.last_round))
    is_valid = in_split(evaluated.splits, Split.VALID)
    ids = np.array(evaluated.ids)[is_valid]
    rows = np.concatenate([each.rows for each in stacking_sets])
    folds = np.concatenate([each.row_folds for each in stacking_sets])
    if not np.array_equal(ids, np.array(old.manifest.ids)[rows]):
        return False
    matrix = np.concatenate([each.validation.matrix for each in stacking_sets])  # (N, K, C)
    backbones = old.round_spec(old.last_round).backbones
    networks = np.stack([evaluated.probs_of(backbone)[is_valid] for backbone in backbones], axis=1)
    return np.array_equal(evaluated.folds[is_valid], folds) and np.allclose(networks, matrix, atol=1e-6)


def _fitted_stack(old: Run, new: Run, stacking_set: StackingSet) -> Stack:
    """The stackers that a stack of `new` needs of that of `old`, whose blend has them all."""
    path = old.paths.stack(old.last_round, stacking_set.folds)
    loaded, metadata = load_stack(path)
    if differences := metadata.provenance.differences(old.stack_provenance(old.last_round)):
        raise InputError(f"{path}: {', '.join(differences)}")
    stack = new_stack(new, new.last_round, stacking_set)
    for index, subfold in enumerate(loaded.subfold_stackers):
        stackers = {name: subfold.stackers[name] for name in stack.weights}
        stop = stacking_set.validation.select(is_stop_row(stacking_set.subfolds, index))
        stack.subfold_stackers.append(with_fitted_weights(stackers, stop))
    return stack
