from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from melgpu.audio import duplicates
from melgpu.audio.duplicates import Duplicate
from melgpu.data.manifest import Split
from melgpu.metrics import SIGNIFICANCE_LEVEL, sign_test
from melgpu.recipe import load_recipe
from melgpu.recipe_schema import DistilSpec, StackSettings
from melgpu.report import analysis, caveats
from melgpu.report.analysis import RoundResult
from melgpu.report.caveats import Recordings
from melgpu.runs.distillation.distributions import Origin
from melgpu.runs.formats.scores import Selection
from melgpu.runs.round_tracks import RoundTracks
from tests.helpers import report_run

NONE_FOUND = Recordings([], 0)


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> dict[str, RoundResult]:
    """The rounds of a run, by their keys."""
    run = report_run.make(tmp_path_factory.mktemp("caveats"), audio=False)
    return {result.key: result for result in analysis.round_results(run)}


def texts(result: RoundResult, recordings: Recordings = NONE_FOUND) -> dict[str, str]:
    return {caveat.title: caveat.text for caveat in caveats.caveats(result, result.evaluation.scores(), recordings)}


def with_epochs(result: RoundResult, max_epochs: int) -> RoundResult:
    optim = result.run.recipe.optim.model_copy(update={"max_epochs": max_epochs})
    recipe = result.run.recipe.model_copy(update={"optim": optim})
    return replace(result, run=replace(result.run, recipe=recipe))


def test_a_round_with_stackers_and_pseudo_labels_has_all(results):
    found = texts(results["round2"])
    counts = found["Number of tracks"]
    assert "8 validation tracks: one is 12.5 points of accuracy, and no difference below 75.0 points can be" in counts
    assert "6 public test tracks: one is 16.7 points" in counts
    assert found["Stacking"].startswith("Nested: validation tracks are divided into up to ")
    assert [spec.folds for spec in results["round2"].run.recipe.rounds] == [(0,), (1, 2)]
    pseudo = "round 1 (fold 0) that had trained on tracks which round 2 validates on (folds 1, 2)"
    assert pseudo in found["Pseudo labels"]
    assert "Labels of public test and private test tracks are used for scores only." in found["Test sets"]


def test_one_of_many_tracks_is_not_nothing(results):
    scores = results["round2"].evaluation.scores()
    for num_tracks, sentence in (
        (3000, "3000 validation tracks: one is 0.03 points of accuracy, and no difference below 0.20 points can be"),
        (30_000, "30000 validation tracks: one is under 0.01 points of accuracy, and no difference below 0.02 points"),
    ):
        many = {split: score.model_copy(update={"num_tracks": num_tracks}) for split, score in scores["mean"].items()}
        assert sentence in " ".join(caveats._track_counts({"mean": many}))


def test_the_choice_of_an_epoch_is_inherited_by_the_stackers(results):
    result = results["round1"]
    assert texts(result)["Epochs"] == "Networks train for one epoch: none is chosen."
    text = texts(with_epochs(result, 9))["Epochs"]
    assert text.startswith("Of up to 9 epochs each network keeps the one with the best accuracy on windows of its")
    assert "the stackers and the blends predict from these networks, and inherit that" in text


def test_rounds_that_train_on_no_pseudo_labels_do_not_speak_of_them(results):
    assert "Pseudo labels" not in texts(results["round1"])
    assert "Pseudo labels" not in texts(results["round2-without-pseudo"])


def test_pseudo_labels_bias_what_is_there(results):
    result = results["round2"]
    found = texts(result)["Pseudo labels"]
    assert "correct or not: the score on public test tracks tells little of other music. The labels come" in found
    is_public = np.array(result.evaluation.splits) == Split.PUBLIC
    unknown = replace(result.evaluation, labels=np.where(is_public, -1, result.evaluation.labels))
    found = texts(replace(result, evaluation=unknown))["Pseudo labels"]
    assert "with a pseudo label, correct or not. The labels come" in found
    none = replace(result.run.round_tracks(2), pseudo_rows=np.empty(0, np.int64))
    run = replace(result.run)
    run._round_tracks[2] = none
    found = texts(replace(result, run=run))["Pseudo labels"]
    assert found == "None of 6 public test tracks was selected: round 2 trained without pseudo labels."


