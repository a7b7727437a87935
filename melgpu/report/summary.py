"""Summary sentences of a run's report, and the number formats of its figures."""

from collections.abc import Mapping, Sequence

import numpy as np

from melgpu.audio.quarantine import AudioError
from melgpu.console import counted, duration
from melgpu.data.manifest import Split
from melgpu.metrics import SIGNIFICANCE_LEVEL, wilson_interval
from melgpu.recipe import recipe_differences
from melgpu.recipe_schema import Stacker, StackSettings
from melgpu.report import analysis
from melgpu.report.analysis import PREDICTOR_NAMES, RoundResult
from melgpu.report.pseudo_label_counts import PseudoLabelCounts
from melgpu.report.training_times import TrainingTime
from melgpu.runs.formats.scores import Interval, Score, Scores, Selection
from melgpu.runs.formats.timings import StageTiming
from melgpu.runs.run import Run
from melgpu.stacking.stack import MEAN, compared_predictor

SPACE = "\N{NO-BREAK SPACE}"  # between a number and its unit, which stay on one line


def in_percent(fraction: float, digits: int = 0) -> str:
    """A fraction in percent, without the sign; never rounded to 0 where it is above, nor to 100 where it is below."""
    if 0 < fraction < 0.5 / 10 ** (digits + 2):
        return f"under {10.0**-digits:g}"
    if 1 - 0.5 / 10 ** (digits + 2) <= fraction < 1:
        return f"over {100 - 10.0**-digits:g}"
    return f"{100 * fraction:.{digits}f}"


def percent(fraction: float, digits: int = 0) -> str:
    """A fraction in percent, with the sign."""
    return f"{in_percent(fraction, digits)}{SPACE}%"


def points(gain: float) -> str:
    """A difference of fractions in percentage points, with its sign."""
    rounded = round(100 * gain, 1) + 0.0  # -0.0 becomes 0.0
    return f"{rounded:+.1f}".replace("+0.0", "0.0").replace("-", "\N{MINUS SIGN}")


def percent_interval(interval: Interval) -> str:
    """An interval of fractions, in percent, without the sign."""
    return f"{100 * interval[0]:.0f}\N{EN DASH}{100 * interval[1]:.0f}"


def points_interval(interval: Interval) -> str:
    """An interval of differences, in percentage points."""
    return f"{points(interval[0])} to {points(interval[1])}"


def significance(gain: float, p_value: float) -> str:
    """Whether a gain is significant, and its direction; see `metrics.sign_test`."""
    if p_value > SIGNIFICANCE_LEVEL:
        return "not significant"
    return "better" if gain > 0 else "worse"


def best_split(scores: Scores) -> Split | None:
    """The split with known labels whose score is the least biased: test sets before validation, none trained on."""
    splits = next(iter(scores.values()))
    labelled = [split for split in (Split.PRIVATE, Split.PUBLIC, Split.VALID) if split in splits]
    # The first without tracks that were trained on, or else the first: `min` returns the first of equal ones.
    return min(labelled, key=lambda split: splits[split].num_pseudo_labelled > 0, default=None)


def accuracy_sentence(result: RoundResult, scores: Scores) -> str:
    """The accuracy of the final predictor, in one sentence."""
    split = best_split(scores)
    if split is None:
        return "No labels of the evaluated tracks are known, so there is no accuracy."
    score = scores[result.final_predictor][split]
    name = result.display_name(result.final_predictor)
    subject = name if name in result.evaluation.predictors else f"The {name}"  # a network's name has no article
    return (
        f"{subject} has an accuracy of {percent(score.accuracy, 1)} on {score.num_tracks} {split.description} "
        f"tracks (95{SPACE}% interval {percent_interval(score.interval)}{SPACE}%)."
    )


