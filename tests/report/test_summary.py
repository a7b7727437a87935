from dataclasses import replace

import numpy as np
import pytest

from melgpu.audio.quarantine import AudioError
from melgpu.report import analysis, summary
from melgpu.report.analysis import Comparison, TrainingTime
from melgpu.runs.timings import StageTiming
from tests.helpers import report_run

MINUS = "\N{MINUS SIGN}"


@pytest.fixture(scope="module")
def last(tmp_path_factory) -> analysis.RoundResult:
    made = report_run.make(tmp_path_factory.mktemp("verdicts"), classes=("a", "b", "c"), audio=False)
    return analysis.round_results(made)[0]


@pytest.mark.parametrize(
    ("share", "digits", "text"),
    [
        (0.0, 0, "0"), (0.0004, 1, "under 0.1"), (0.0006, 1, "0.1"), (0.004, 0, "under 1"), (0.5, 0, "50"),
        (0.12345, 1, "12.3"), (0.9996, 1, "over 99.9"), (0.997, 0, "over 99"), (1.0, 1, "100.0"),
    ],
)  # fmt: skip
def test_shares_in_percent(share, digits, text):
    assert summary.in_percent(share, digits) == text
    assert summary.percent(share, digits) == f"{text}\xa0%"


@pytest.mark.parametrize(
    ("gain", "text"), [(0.0712, "+7.1"), (-0.01, f"{MINUS}1.0"), (-0.0001, "0.0"), (0.0001, "0.0")]
)
def test_differences_have_signs(gain, text):
    assert summary.points(gain) == text


def test_chance_is_what_one_time_in_twenty_may_do():
    gains = [(0.2, 0.01), (-0.2, 0.05), (0.2, 0.051), (-0.2, 1.0), (0.0, 1.0)]
    assert [summary.significance(*own) for own in gains] == ["better", "worse", *["not told from chance"] * 3]


def test_the_first_sentence_is_of_the_private_test(last):
    scores = last.evaluation.scores()
    own = scores["blend"]["private"]
    share = f"{100 * own['accuracy']:.1f}\xa0%"
    assert summary.accuracy_sentence(last, scores).startswith(
        f"The blend of the stackers names the right class of {share} of 6 pri"
    )
    fewer = {name: {"validation": cells["validation"]} for name, cells in scores.items()}
    assert "validation tracks" in summary.accuracy_sentence(last, fewer)
    assert "nothing can be said" in summary.accuracy_sentence(last, {name: {} for name in scores})
    assert summary.stacking_sentence(last, {name: {} for name in scores}) == ""


def test_tracks_that_were_trained_on_say_least():
    cells = {split: {"pseudo_labelled": 0} for split in ("validation", "public", "private")}
    assert summary.best_split({"blend": cells}) == "private"
    assert summary.best_split({"blend": {split: cells[split] for split in ("validation", "public")}}) == "public"
    seen = {"validation": {"pseudo_labelled": 0}, "public": {"pseudo_labelled": 3}}
    assert summary.best_split({"blend": seen}) == "validation"
    assert summary.best_split({"blend": {"public": {"pseudo_labelled": 3}}}) == "public"


def test_the_blend_is_held_against_a_mean_that_is_the_answer(last):
    scores = last.evaluation.scores()
    told = summary.stacking_sentence(last, scores)
    assert told.startswith("Against the plain mean of the networks, ")
    mean = replace(
        last, evaluation=replace(last.evaluation, provenance=last.evaluation.provenance | {"final_predictor": "mean"})
    )
    assert summary.stacking_sentence(mean, scores) == f"The blend of the stackers, a{told[1:]}"
    assert summary.accuracy_sentence(mean, scores).startswith("The mean of the networks names the right class")


def test_gains_are_told_by_what_chance_may_do(last):
    gains = {
        "validation": Comparison(0.5, 0.6, 0.1, (-0.1, 0.3), 0.6, 10, 0),
        "public": Comparison(0.5, 0.7, 0.2, (0.1, 0.3), 0.01, 10, 0),
        "private": Comparison(0.5, 0.3, -0.2, (-0.3, -0.1), 0.03, 10, 0),
    }
    assert summary.pseudo_label_sentence(last.run, None, gains) == (
        "Against the same round without them, better on public test (+20.0 points, +10.0 to +30.0); "
        f"worse on private test ({MINUS}20.0 points, {MINUS}30.0 to {MINUS}10.0); "
        f"not told from chance on validation (+10.0 points, {MINUS}10.0 to +30.0)."
    )


def test_pseudo_labels_without_a_comparison_are_counted(last):
    chosen = analysis.pseudo_label_counts(last.run, 1)
    count, right = sum(one.count for one in chosen), sum(one.right for one in chosen)
    told = summary.pseudo_label_sentence(last.run, chosen, None)
    assert told.startswith(f"{count} of 6 public test tracks have one, {100 * right / count:.0f}\xa0% of those with a")
    assert "not measured" in told
    assert summary.pseudo_label_sentence(last.run, None, None) == "None were chosen yet."


def test_sureness_is_held_against_what_is_right():
    probs = np.full((1000, 2), 0.1)
    probs[:, 1] = 0.9
    labels = np.arange(1000) % 10
    for right, told in ((labels > 0, "no further apart"), (labels > 4, "too sure"), (labels > -1, "too modest")):
        assert told in summary.confidence_sentence(probs, right.astype(int))


def test_the_worst_confusions_are_named(last):
    tables = [analysis.confusion_matrix(last, split) for split in analysis.labelled_splits(last)]
    truth, answer = next(analysis.most_confused(sum(tables), 1))
    names = last.run.class_names
    assert summary.confusion_sentence(last).startswith(f"Most often {names[truth]} taken for {names[answer]} (")


def test_weights_are_told_in_percent(last):
    assert "The blend: CNN 45, CNN with skips 45, LightGBM 10." in summary.blend_weights_sentence(last)
    for strange in ({"cnn": 1.0}, {"cnn": "x", "b": 1.0}, [1], None):
        last.evaluation.provenance["fitted_weights"] = strange
        assert "fitted" not in summary.blend_weights_sentence(last)


def test_time_and_broken_files_in_words():
    trainings = [
        TrainingTime("a", 2, 9, {"network": 90.0, "validation": 10.0}, 1.0),
        TrainingTime("b", 1, 9, {"network": 80.0}, 1.0),
    ]
    pieces = [StageTiming("now", 1, "stack", 200.0, 1, "folds"), StageTiming("now", 2, "stack", 100.0, 1, "folds")]
    told = summary.time_sentence(trainings, pieces)
    assert told == "8:00 in all: stack 5:00, training 3:00. The slowest network was b, 1:20 a fold."
    assert summary.time_sentence([], pieces) == "5:00 in all: stack 5:00."
    assert summary.time_sentence([], []) == "Nothing was measured."
    assert (
        summary.quarantine_sentence([AudioError("x", "y", 0.0), AudioError("z", "y", 3.0)])
        == "Files in quarantine: 2; used up to their flaw: 1."
    )
    assert summary.quarantine_sentence([]) == "No file is in quarantine."