def test_a_student_has_the_biases_of_what_its_teacher_trained_on(results):
    result = results["round1"]
    tracks = result.run.manifest
    is_fold = np.isin(tracks.folds, result.run.round_spec(1).folds)
    num_valid = int(is_fold.sum())

    def of_teacher(validation: Origin, test: Origin) -> str:
        origins = [validation if valid else test for valid in is_fold]
        run = replace(result.run)
        run.__dict__["teacher_predictions"] = SimpleNamespace(origins=origins)  # in place of what is read from files
        run._round_tracks[1] = RoundTracks(tracks, tracks.rows(Split.PUBLIC), "x")
        return texts(replace(result, run=run))["Teacher"]

    assert "Teacher" not in texts(result)
    text = of_teacher(Origin.OUT_OF_FOLD, Origin.UNSEEN)
    assert text.startswith(
        f"{num_valid} validation tracks: the teacher's score is that of networks which did not train"
    )
    assert "6 public test tracks taught the student, without labels." in text
    assert text.endswith("on private test tracks, which neither learned from.")
    text = of_teacher(Origin.TRAINED, Origin.TRAINED)
    assert text.startswith(f"The teacher trained on {num_valid} validation tracks: its score on them is too good")
    assert text.endswith("test tracks: its score on them is too good, too.")
    assert "neither learned" not in text
    text = of_teacher(Origin.UNSEEN, Origin.UNSEEN)
    assert "validation" not in text


def test_one_network_has_neither_stackers_nor_folds(results):
    result = results["round1"]
    quick = load_recipe(["quick"], ["folds.num_folds=3"])
    metadata = result.evaluation.metadata.model_copy(
        update={"settings": StackSettings(stacking=quick.stacking, blend={})}
    )
    evaluated = replace(result.evaluation, metadata=metadata)
    found = texts(replace(result, run=replace(result.run, recipe=quick), evaluation=evaluated))
    assert found["Stacking"] == "Nothing is stacked, so nothing is fitted to the predictions on validation tracks."
    assert found["Epochs"].endswith("so its score on those tracks is too good.")
    assert "Of up to 21 epochs" in found["Epochs"]
    assert "stack" not in found["Epochs"]


def test_a_choice_among_stackers_is_nested_and_one_made_after_training_is_not(results):
    result = results["round2"]
    assert "auto" not in texts(result)["Stacking"]
    assert "stacked anew" not in texts(result)["Stacking"]
    metadata = result.evaluation.metadata
    restacked = metadata.settings.stacking.model_copy(update={"seed": 99})
    selection = Selection(predictor="mean", num_tracks=8, candidates=(), nested={"mean": 8})
    changes = {"settings": metadata.settings.model_copy(update={"stacking": restacked}), "selection": selection}
    changed = RoundResult(result.run, 2, SimpleNamespace(**vars(result.evaluation) | {"labelled_splits": []}))
    changed.evaluation.metadata = metadata.model_copy(update=changes)
    found = {caveat.title: caveat.text for caveat in caveats.caveats(changed, {}, NONE_FOUND)}
    assert "So is auto: each sub-fold is scored by the predictor that the others select." in found["Stacking"]
    assert "It was stacked anew by settings of its own" in found["Stacking"]


def test_without_labels_there_is_only_validation_or_nothing(results):
    result = results["round1"]
    evaluated = result.evaluation
    is_valid = np.array(evaluated.splits) == Split.VALID
    valid_only = replace(evaluated, labels=np.where(is_valid, evaluated.labels, -1))
    assert "validation tracks are all that is scored" in texts(replace(result, evaluation=valid_only))["Test sets"]
    assert "which chose no epoch" in caveats.headline(result, valid_only.scores(), NONE_FOUND)
    longer = with_epochs(result, 9)
    assert "validation tracks chose the epochs" in caveats.headline(longer, valid_only.scores(), NONE_FOUND)
    nothing = replace(evaluated, labels=np.full(len(evaluated.labels), -1))
    assert (
        texts(replace(result, evaluation=nothing))["Number of tracks"]
        == "No track that is evaluated has a known label."
    )
    assert caveats.headline(result, nothing.scores(), NONE_FOUND) == "There is no score."