def stacking_sentence(result: RoundResult, scores: Scores) -> str:
    """Gains over the mean of the networks of the final predictor, or of the blend where the mean is final."""
    metadata = result.evaluation.metadata
    selected = metadata.selection.predictor if metadata.selection else None
    predictor = compared_predictor(result.final_predictor, selected, len(metadata.settings.blend))
    if predictor is None:
        return ""
    by_split = scores[predictor]
    is_final = predictor == result.final_predictor
    start = "Compared with" if is_final else f"The {PREDICTOR_NAMES[predictor]}, compared with"
    return f"{start} the plain mean of the networks, {_gains_by_significance(by_split)}." if by_split else ""


def _gains_by_significance(by_split: dict[Split, Score]) -> str:
    """Gains by split, in words, significant ones first."""
    groups: dict[str, list[str]] = {"better": [], "worse": [], "not significant": []}  # in the order of the sentence
    for split, score in by_split.items():
        gain = f"{split.description} ({points(score.gain)} points, {points_interval(score.gain_interval)})"
        groups[significance(score.gain, score.gain_p)].append(gain)
    return "; ".join(f"{word} on {enumeration(splits)}" for word, splits in groups.items() if splits)


def enumeration(words: list[str]) -> str:
    """Words as a list in a sentence."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if words[1:] else words)


def blend_weights_sentence(result: RoundResult) -> str:
    """The stackers' weights in the blends; empty where there is one stacker."""
    metadata = result.evaluation.metadata
    weights = metadata.settings.blend
    if len(weights) < 2:
        return ""
    blend = f"The blend: {_weight_percentages(weights)}"
    fitted = f"fitted to validation tracks: {_weight_percentages(metadata.fitted_weights)}"
    return f"Weights of the stackers, in percent. {blend}; {fitted}."


def selection_sentence(selection: Selection) -> str:
    """What `auto` selected, and by which difference from the mean of the networks."""
    mean = PREDICTOR_NAMES[MEAN]
    names = {each.predictor: PREDICTOR_NAMES.get(each.predictor, each.predictor) for each in selection.candidates}
    if selection.predictor in names:
        gain = _candidate_gain(selection, selection.predictor)
        return f"Selected: {names[selection.predictor]}, better than the {mean} ({gain}).{_nested_note(selection)}"
    best = max(selection.candidates, key=lambda candidate: candidate.gain).predictor
    gain = _candidate_gain(selection, best)
    reason = f"as nothing is better beyond chance (most accurate: {names[best]}, {gain})"
    return f"Selected: {mean}, {reason}.{_nested_note(selection)}"


def _candidate_gain(selection: Selection, name: str) -> str:
    candidate = next(each for each in selection.candidates if each.predictor == name)
    count = counted(len(selection.candidates), "comparison")
    return (
        f"{points(candidate.gain)} points, 95{SPACE}% interval {points_interval(candidate.gain_interval)} before "
        f"correction, on {selection.num_tracks} validation tracks, p = {candidate.p_value:.2g} after correction for "
        f"{count}"
    )


def _nested_note(selection: Selection) -> str:
    """Which other predictors are selected where a validation track's own sub-fold is left out."""
    others = {name: count for name, count in selection.nested.items() if name != selection.predictor}
    if not others:
        return ""
    counts = enumeration([f"{PREDICTOR_NAMES.get(name, name)} for {count}" for name, count in others.items()])
    return f" Its accuracy on validation tracks is nested: without a track's own sub-fold it is {counts} of them."


def changed_settings_sentence(run: Run, settings: StackSettings) -> str:
    """The settings of the last round's stack that differ from the recipe of its networks; empty where none does."""
    changes = recipe_differences(run.recipe, run.recipe.restacked(settings))
    return f"Stacked by settings that changed after training: {'; '.join(changes)}." if changes else ""


def _weight_percentages(weights: Mapping[Stacker, float]) -> str:
    total = sum(weights.values()) or 1.0  # all may be 0
    names = {name: PREDICTOR_NAMES.get(name, name).removeprefix("stacker: ") for name in weights}
    return ", ".join(f"{names[name]} {in_percent(weight / total)}" for name, weight in weights.items())


