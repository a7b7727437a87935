import numpy as np
import pytest

from melgpu.stacking import selection


def correct_by(gains: dict[str, int], count: int = 100, losses: int = 0) -> dict[str, np.ndarray]:
    """Which of `count` tracks each predictor classifies correctly: the mean half, others so many more and fewer."""
    mean = np.arange(count) < count // 2
    by_predictor = {"mean": mean}
    for name, gain in gains.items():
        changed = mean.copy()
        changed[count // 2 : count // 2 + gain] = True
        changed[:losses] = False
        by_predictor[name] = changed
    return by_predictor


def test_the_mean_unless_another_is_better_beyond_chance():
    # Exact p-values of McNemar's test: 2 * 0.5^n where all n changed tracks are gained; times two candidates.
    assert selection.select(correct_by({"cnn": 6, "blend": 1})) == "mean"
    better = correct_by({"cnn": 7, "blend": 1})
    assert selection.select(better) == "cnn"
    candidates = selection.compare(better)
    assert [candidate.p_value for candidate in candidates] == pytest.approx([4 * 0.5**7, 1.0])
    assert [candidate.gain for candidate in candidates] == pytest.approx([0.07, 0.01])


def test_more_candidates_need_a_larger_gain():
    assert selection.select(correct_by({"cnn": 7})) == "cnn"
    assert selection.select(correct_by({"cnn": 7, "skip_cnn": 0, "lightgbm": 0, "blend": 0})) == "mean"


def test_the_most_accurate_of_the_better_ones_is_selected_and_never_a_worse_one():
    assert selection.select(correct_by({"cnn": 12, "blend": 20})) == "blend"
    assert selection.select(correct_by({"cnn": 0, "blend": 0}, losses=40)) == "mean"


@pytest.mark.parametrize("count", [3, 27])
def test_few_tracks_select_the_mean(count):
    """27 tracks: even eight gained and none lost, of five candidates, are chance."""
    gains = {name: min(7, count // 2) for name in ("cnn", "skip_cnn", "lightgbm", "blend", "fitted blend")}
    assert selection.select(correct_by(gains, count)) == "mean"


def probs_of(correct: dict[str, np.ndarray], labels: np.ndarray) -> dict[str, np.ndarray]:
    predicted = {name: np.where(is_correct, labels, (labels + 1) % 3) for name, is_correct in correct.items()}
    return {name: np.eye(3)[classes] for name, classes in predicted.items()}


def test_each_subfold_is_predicted_by_what_the_others_select():
    """All that the blend gains is in one sub-fold: without it nothing is better, so there the mean predicts."""
    labels = np.arange(100) % 3
    groups = np.repeat(np.arange(5), 20)
    correct = {"mean": np.ones(100, bool), "blend": np.ones(100, bool)}
    correct["mean"][:12] = False
    selected, nested = selection.select_nested(probs_of(correct, labels), labels, groups)
    assert (selected.predictor, selected.num_tracks) == ("blend", 100)
    assert selected.nested == {"mean": 20, "blend": 80}
    np.testing.assert_array_equal(nested.argmax(1) == labels, correct["mean"])


def test_the_nested_prediction_of_a_track_does_not_depend_on_its_label():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 90)
    groups = np.arange(90) % 5
    probs = {name: rng.dirichlet(np.ones(3), 90) for name in ("mean", "blend", "cnn")}
    probs["cnn"][np.arange(90), labels] += 0.4
    _, before = selection.select_nested(probs, labels, groups)
    changed = np.where(groups == 2, (labels + 1) % 3, labels)
    _, after = selection.select_nested(probs, changed, groups)
    np.testing.assert_array_equal(before[groups == 2], after[groups == 2])


def test_what_is_selected_by_chance_has_no_gain():
    """Twelve candidates as good as the mean: the best of them seems better by points, the nested accuracy does not."""
    rng = np.random.default_rng(1)
    best_gains, nested_gains = [], []
    for _ in range(10):
        labels = rng.integers(0, 3, 100)
        correct = {name: rng.random(100) < 0.6 for name in ("mean", *map(str, range(12)))}
        selected, nested = selection.select_nested(probs_of(correct, labels), labels, np.arange(100) % 5)
        best_gains.append(max(candidate.gain for candidate in selected.candidates))
        nested_gains.append((nested.argmax(1) == labels).mean() - correct["mean"].mean())
    assert np.mean(best_gains) > 0.05
    assert abs(np.mean(nested_gains)) < 0.02