def test_the_headline_trusts_what_was_not_trained_on(results):
    result = results["round2"]
    scores = result.evaluation.scores()
    assert "private test tracks, which chose and trained nothing" in caveats.headline(result, scores, NONE_FOUND)
    public = {
        name: {split: score for split, score in by_split.items() if split is Split.PUBLIC}
        for name, by_split in scores.items()
    }
    assert "public test tracks were trained on, with a pseudo label" in caveats.headline(result, public, NONE_FOUND)
    student_recipe = result.run.recipe.model_copy(update={"distil": DistilSpec(temperature=2.0, label_weight=0.5)})
    student = replace(result, run=replace(result.run, recipe=student_recipe))
    assert "trained on, with the teacher's answers." in caveats.headline(student, public, NONE_FOUND)
    assert "1 pair of files with the same recording is in two" in caveats.headline(
        result, scores, Recordings(["a ~ b"], 1)
    )


def test_recordings_are_those_of_the_run(results, tmp_path):
    run = replace(results["round1"].run, folder=tmp_path)
    assert caveats.recordings(run) == Recordings(None, 0)
    assert "Not searched for" in texts(results["round1"], Recordings(None, 0))["Same recordings"]
    duplicates.save(run.paths.duplicates, [])
    assert caveats.recordings(run) == Recordings([], 0)
    assert "none of the 24 files" in texts(results["round1"])["Same recordings"]
    train, public = (run.manifest.paths[run.manifest.rows(split)[0]] for split in (Split.TRAIN, Split.PUBLIC))
    fold = run.manifest.folds[0]
    duplicates.save(run.paths.duplicates, [Duplicate(train, public, 0.05), Duplicate(train, "/of/another/run", None)])
    found = caveats.recordings(run)
    assert found == Recordings([f"{train} (fold {fold}) ~ {public} (public test): 5% of the bits differ"], 1, 1)
    assert "1 pair of files with the same recording is in two" in texts(results["round1"], found)["Same recordings"]
    others = "1 pair of duplicates.csv is not counted: of other paths than the run's. Repeat train.py with its --data."
    assert texts(results["round1"], found)["Same recordings"].endswith(f"makes scores too good. {others}")
    moved = texts(results["round1"], Recordings([], 0, 2))["Same recordings"]
    assert moved.startswith("2 pairs of duplicates.csv are not counted: ")
    harmless = texts(results["round1"], Recordings(["a ~ b", "a = c"], 0))["Same recordings"]
    assert harmless == "2 pairs of files, none in two folds or sets: no leak."


def test_tracks_without_fingerprints_have_no_verdict_on_their_recordings(results):
    run = results["round1"].run
    audio = run.recipe.audio.changed(track_s=4.0)
    short = replace(results["round1"], run=replace(run, recipe=run.recipe.model_copy(update={"audio": audio})))
    limit = "near-duplicates are not searched for"
    found = texts(short)["Same recordings"]
    assert found.startswith("None of the 24 files has the content of another.")
    assert limit in found
    found = texts(short, Recordings(["a = b"], 0))["Same recordings"]
    assert found.startswith("1 pair of files with the same content, none in two folds or sets.")
    assert limit in found
    found = texts(short, Recordings(["a = b"], 1))["Same recordings"]
    assert "makes scores too good" in found
    assert limit in found


def test_fewer_changes_than_the_least_are_never_significant():
    for changes in (caveats.MIN_CHANGES - 1, caveats.MIN_CHANGES):
        is_significant = sign_test(np.ones(changes)) <= SIGNIFICANCE_LEVEL
        assert is_significant == (changes == caveats.MIN_CHANGES)
