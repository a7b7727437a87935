from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from melgpu.data.manifest import Split
from melgpu.errors import InputError
from melgpu.metrics import gain_interval
from melgpu.report import analysis
from melgpu.runs.formats import predictions
from melgpu.stacking import evaluation
from tests.helpers import report_run


@pytest.fixture(scope="module")
def stacked_run(tmp_path_factory):
    return report_run.make(tmp_path_factory.mktemp("analysis"), audio=False)


def test_results_start_with_the_last_round(stacked_run):
    results = analysis.round_results(stacked_run)
    assert [result.title for result in results] == ["Round 2", "Round 2 without pseudo labels", "Round 1"]
    assert len({result.key for result in results}) == 3
    kinds = [results[0].kind(predictor) for predictor in results[0].evaluation.predictors]
    assert kinds == ["network"] * 2 + ["mean"] + ["stacker"] * 3 + ["blend"] * 2


@pytest.mark.parametrize("column", [{"class_names": ("x", "y", "z")}, {"ids": ("unknown.wav",)}])
def test_evaluations_of_another_run_are_rejected(stacked_run, column):
    original = evaluation.load(stacked_run.paths.evaluation(1))
    if "ids" in column:
        column = {"ids": (*column["ids"], *original.ids[1:])}
    evaluation.save(replace(original, **column), stacked_run.paths.evaluation(1))
    with pytest.raises(InputError, match=r"evaluation\.npz: of other tracks or classes"):
        analysis.round_results(stacked_run)
    evaluation.save(original, stacked_run.paths.evaluation(1))


def test_folds_are_scored_on_their_validation_tracks(stacked_run):
    result = analysis.round_results(stacked_run)[0]
    evaluated, names = result.evaluation, stacked_run.class_names
    scores = analysis.fold_scores(result)
    assert list(scores) == list(evaluated.predictors)
    for j, predictor in enumerate(evaluated.predictors):
        for fold, score in scores[predictor].items():
            rows = [row for row in range(len(evaluated.ids)) if evaluated.folds[row] == fold]
            correct = [names[evaluated.probs[j, row].argmax()] == names[evaluated.labels[row]] for row in rows]
            assert score.accuracy == np.mean(correct)
            assert (score.window_accuracy is None) == (j >= 2)
    job = stacked_run.jobs(2)[0]
    predicted, correct, start = predictions.load(stacked_run.paths.predictions(job)), [], 0
    for row, count in enumerate(predicted.num_windows):
        for probs in predicted.probs[start : start + count]:
            if stacked_run.manifest.folds[row] == job.fold:
                correct.append(names[probs.argmax()] == stacked_run.manifest.labels[row])
        start += count
    assert scores[job.backbone][job.fold].window_accuracy == np.mean(correct)


def test_there_is_no_window_accuracy_without_predictions(stacked_run):
    path = stacked_run.paths.predictions(stacked_run.jobs(1)[0])
    content = path.read_bytes()
    path.unlink()
    assert analysis.tta_window_accuracy(stacked_run, stacked_run.jobs(1)[0]) is None
    path.write_bytes(content)


def test_comparisons_are_on_the_same_tracks(stacked_run):
    after, before, _ = (result.evaluation for result in analysis.round_results(stacked_run))
    shuffled = np.random.default_rng(0).permutation(len(before.ids))[1:]  # one is missing
    columns = {name: tuple(getattr(before, name)[row] for row in shuffled) for name in ("ids", "splits")}
    arrays = {name: getattr(before, name)[shuffled] for name in ("folds", "labels", "pseudo_labelled")}
    arrays["probs"] = before.probs[:, shuffled]
    comparisons = analysis.compare(replace(before, **columns, **arrays), after)
    assert list(comparisons) == list(after.predictors)
    before_probs = {
        (name, split): probs
        for name, split, probs in zip(columns["ids"], columns["splits"], arrays["probs"][-2], strict=True)
    }
    for split, comparison in comparisons["blend"].items():
        new, old = [], []
        rows = zip(after.ids, after.splits, after.labels, after.probs[-2], strict=True)
        for name, row_split, label, probs in rows:
            if row_split == split and (name, split) in before_probs:
                new.append(probs.argmax() == label)
                old.append(before_probs[name, split].argmax() == label)
        gains = np.array(new, float) - np.array(old, float)
        assert (comparison.accuracy, comparison.num_tracks) == (np.mean(new), len(new))
        assert comparison.baseline_accuracy == pytest.approx(np.mean(old))
        assert comparison.gain == pytest.approx(gains.mean())
        assert comparison.gain_interval == gain_interval(gains)
    assert sum(comparison.num_tracks for comparison in comparisons["blend"].values()) == len(shuffled)


def test_the_confusion_matrix_has_true_classes_in_rows(stacked_run):
    result = analysis.round_results(stacked_run)[0]
    rows = result.evaluation.rows(Split.VALID)
    expected = np.zeros([len(stacked_run.class_names)] * 2, int)
    for row in rows:
        expected[result.evaluation.labels[row], result.evaluation.final_probs[row].argmax()] += 1
    np.testing.assert_array_equal(analysis.confusion_matrix(result, Split.VALID), expected)


def test_class_scores_and_confused_pairs():
    confusion = np.array([[5, 1, 0], [3, 7, 0], [0, 0, 0]])
    scores = analysis.class_scores(confusion, ["a", "b", "c"])
    assert [(score.name, score.correct, score.tracks) for score in scores] == [("a", 5, 6), ("b", 7, 10)]
    assert all(score.interval[0] < score.correct / score.tracks < score.interval[1] for score in scores)
    assert list(analysis.most_confused(confusion, 9)) == [(1, 0), (0, 1)]
    assert list(analysis.most_confused(confusion, 1)) == [(1, 0)]
    assert list(analysis.most_confused(np.diag([3, 4]), 5)) == []


@pytest.mark.parametrize(
    ("backbones", "shown", "mean"),
    [
        (("resnet50",), ["mean", "cnn"], "resnet50"),
        (("resnet50", "xception"), ["resnet50", "xception", "mean", "cnn"], "mean of the networks"),
    ],
)
def test_a_single_network_is_shown_once(backbones, shown, mean):
    spec = SimpleNamespace(backbones=backbones, blend={"cnn": 1.0})
    run = SimpleNamespace(round_spec=lambda round_number: spec)
    result = analysis.RoundResult(run, 1, SimpleNamespace(predictors=(*backbones, "mean", "cnn")))
    assert result.shown_predictors == shown
    assert result.display_name("mean") == mean
    assert result.display_name("cnn") == "stacker: CNN"
