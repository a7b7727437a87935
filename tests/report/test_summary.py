from dataclasses import replace

import numpy as np
import pytest

from melgpu.audio.quarantine import AudioError
from melgpu.data.manifest import EVALUATED_SPLITS, Split
from melgpu.report import analysis, pseudo_label_counts, summary
from melgpu.report.training_times import TrainingTime
from melgpu.runs.formats.scores import Candidate, Score, Selection
from melgpu.runs.formats.timings import StageTiming
from tests.helpers import report_run

MINUS = "\N{MINUS SIGN}"


@pytest.fixture(scope="module")
def last(tmp_path_factory) -> analysis.RoundResult:
    run = report_run.make(tmp_path_factory.mktemp("summary"), classes=("a", "b", "c"), audio=False)
    return analysis.round_results(run)[0]


@pytest.mark.parametrize(
    ("fraction", "digits", "text"),
    [
        (0.0, 0, "0"), (0.0004, 1, "under 0.1"), (0.0006, 1, "0.1"), (0.004, 0, "under 1"), (0.5, 0, "50"),
        (0.12345, 1, "12.3"), (0.9996, 1, "over 99.9"), (0.997, 0, "over 99"), (1.0, 1, "100.0"),
    ],
)  # fmt: skip
def test_fractions_in_percent(fraction, digits, text):
    assert summary.in_percent(fraction, digits) == text
    assert summary.percent(fraction, digits) == f"{text}\xa0%"


@pytest.mark.parametrize(
    ("gain", "text"), [(0.0712, "+7.1"), (-0.01, f"{MINUS}1.0"), (-0.0001, "0.0"), (0.0001, "0.0")]
)
def test_gains_have_signs(gain, text):
    assert summary.points(gain) == text


def score(gain: float, interval: tuple[float, float], p_value: float, num_pseudo_labelled: int = 0) -> Score:
    return Score(
        accuracy=0.5,
        interval=(0.3, 0.7),
        num_tracks=10,
        num_pseudo_labelled=num_pseudo_labelled,
        gain=gain,
        gain_interval=interval,
        gain_p=p_value,
    )


def test_the_significance_level_is_5_percent():
    gains = [(0.2, 0.01), (-0.2, 0.05), (0.2, 0.051), (-0.2, 1.0), (0.0, 1.0)]
    expected = ["better", "worse", *["not significant"] * 3]
    assert [summary.significance(gain, p_value) for gain, p_value in gains] == expected


def test_the_accuracy_is_of_the_private_test_set(last):
    scores = last.evaluation.scores()
    accuracy = f"{100 * scores['blend'][Split.PRIVATE].accuracy:.1f}\xa0%"
    assert summary.accuracy_sentence(last, scores).startswith(
        f"The blend of the stackers has an accuracy of {accuracy} on 6 private test tracks (95"
    )
    validation_scores = {name: {Split.VALID: by_split[Split.VALID]} for name, by_split in scores.items()}
    assert "validation tracks" in summary.accuracy_sentence(last, validation_scores)
    assert "there is no accuracy" in summary.accuracy_sentence(last, {name: {} for name in scores})
    assert summary.stacking_sentence(last, {name: {} for name in scores}) == ""


def test_the_best_split_is_not_trained_on():
    unseen, seen = (
        score(0.0, (0.0, 0.0), 1.0, num_pseudo_labelled=0),
        score(0.0, (0.0, 0.0), 1.0, num_pseudo_labelled=3),
    )
    assert summary.best_split({"blend": dict.fromkeys(EVALUATED_SPLITS, unseen)}) is Split.PRIVATE
    assert summary.best_split({"blend": {Split.VALID: unseen, Split.PUBLIC: unseen}}) is Split.PUBLIC
    assert summary.best_split({"blend": {Split.VALID: unseen, Split.PUBLIC: seen}}) is Split.VALID
    assert summary.best_split({"blend": {Split.PUBLIC: seen}}) is Split.PUBLIC


def test_the_blend_is_compared_with_the_mean_as_final_predictor(last):
    scores = last.evaluation.scores()
    sentence = summary.stacking_sentence(last, scores)
    assert sentence.startswith("Compared with the plain mean of the networks, ")
    metadata = last.evaluation.metadata.model_copy(update={"final_predictor": "mean"})
    mean = replace(last, evaluation=replace(last.evaluation, metadata=metadata))
    assert summary.stacking_sentence(mean, scores) == f"The blend of the stackers, c{sentence[1:]}"
    assert summary.accuracy_sentence(mean, scores).startswith("The mean of the networks has an accuracy of ")


