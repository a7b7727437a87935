"""What a run's numbers say in plain words: the answers that its page begins with."""

from collections.abc import Sequence

import numpy as np

from melgpu.audio.quarantine import AudioError
from melgpu.console import duration
from melgpu.metrics import calibration_curve, wilson_interval
from melgpu.report import analysis
from melgpu.report.analysis import PREDICTOR_NAMES, Comparison, PseudoLabelCounts, RoundResult, TrainingTime
from melgpu.runs.run import Run
from melgpu.runs.timings import StageTiming
from melgpu.stacking.stack import compared_predictor

SPLIT_NAMES = {"validation": "validation", "public": "public test", "private": "private test"}
SPACE = "\N{NO-BREAK SPACE}"
SIGNIFICANCE_LEVEL = 0.05
Interval = tuple[float, float]


def in_percent(share: float, digits: int = 0) -> str:
    """A share in percent, without the sign; a small one never as 0, one below the whole never as 100."""
    if 0 < share < 0.5 / 10 ** (digits + 2):
        return f"under {10.0**-digits:g}"
    if 1 - 0.5 / 10 ** (digits + 2) <= share < 1:
        return f"over {100 - 10.0**-digits:g}"
    return f"{100 * share:.{digits}f}"


def percent(share: float, digits: int = 0) -> str:
    """The same with the sign."""
    return f"{in_percent(share, digits)}{SPACE}%"


def points(gain: float) -> str:
    """A difference of shares in percentage points, with its sign."""
    return f"{round(100 * gain, 1) + 0.0:+.1f}".replace("+0.0", "0.0").replace("-", "\N{MINUS SIGN}")


def interval(interval: Interval) -> str:
    """Of shares, in percent."""
    return f"{100 * interval[0]:.0f}\N{EN DASH}{100 * interval[1]:.0f}"


def points_interval(interval: Interval) -> str:
    return f"{points(interval[0])} to {points(interval[1])}"


def significance(gain: float, p: float) -> str:
    """Whether a difference is more than chance may do; see `metrics.sign_test`."""
    return "not told from chance" if p > SIGNIFICANCE_LEVEL else "better" if gain > 0 else "worse"


def best_split(scores: dict) -> str | None:
    """The split with known labels that says most: a test set before validation, but not one that was trained on."""
    cells = next(iter(scores.values()))
    known = [split for split in ("private", "public", "validation") if split in cells]
    return min(known, key=lambda split: cells[split]["pseudo_labelled"] > 0, default=None)


def accuracy_sentence(result: RoundResult, scores: dict) -> str:
    """How good the answers are, in one sentence."""
    split = best_split(scores)
    if split is None:
        return "No label is known of the tracks that were judged, so nothing can be said about right and wrong."
    own, name = (
        scores[result.final_predictor][split],
        PREDICTOR_NAMES.get(result.final_predictor, result.final_predictor),
    )
    return (
        f"The {name} names the right class of {percent(own['accuracy'], 1)} of {own['tracks']} {SPLIT_NAMES[split]} "
        f"tracks (95{SPACE}% interval {interval(own['interval'])}{SPACE}%)."
    )


def stacking_sentence(result: RoundResult, scores: dict) -> str:
    """Whether the answer, or the blend where the mean is the answer, is better than the plain mean of the networks."""
    judge = compared_predictor(result.final_predictor)
    gains = {split: (own["gain"], own["gain_interval"], own["gain_p"]) for split, own in scores[judge].items()}
    start = "Against" if judge == result.final_predictor else f"The {PREDICTOR_NAMES[judge]}, against"
    return f"{start} the plain mean of the networks, {_gains_by_significance(gains)}." if gains else ""


def _gains_by_significance(gains: dict[str, tuple[float, Interval, float]]) -> str:
    """Gains by split, in words: what is told from chance comes first."""
    groups = {word: [] for word in ("better", "worse", "not told from chance")}
    for split, (gain, interval, p) in gains.items():
        groups[significance(gain, p)].append(
            f"{SPLIT_NAMES[split]} ({points(gain)} points, {points_interval(interval)})"
        )
    return "; ".join(f"{word} on {_listed(splits)}" for word, splits in groups.items() if splits)


