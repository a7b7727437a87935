from dataclasses import replace

import numpy as np
import pytest

from melgpu.errors import InputError
from melgpu.metrics import bootstrap_interval
from melgpu.report import analysis
from melgpu.runs import predictions, pseudo_labels
from melgpu.stacking import evaluation
from melgpu.training import checkpointing
from tests.helpers import report_run


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    return report_run.make(tmp_path_factory.mktemp("findings"), audio=False)


def test_chapters_begin_with_the_last_round(shown):
    found = analysis.round_results(shown)
    assert [chapter.title for chapter in found] == ["Round 2", "Round 2 without pseudo labels", "Round 1"]
    assert len({chapter.key for chapter in found}) == 3
    kinds = [found[0].kind(judge) for judge in found[0].evaluation.predictors]
    assert kinds == ["network"] * 2 + ["mean"] + ["stacker"] * 3 + ["blend"] * 2


@pytest.mark.parametrize("column", [{"class_names": ("x", "y", "z")}, {"ids": ("stranger.wav",)}])
def test_what_was_judged_elsewhere_is_refused(shown, column):
    told = evaluation.load(shown.evaluation_path(1))
    if "ids" in column:
        column = {"ids": (*column["ids"], *told.ids[1:])}
    evaluation.save(replace(told, **column), shown.evaluation_path(1))
    with pytest.raises(InputError, match=r"evaluation\.npz: of other tracks or classes"):
        analysis.round_results(shown)
    evaluation.save(told, shown.evaluation_path(1))


def test_folds_are_scored_on_their_own_tracks(shown):
    chapter = analysis.round_results(shown)[0]
    told, names = chapter.evaluation, shown.class_names
    scores = analysis.fold_scores(chapter)
    assert list(scores) == list(told.predictors)
    for j, judge in enumerate(told.predictors):
        for fold, (tracks, windows) in scores[judge].items():
            rows = [row for row in range(len(told.ids)) if told.folds[row] == fold]
            right = [names[told.probs[j, row].argmax()] == names[told.labels[row]] for row in rows]
            assert tracks == np.mean(right)
            assert (windows is None) == (j >= 2)
    job = shown.jobs(2)[0]
    said, right, place = predictions.load(shown.predictions_path(job)), [], 0
    for row, count in enumerate(said.num_windows):
        for probs in said.probs[place : place + count]:
            if shown.manifest.folds[row] == job.fold:
                right.append(names[probs.argmax()] == shown.manifest.labels[row])
        place += count
    assert scores[job.backbone][job.fold][1] == np.mean(right)


def test_windows_of_predictions_that_are_gone_are_not_told(shown):
    path = shown.predictions_path(shown.jobs(1)[0])
    kept = path.read_bytes()
    path.unlink()
    assert analysis.window_accuracy(shown, shown.jobs(1)[0]) is None
    path.write_bytes(kept)


def test_differences_are_of_the_same_tracks(shown):
    after, before, _ = (chapter.evaluation for chapter in analysis.round_results(shown))
    shuffled = np.random.default_rng(0).permutation(len(before.ids))[1:]  # one is missing
    columns = {name: tuple(getattr(before, name)[row] for row in shuffled) for name in ("ids", "splits")}
    numbers = {name: getattr(before, name)[shuffled] for name in ("folds", "labels", "pseudo_labelled")}
    numbers["probs"] = before.probs[:, shuffled]
    found = analysis.compare(replace(before, **columns, **numbers), after)
    assert list(found) == list(after.predictors)
    answers = {(i, s): p for i, s, p in zip(columns["ids"], columns["splits"], numbers["probs"][-2], strict=True)}
    for split, gain in found["blend"].items():
        new, old = [], []
        for name, own, label, probs in zip(after.ids, after.splits, after.labels, after.probs[-2], strict=True):
            if own == split and (name, split) in answers:
                new.append(probs.argmax() == label)
                old.append(answers[name, split].argmax() == label)
        difference = np.array(new, float) - np.array(old, float)
        assert (gain.before, gain.after, gain.tracks) == (np.mean(old), np.mean(new), len(new))
        assert gain.gain == pytest.approx(difference.mean())
        assert gain.interval == bootstrap_interval(difference)
    assert sum(gain.tracks for gain in found["blend"].values()) == len(shuffled)


def test_pseudo_labels_are_counted_by_class(shown):
    chosen = pseudo_labels.load(shown.pseudo_path(1), 1, shown.recipe.digest())
    truth = dict(zip(shown.manifest.ids, shown.manifest.labels, strict=True))
    found = analysis.pseudo_label_counts(shown, 1)
    assert [one.name for one in found] == shown.class_names
    for one in found:
        own = [label for label in chosen if label.label == one.name]
        assert (one.count, one.known) == (len(own), len(own))
        assert one.right == sum(truth[label.id] == one.name for label in own)
        assert one.unanimous == sum(label.votes == "2/2" for label in own)
        assert one.lowest == min((label.confidence for label in own), default=0)
    whole = analysis.total_counts(found)
    assert whole.count == len(chosen) > 0
    assert whole.mean == pytest.approx(np.mean([label.confidence for label in chosen]))
    assert analysis.pseudo_label_counts(shown, 2) is None


def test_classes_and_the_pairs_that_are_confused():
    table = np.array([[5, 1, 0], [3, 7, 0], [0, 0, 0]])
    scores = analysis.class_scores(table, ["a", "b", "c"])
    assert [(one.name, one.right, one.tracks) for one in scores] == [("a", 5, 6), ("b", 7, 10)]
    assert all(one.interval[0] < one.right / one.tracks < one.interval[1] for one in scores)
    assert list(analysis.most_confused(table, 9)) == [(1, 0), (0, 1)]
    assert list(analysis.most_confused(table, 1)) == [(1, 0)]
    assert list(analysis.most_confused(np.diag([3, 4]), 5)) == []


def test_time_adds_up_over_epochs_and_folds(tmp_path):
    made = report_run.make(tmp_path, audio=False)
    logs = analysis.training_logs(made, 2)
    assert {name: list(folds) for name, folds in logs.items()} == {"inception_v3": [1, 2], "resnet50": [1, 2]}
    found = analysis.training_time(made, "resnet50", logs["resnet50"])
    records = [
        record for job in made.jobs(2) if job.backbone == "resnet50" for record in checkpointing.load_log(made, job)
    ]
    assert (found.networks, found.epochs) == (2, len(records))
    stages = ("audio_s", "pictures_s", "network_s", "rest_s", "validation_s")
    assert found.total_s == pytest.approx(sum(record[stage] for record in records for stage in stages))
    trained = [record["audio_s"] + record["pictures_s"] + record["network_s"] + record["rest_s"] for record in records]
    steps = sum(record["steps_per_s"] * own for record, own in zip(records, trained, strict=True))
    assert found.windows_per_s == pytest.approx(steps * made.recipe.optim.batch_size / sum(trained))


def test_networks_without_a_log_are_left_out(tmp_path):
    made = report_run.start(tmp_path, ("a", "b"), 4, True, audio=False)
    assert analysis.training_logs(made, 1) == {}