def test_gains_are_grouped_by_significance(last):
    comparisons = {
        Split.VALID: score(0.1, (-0.1, 0.3), 0.6),
        Split.PUBLIC: score(0.2, (0.1, 0.3), 0.01),
        Split.PRIVATE: score(-0.2, (-0.3, -0.1), 0.03),
    }
    assert summary.pseudo_label_sentence(last.run, None, comparisons) == (
        "Compared with the same round without them, better on public test (+20.0 points, +10.0 to +30.0); "
        f"worse on private test ({MINUS}20.0 points, {MINUS}30.0 to {MINUS}10.0); "
        f"not significant on validation (+10.0 points, {MINUS}10.0 to +30.0)."
    )


def test_pseudo_labels_without_a_comparison_are_counted(last):
    classes = pseudo_label_counts.count_by_class(last.run, 1)
    count, correct = sum(counts.count for counts in classes), sum(counts.correct for counts in classes)
    sentence = summary.pseudo_label_sentence(last.run, classes, None)
    accuracy = f"{100 * correct / count:.0f}\xa0%"
    assert sentence.startswith(f"{count} of 6 public test tracks have one; {accuracy} of those with a known label")
    assert "not measured" in sentence
    assert summary.pseudo_label_sentence(last.run, None, None) == "None are selected yet."


def test_confidence_is_compared_with_accuracy():
    probs = np.full((1000, 2), 0.1)
    probs[:, 1] = 0.9
    digits = np.arange(1000) % 10
    for labels, finding in (
        (digits > 0, "no significant difference"),
        (digits > 4, "overconfident"),
        (digits > -1, "underconfident"),
    ):
        assert finding in summary.confidence_sentence(probs, labels.astype(int))


def test_the_most_confused_classes_are_named(last):
    confusions = [analysis.confusion_matrix(last, split) for split in last.evaluation.labelled_splits]
    truth, predicted = next(analysis.most_confused(sum(confusions), 1))
    names = last.run.class_names
    assert summary.confusion_sentence(last).startswith(f"Most often {names[truth]} predicted as {names[predicted]} (")


def test_blend_weights_are_in_percent(last):
    assert summary.blend_weights_sentence(last) == (
        "Weights of the stackers, in percent. The blend: CNN 45, CNN with skips 45, LightGBM 10; "
        "fitted to validation tracks: CNN 33, CNN with skips 33, LightGBM 33."
    )
    settings = last.evaluation.metadata.settings.model_copy(update={"blend": {"cnn": 1.0}})
    metadata = last.evaluation.metadata.model_copy(update={"settings": settings})
    one_stacker = replace(last, evaluation=replace(last.evaluation, metadata=metadata))
    assert summary.blend_weights_sentence(one_stacker) == ""


def test_the_sentence_of_a_selection_has_its_difference_and_what_is_nested():
    def candidate(name: str, gain: float, p_value: float) -> Candidate:
        return Candidate(predictor=name, gain=gain, gain_interval=(gain - 0.02, gain + 0.02), p_value=p_value)

    candidates = (candidate("cnn", 0.01, 1.0), candidate("fitted blend", 0.03, 0.004))
    selected = Selection(
        predictor="fitted blend", num_tracks=500, candidates=candidates, nested={"mean": 100, "fitted blend": 400}
    )
    assert summary.selection_sentence(selected) == (
        "Selected: blend, weights fitted, better than the mean of the networks (+3.0 points, 95\xa0% interval +1.0 to "
        "+5.0 before correction, on 500 validation tracks, p = 0.004 after correction for 2 comparisons). Its accuracy "
        "on validation tracks is nested: without a track's own sub-fold it is mean of the networks for 100 of them."
    )
    mean = selected.model_copy(update={"predictor": "mean", "candidates": candidates[:1], "nested": {"mean": 500}})
    assert summary.selection_sentence(mean) == (
        "Selected: mean of the networks, as nothing is better beyond chance (most accurate: stacker: CNN, +1.0 points, "
        "95\xa0% interval \N{MINUS SIGN}1.0 to +3.0 before correction, on 500 validation tracks, "
        "p = 1 after correction for 1 comparison)."
    )


def test_sentences_of_time_and_quarantine():
    trainings = [
        TrainingTime("a", 2, 9, {"network": 90.0, "validation": 10.0}, 1.0),
        TrainingTime("b", 1, 9, {"network": 80.0}, 1.0),
    ]
    stage_timings = [
        StageTiming("now", 1, "stack", 200.0, 1, "folds"),
        StageTiming("now", 2, "stack", 100.0, 1, "folds"),
    ]
    sentence = summary.time_sentence(trainings, stage_timings)
    assert sentence == "8:00 in all: stack 5:00, training 3:00. The slowest network was b, 1:20 a fold."
    assert summary.time_sentence([], stage_timings) == "5:00 in all: stack 5:00."
    assert summary.time_sentence([], []) == "Nothing was measured."
    assert (
        summary.quarantine_sentence([AudioError("x", "y", 0.0), AudioError("z", "y", 3.0)])
        == "Files in quarantine: 2; used up to the error: 1."
    )
    assert summary.quarantine_sentence([]) == "No file is in quarantine."
