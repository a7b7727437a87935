import numpy as np
import pytest

from melgpu.data.manifest import Split
from melgpu.errors import InputError
from melgpu.recipe import load_recipe
from melgpu.runs.formats import scores
from melgpu.runs.formats.scores import RoundScores, Scores


def test_a_score_is_accuracy_and_gain_over_a_baseline():
    correct = np.array([True, True, True, False])
    baseline = np.array([True, False, True, False])
    score = scores.compute_score(correct, baseline, np.array([False, True, False, False]))
    assert (score.accuracy, score.gain, score.baseline_accuracy) == (0.75, 0.25, 0.5)
    assert (score.num_tracks, score.num_pseudo_labelled) == (4, 1)
    assert score.gain_p == 1  # of one track
    assert score.gain_interval[0] < 0 < 0.25 < score.gain_interval[1]
    assert score.interval[0] < 0.75 < score.interval[1] < 1


def test_what_never_changes_or_is_always_correct_has_intervals_of_some_width():
    correct = np.ones(27, bool)
    score = scores.compute_score(correct, correct, np.zeros(27, bool))
    assert (score.accuracy, score.gain, score.gain_p) == (1, 0, 1)
    assert score.gain_interval == pytest.approx((-0.125, 0.125), abs=1e-3)
    assert score.interval == pytest.approx((0.875, 1.0), abs=1e-3)
    most = scores.compute_score(np.arange(27) < 25, correct, np.zeros(27, bool))
    assert most.interval == pytest.approx((0.766, 0.979), abs=1e-3)  # the bootstrap's ends at 1.00


def round_scores(by_predictor: Scores) -> RoundScores:
    settings = load_recipe(["demo"]).stack_settings(1)
    return RoundScores(settings=settings, final_predictor="mean", selection=None, scores=by_predictor)


def test_scores_round_trip(tmp_path):
    score = scores.compute_score(np.arange(9) < 7, np.arange(9) < 6, np.zeros(9, bool))
    saved = round_scores({"mean": {Split.VALID: score, Split.PRIVATE: score}, "blend \u00fc": {}})
    scores.save(tmp_path / "scores.json", saved)
    assert scores.load(tmp_path / "scores.json") == saved


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"valid"', '"validation"'),
        ('"accuracy": 0.5', '"accuracy": NaN'),
        ('"accuracy": 0.5', '"accuracy": "0.5"'),
        ('"protocol"', '"method"'),
        ('"num_tracks": 2', '"num_tracks": -2'),
        ("{", "["),
    ],
)
def test_malformed_scores_are_rejected(tmp_path, old, new):
    path = tmp_path / "scores.json"
    half = np.array([True, False])
    scores.save(path, round_scores({"mean": {Split.VALID: scores.compute_score(half, half, half)}}))
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(InputError, match=r"scores\.json: "):
        scores.load(path)