def _listed(words: list[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if words[1:] else words)


def blend_weights_sentence(result: RoundResult) -> str:
    """How much each stacker counts in the blends; nothing where there is one."""
    fixed, fitted = (result.evaluation.provenance.get(key) for key in ("weights", "fitted_weights"))
    told = [
        f"{words}: {_shares(own)}"
        for words, own in (("The blend", fixed), ("fitted to validation tracks", fitted))
        if _is_weights(own)
    ]
    return f"Weights of the stackers, in percent. {'; '.join(told)}." if told else ""


def _is_weights(own: object) -> bool:
    return isinstance(own, dict) and len(own) > 1 and all(isinstance(w, float) and w >= 0 for w in own.values())


def _shares(own: dict[str, float]) -> str:
    whole = sum(own.values()) or 1.0
    names = {name: PREDICTOR_NAMES.get(name, name).removeprefix("stacker: ") for name in own}
    return ", ".join(f"{names[name]} {in_percent(weight / whole)}" for name, weight in own.items())


def pseudo_label_sentence(
    run: Run, chosen: Sequence[PseudoLabelCounts] | None, gains: dict[str, Comparison] | None
) -> str:
    """What pseudo labels were worth; `gains` of the answers by split, where there are rounds without them."""
    if len(run.recipe.rounds) == 1:
        return "None: this recipe has one round."
    if gains:
        told = _gains_by_significance({split: (own.gain, own.interval, own.p) for split, own in gains.items()})
        return f"Against the same round without them, {told}."
    if chosen is None:
        return "None were chosen yet."
    total, known = sum(one.count for one in chosen), sum(one.known for one in chosen)
    share = sum(one.right for one in chosen) / max(1, known)
    right = f", {percent(share)} of those with a known label rightly" if known else ""
    return (
        f"{total} of {len(run.manifest.rows('public'))} public test tracks have one{right}. Whether they help is not "
        "measured: the scripts' --without-pseudo trains the same rounds without them, to compare."
    )


def calibration_sentence(result: RoundResult, scores: dict) -> str:
    """Whether the answers are as sure as they are right, on the split that says most."""
    split = best_split(scores)
    if split is None:
        return "Not known: there are no labels to hold them against."
    rows = result.evaluation.rows(split)
    words = confidence_sentence(result.evaluation.final_probs[rows], result.evaluation.labels[rows])
    return f"{words} ({SPLIT_NAMES[split]})."


def confidence_sentence(probs: np.ndarray, labels: np.ndarray) -> str:
    """Mean probability of the answers beside the share that is right."""
    found = calibration_curve(probs, labels)
    sure, right = (float(np.average(own, weights=found.counts)) for own in (found.confidence, found.accuracy))
    low, high = wilson_interval(right, len(labels))
    gap = "too modest" if sure < low else "too sure" if sure > high else "no further apart than chance may do"
    return f"On average answers are {percent(sure)} sure and {percent(right)} right: {gap}"


def confusion_sentence(result: RoundResult) -> str:
    """Which classes are confused most, over all tracks with known labels."""
    table = sum(analysis.confusion_matrix(result, split) for split in analysis.labelled_splits(result))
    pairs = list(analysis.most_confused(np.asarray(table), 2)) if analysis.labelled_splits(result) else []
    names = result.run.class_names
    told = [f"{names[t]} taken for {names[a]} ({table[t, a]} of {table[t].sum()} tracks)" for t, a in pairs]
    return f"Most often {', and '.join(told)}." if told else "Nowhere, as far as labels are known."


def time_sentence(trainings: Sequence[TrainingTime], pieces: Sequence[StageTiming]) -> str:
    """What took how long, the longest first."""
    stages = {"training": sum(one.total_s for one in trainings)}
    for piece in pieces:
        stages[piece.stage] = stages.get(piece.stage, 0.0) + piece.seconds
    told = [f"{name} {duration(s)}" for name, s in sorted(stages.items(), key=lambda item: -item[1]) if s]
    if not told:
        return "Nothing was measured."
    slowest = max(trainings, key=lambda one: one.total_s / one.networks, default=None)
    network = (
        slowest
        and f" The slowest network was {slowest.backbone}, {duration(slowest.total_s / slowest.networks)} a fold."
    )
    return f"{duration(sum(stages.values()))} in all: {', '.join(told)}.{network or ''}"


def quarantine_sentence(audio_errors: Sequence[AudioError]) -> str:
    """How many files are in quarantine."""
    kept = sum(not audio_error.unusable for audio_error in audio_errors)
    return (
        f"Files in quarantine: {len(audio_errors)}; used up to their flaw: {kept}."
        if audio_errors
        else "No file is in quarantine."
    )
