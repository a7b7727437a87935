"""Summary sentences of a run's report, and the number formats of its figures."""

from collections.abc import Sequence

import numpy as np

from melgpu.audio.quarantine import AudioError
from melgpu.console import duration
from melgpu.metrics import calibration_curve, wilson_interval
from melgpu.report import analysis
from melgpu.report.analysis import PREDICTOR_NAMES, Comparison, PseudoLabelCounts, RoundResult
from melgpu.report.training_times import TrainingTime
from melgpu.runs.run import Run
from melgpu.runs.timings import StageTiming
from melgpu.stacking.stack import compared_predictor

SPLIT_NAMES = {"validation": "validation", "public": "public test", "private": "private test"}
SPACE = "\N{NO-BREAK SPACE}"  # between a number and its unit, which stay on one line
SIGNIFICANCE_LEVEL = 0.05
Interval = tuple[float, float]


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


def best_split(scores: dict) -> str | None:
    """The split with known labels whose score is the least biased: test sets before validation, none trained on."""
    splits = next(iter(scores.values()))
    labelled = [split for split in ("private", "public", "validation") if split in splits]
    # The first without tracks that were trained on, or else the first: `min` returns the first of equal ones.
    return min(labelled, key=lambda split: splits[split]["pseudo_labelled"] > 0, default=None)


def accuracy_sentence(result: RoundResult, scores: dict) -> str:
    """The accuracy of the final predictor, in one sentence."""
    split = best_split(scores)
    if split is None:
        return "No labels of the evaluated tracks are known, so there is no accuracy."
    score = scores[result.final_predictor][split]
    name = PREDICTOR_NAMES.get(result.final_predictor, result.final_predictor)
    return (
        f"The {name} has an accuracy of {percent(score['accuracy'], 1)} on {score['tracks']} {SPLIT_NAMES[split]} "
        f"tracks (95{SPACE}% interval {percent_interval(score['interval'])}{SPACE}%)."
    )


def stacking_sentence(result: RoundResult, scores: dict) -> str:
    """Gains over the mean of the networks of the final predictor, or of the blend where the mean is final."""
    predictor = compared_predictor(result.final_predictor)
    gains = {
        split: (score["gain"], score["gain_interval"], score["gain_p"]) for split, score in scores[predictor].items()
    }
    is_final = predictor == result.final_predictor
    start = "Compared with" if is_final else f"The {PREDICTOR_NAMES[predictor]}, compared with"
    return f"{start} the plain mean of the networks, {_gains_by_significance(gains)}." if gains else ""


def _gains_by_significance(gains: dict[str, tuple[float, Interval, float]]) -> str:
    """Gains by split, in words, significant ones first."""
    groups = {word: [] for word in ("better", "worse", "not significant")}  # in the order of the sentence
    for split, (gain, interval, p_value) in gains.items():
        groups[significance(gain, p_value)].append(
            f"{SPLIT_NAMES[split]} ({points(gain)} points, {points_interval(interval)})"
        )
    return "; ".join(f"{word} on {_enumeration(splits)}" for word, splits in groups.items() if splits)


def _enumeration(words: list[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if words[1:] else words)


def blend_weights_sentence(result: RoundResult) -> str:
    """The stackers' weights in the blends; empty where there is one stacker."""
    fixed = result.evaluation.provenance.get("weights")
    fitted = result.evaluation.provenance.get("fitted_weights")
    blends = [
        f"{words}: {_weight_percentages(weights)}"
        for words, weights in (("The blend", fixed), ("fitted to validation tracks", fitted))
        if _is_weights(weights)
    ]
    return f"Weights of the stackers, in percent. {'; '.join(blends)}." if blends else ""


def _is_weights(value: object) -> bool:
    """Whether a value, which was read from a file, is weights of two stackers or more."""
    if not isinstance(value, dict) or len(value) <= 1:
        return False
    return all(isinstance(weight, float) and weight >= 0 for weight in value.values())


def _weight_percentages(weights: dict[str, float]) -> str:
    total = sum(weights.values()) or 1.0  # all may be 0
    names = {name: PREDICTOR_NAMES.get(name, name).removeprefix("stacker: ") for name in weights}
    return ", ".join(f"{names[name]} {in_percent(weight / total)}" for name, weight in weights.items())


def pseudo_label_sentence(
    run: Run, classes: Sequence[PseudoLabelCounts] | None, comparisons: dict[str, Comparison] | None
) -> str:
    """The gains of pseudo labels by split, from `comparisons` with rounds without them; else their counts."""
    if len(run.recipe.rounds) == 1:
        return "None: this recipe has one round."
    if comparisons:
        gains = {split: (change.gain, change.interval, change.p_value) for split, change in comparisons.items()}
        return f"Compared with the same round without them, {_gains_by_significance(gains)}."
    if classes is None:
        return "None are selected yet."
    total = sum(counts.count for counts in classes)
    labelled = sum(counts.labelled for counts in classes)
    accuracy = sum(counts.correct for counts in classes) / max(1, labelled)
    correct = f"; {percent(accuracy)} of those with a known label are correct" if labelled else ""
    return (
        f"{total} of {len(run.manifest.rows('public'))} public test tracks have one{correct}. Their gain is not "
        "measured: the scripts' --without-pseudo trains the same rounds without them, to compare."
    )


def calibration_sentence(result: RoundResult, scores: dict) -> str:
    """Whether the final predictor is calibrated, on the split with the least biased score."""
    split = best_split(scores)
    if split is None:
        return "Not known: there are no labels to compare with."
    rows = result.evaluation.rows(split)
    sentence = confidence_sentence(result.evaluation.final_probs[rows], result.evaluation.labels[rows])
    return f"{sentence} ({SPLIT_NAMES[split]})."


def confidence_sentence(probs: np.ndarray, labels: np.ndarray) -> str:
    """The mean confidence beside the accuracy."""
    calibration = calibration_curve(probs, labels)
    confidence = float(np.average(calibration.confidence, weights=calibration.counts))
    accuracy = float(np.average(calibration.accuracy, weights=calibration.counts))
    low, high = wilson_interval(accuracy, len(labels))
    finding = "no significant difference"  # where the confidence is within the accuracy's interval
    if confidence < low:
        finding = "underconfident"
    elif confidence > high:
        finding = "overconfident"
    return f"The mean confidence is {percent(confidence)}, the accuracy {percent(accuracy)}: {finding}"


def confusion_sentence(result: RoundResult) -> str:
    """The classes that are confused most, over all tracks with known labels."""
    splits = analysis.labelled_splits(result)
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