def pseudo_label_sentence(
    run: Run, classes: Sequence[PseudoLabelCounts] | None, comparison: dict[Split, Score] | None
) -> str:
    """The gains of pseudo labels by split, where a round without them is the baseline; else their counts."""
    if len(run.recipe.rounds) == 1:
        return "None: this recipe has one round."
    if comparison:
        return f"Compared with the same round without them, {_gains_by_significance(comparison)}."
    if classes is None:
        return "None are selected yet."
    total = sum(counts.count for counts in classes)
    labelled = sum(counts.labelled for counts in classes)
    accuracy = sum(counts.correct for counts in classes) / max(1, labelled)
    correct = f"; {percent(accuracy)} of those with a known label are correct" if labelled else ""
    return (
        f"{total} of {len(run.manifest.rows(Split.PUBLIC))} public test tracks have one{correct}. Their gain is not "
        "measured: the scripts' --without-pseudo trains the same rounds without them, to compare."
    )


def calibration_sentence(result: RoundResult, scores: Scores) -> str:
    """Whether the final predictor is calibrated, on the split with the least biased score."""
    split = best_split(scores)
    if split is None:
        return "Not known: there are no labels to compare with."
    rows = result.evaluation.rows(split)
    sentence = confidence_sentence(result.evaluation.final_probs[rows], result.evaluation.labels[rows])
    return f"{sentence} ({split.description})."


def confidence_sentence(probs: np.ndarray, labels: np.ndarray) -> str:
    """The mean confidence beside the accuracy."""
    confidence = float(probs.max(axis=1).mean())
    num_correct = int((probs.argmax(axis=1) == labels).sum())
    accuracy = num_correct / len(labels)
    low, high = wilson_interval(num_correct, len(labels))
    finding = "no significant difference"  # where the confidence is within the accuracy's interval
    if confidence < low:
        finding = "underconfident"
    elif confidence > high:
        finding = "overconfident"
    return f"The mean confidence is {percent(confidence)}, the accuracy {percent(accuracy)}: {finding}"


def confusion_sentence(result: RoundResult) -> str:
    """The classes that are confused most, over all tracks with known labels."""
    splits = result.evaluation.labelled_splits
    names = result.run.class_names
    # Without labels this is the sum of nothing, 0, and no matrix: there are no pairs then.
    confusion = np.asarray(sum(analysis.confusion_matrix(result, split) for split in splits))
    pairs = list(analysis.most_confused(confusion, 2)) if splits else []
    phrases = [
        f"{names[truth]} predicted as {names[predicted]} "
        f"({confusion[truth, predicted]} of {confusion[truth].sum()} tracks)"
        for truth, predicted in pairs
    ]
    return f"Most often {', and '.join(phrases)}." if phrases else "None, among tracks with known labels."


def time_sentence(trainings: Sequence[TrainingTime], stage_timings: Sequence[StageTiming]) -> str:
    """The time of each stage, the longest first."""
    stages = {"training": sum(training.total_s for training in trainings)}
    for timing in stage_timings:
        stages[timing.stage] = stages.get(timing.stage, 0.0) + timing.seconds  # each round has its own
    longest_first = sorted(stages.items(), key=lambda item: -item[1])
    phrases = [f"{stage} {duration(seconds)}" for stage, seconds in longest_first if seconds]
    if not phrases:
        return "Nothing was measured."
    slowest = max(trainings, key=lambda training: training.total_s / training.networks, default=None)
    network = ""
    if slowest:  # None without training logs
        seconds_per_fold = slowest.total_s / slowest.networks
        network = f" The slowest network was {slowest.backbone}, {duration(seconds_per_fold)} a fold."
    return f"{duration(sum(stages.values()))} in all: {', '.join(phrases)}.{network}"


def quarantine_sentence(audio_errors: Sequence[AudioError]) -> str:
    """The number of files in quarantine."""
    usable = sum(not audio_error.unusable for audio_error in audio_errors)
    return (
        f"Files in quarantine: {len(audio_errors)}; used up to the error: {usable}."
        if audio_errors
        else "No file is in quarantine."
    )
