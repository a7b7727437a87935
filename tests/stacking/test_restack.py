"""The last round is stacked anew by other settings, with synthetic predictions."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from melgpu.commands import stack
from melgpu.data.manifest import Split
from melgpu.errors import InputError
from melgpu.recipe import apply_overrides
from melgpu.runs.folder import create_run, open_run, open_to_stack
from melgpu.runs.run import Run
from melgpu.stacking import evaluation, restack, stack_cnn
from melgpu.stacking.round import stack_round
from melgpu.stacking.stack_file import load_stack
from tests.helpers.runs import write_predictions

TREES = "rounds.2.blend={lightgbm=1.0}"
OF_TWO = "rounds.2.blend={lightgbm=0.3, multinomial=0.7}"


class Killed(Exception):
    pass


def new_run(made: Run, folder: Path, *overrides: str) -> Run:
    """A run with stackers that fit in no time, in place of `made`."""
    quick = ["rounds.1.blend={multinomial=1.0}", TREES, "stacking.num_trees=3", "stacking.protocol=oof", *overrides]
    return create_run(folder, apply_overrides(made.recipe, quick), made.manifest, stack_cnn.torch.device("cpu"))


@pytest.fixture
def stacked(made, tmp_path, monkeypatch) -> Run:
    """A run whose rounds are stacked, the last one also without pseudo labels."""
    run = new_run(made, tmp_path / "stacked")
    write_predictions(run, 1, monkeypatch)
    stack_round(run, 1)
    write_predictions(run, 2, monkeypatch)
    stack_round(run, 2)
    variant = replace(run, without_pseudo=True)
    write_predictions(variant, 2, monkeypatch)
    stack_round(variant, 2)
    return open_run(run.folder)


def call(run: Run, *overrides: str, without_pseudo: bool = False) -> Run:
    """`stack.py --set`, without its output; the run as others open it afterwards."""
    opened, settings = open_to_stack(run.folder, list(overrides), without_pseudo)
    opened = restack.restack(opened, settings)
    restack.write_missing_submissions(opened)
    return open_run(run.folder)


def answers(run: Run) -> dict[str, bytes]:
    """All files that a stack gives, and those that later calls read of it."""
    paths = [run.paths.scores(2), *run.paths.stack_folder(2).glob("*.safetensors"), *run.submission_paths.values()]
    texts = {path.name: path.read_bytes() for path in paths}
    return texts | {"probs": evaluation.load(run.paths.evaluation(2)).final_probs.tobytes()}


def test_other_settings_give_what_a_new_run_with_them_gives(stacked, made, tmp_path, monkeypatch):
    overrides = ["stacking.seed=7", "stacking.final_predictor=fitted blend", OF_TWO]
    restacked = call(stacked, *overrides)
    new = new_run(made, tmp_path / "new", *overrides)
    write_predictions(new, 1, monkeypatch)
    stack_round(new, 1)
    write_predictions(new, 2, monkeypatch)
    stack_round(new, 2)
    before, after = (evaluation.load(run.paths.evaluation(2)) for run in (new, restacked))
    assert after.predictors == before.predictors
    np.testing.assert_array_equal(after.probs, before.probs)
    assert after.metadata.settings == before.metadata.settings == new.recipe.stack_settings(2)
    assert restacked.scores(2) == new.scores(2)
    submission = restacked.submission_paths[Split.PUBLIC].read_text()
    assert submission == new.submission_paths[Split.PUBLIC].read_text()


def test_what_was_written_names_its_settings_and_networks_keep_their_provenance(stacked):
    recipe = (stacked.folder / "recipe.toml").read_bytes()
    networks = [stacked.job_provenance(job) for job in stacked.jobs(2)]
    restacked = call(stacked, "stacking.final_predictor=mean")
    assert (stacked.folder / "recipe.toml").read_bytes() == recipe
    assert [restacked.job_provenance(job) for job in restacked.jobs(2)] == networks
    evaluated = evaluation.load(restacked.paths.evaluation(2))
    _, metadata = load_stack(restacked.paths.stack(2, restacked.round_spec(2).folds))
    digest = apply_overrides(stacked.recipe, ["stacking.final_predictor=mean"]).digest()
    for made_by in (evaluated.metadata.provenance, metadata.provenance):
        assert made_by.recipe_digest == digest
    assert evaluated.metadata.settings.stacking.final_predictor == metadata.final_predictor == "mean"
    assert restacked.scores(2).final_predictor == "mean"
    assert restacked.stack_provenance(1) == restacked.provenance(1) == stacked.provenance(1)


def test_settings_stay_add_up_and_can_be_set_back(stacked):
    before = answers(stacked)
    call(stacked, "stacking.final_predictor=mean")
    restacked = call(stacked, "stacking.seed=7")
    settings = restacked.stack_settings(2).stacking
    assert (settings.final_predictor, settings.seed) == ("mean", 7)
    files = {path: path.stat().st_mtime_ns for path in restacked.paths.stack_folder(2).iterdir()}
    plain = call(stacked)
    assert (plain, {path: path.stat().st_mtime_ns for path in files}) == (restacked, files)
    back = call(stacked, "stacking.final_predictor=blend", "stacking.seed=42")
    assert back == stacked
    assert [path.name for path in stacked.paths.round_folder(2).glob("stack*")] == ["stack"]
    assert not (stacked.folder / "stack_settings.json").exists()
    assert answers(back) == before


def test_both_variants_of_a_round_have_the_same_settings(stacked):
    restacked = call(stacked, OF_TWO, without_pseudo=True)
    for run in (restacked, replace(restacked, without_pseudo=True)):
        assert run.is_stacked(2)
        assert evaluation.load(run.paths.evaluation(2)).metadata.settings.blend == {"lightgbm": 0.3, "multinomial": 0.7}


def test_stackers_that_are_fitted_already_are_taken_as_they_are(stacked, monkeypatch):
    both = call(stacked, OF_TWO)
    monkeypatch.setattr(restack, "fit_stacks", None)  # a call would fail
    weighted = call(both, "rounds.2.blend={lightgbm=0.5, multinomial=0.5}", "stacking.final_predictor=auto")
    evaluated = evaluation.load(weighted.paths.evaluation(2))
    assert (evaluated.metadata.final_predictor, evaluated.predictors[-1]) == ("auto", "auto")
    _, metadata = load_stack(weighted.paths.stack(2, weighted.round_spec(2).folds))
    assert metadata.final_predictor == evaluated.metadata.selection.predictor == "mean"  # of so few tracks
    np.testing.assert_array_equal(evaluated.final_probs, evaluated.probs_of("mean"))
    fewer = call(weighted, "rounds.2.blend={multinomial=2.0}", "stacking.final_predictor=blend")
    monkeypatch.undo()
    monkeypatch.setattr(Run, "is_trained", lambda run, job: True)
    monkeypatch.setattr(Run, "is_predicted", lambda run, job: True)
    reused = answers(fewer)
    call(fewer, "stacking.seed=7")
    fitted = answers(call(fewer, "stacking.seed=42"))
    assert fitted == reused
    monkeypatch.setattr(restack, "fit_stacks", None)
    with pytest.raises(TypeError):  # of a stacker that was not fitted
        call(fewer, TREES)


def test_a_round_without_stackers_gets_some_and_loses_them(stacked):
    assert call(stacked, "rounds.2.blend={}").scores(2).final_predictor == "mean"
    with_stackers = call(stacked, "rounds.2.blend={multinomial=1.0}")
    assert "multinomial" in evaluation.load(with_stackers.paths.evaluation(2)).predictors


def test_a_damaged_stack_is_fitted_anew(stacked, capsys):
    stacked.paths.stack(2, stacked.round_spec(2).folds).write_bytes(b"x")
    assert call(stacked, "stacking.final_predictor=mean").scores(2).final_predictor == "mean"
    assert "its stackers are fitted anew" in capsys.readouterr().out


@pytest.mark.parametrize("changes", [{"unusable_row": None}, {"first_seed": 9}], ids=["tracks", "networks"])
def test_stackers_of_other_tracks_or_networks_are_fitted_anew(stacked, monkeypatch, capsys, changes):
    """Tracks that became usable have other sub-folds: by the old stackers they would not be predicted out of fold."""
    for run in (stacked, replace(stacked, without_pseudo=True)):
        write_predictions(run, 2, monkeypatch, **changes)
    restacked = call(stacked, "stacking.final_predictor=mean")
    reused = evaluation.load(restacked.paths.evaluation(2)).probs
    assert "Other predictions or usable validation tracks than before" in capsys.readouterr().out
    call(restacked, "stacking.seed=7")
    fitted = call(restacked, "stacking.seed=42")
    np.testing.assert_array_equal(reused, evaluation.load(fitted.paths.evaluation(2)).probs)


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("optim.lr=0.5", r"optim\.lr: 0\.001, now 0\.5\): choose another --run, or undo the change"),
        ("rounds.1.blend={cnn=1.0}", r"now 1\.0.*only stacking\.\* and rounds\.2\.blend may change"),
        ("rounds.2.folds=[0]", r"rounds\.2\.folds: .*only stacking\.\* and rounds\.2\.blend may change"),
        ("rounds.3.blend={}", "numbers 1 to 2"),
        ("stacking.seed=-1", r"stacking\.seed"),
        ("rounds.2.blend={forest=1.0}", r"rounds\.2\.blend\.forest|forest"),
    ],
)
def test_other_changes_are_refused(stacked, override, reason):
    before = answers(stacked)
    with pytest.raises(InputError, match=reason):
        call(stacked, "stacking.final_predictor=mean", override)
    assert answers(open_run(stacked.folder)) == before


def test_training_and_prediction_are_told_who_changes_a_stack(stacked):
    with pytest.raises(InputError, match=r"by python stack\.py --run .* --set \.\.\."):
        open_run(stacked.folder, ["stacking.seed=7"])


def test_missing_predictions_change_nothing(stacked):
    before = answers(stacked)
    variant = replace(stacked, without_pseudo=True)
    variant.paths.predictions(variant.jobs(2)[0]).unlink()
    with pytest.raises(InputError, match="no predictions of inception_v3-fold1") as caught:
        call(stacked, "stacking.seed=7")
    assert caught.value.problems[-1].endswith("--without-pseudo")  # the commands to make them
    assert answers(open_run(stacked.folder)) == before


def test_only_the_last_round_is_stacked_anew(made):
    with pytest.raises(InputError, match="in the last round, 2, and round 1 is not stacked yet: leave --set out"):
        call(made, "stacking.seed=7")


def test_a_last_round_may_be_stacked_by_other_settings_from_the_start(stacked):
    stacked.paths.scores(2).unlink()
    restacked = call(stacked, "stacking.final_predictor=mean")
    assert restacked.scores(2).final_predictor == "mean"


def test_a_killed_call_leaves_the_old_result_or_the_new_one(stacked, monkeypatch):
    """Killed before each of its changes of files; the next plain call completes what is left."""
    old = answers(stacked)
    overrides = ["stacking.seed=7", "stacking.final_predictor=mean"]
    new = answers(call(stacked, *overrides))
    assert new != old
    call(stacked, "stacking.seed=42", "stacking.final_predictor=blend")
    outcomes = []
    for event in range(1, 200, 2):
        with monkeypatch.context() as patch:
            kill_at(patch, event)
            try:
                call(stacked, *overrides)
            except Killed:
                pass
            else:
                break
        opened = open_run(stacked.folder)
        is_new = opened.changed_stack is not None
        outcomes.append(is_new)
        for path in opened.submission_paths.values():  # whatever is there now belongs to this result
            assert not path.exists() or path.read_bytes() == (new if is_new else old)[path.name]
        assert answers(call(stacked)) == (new if is_new else old)
        call(stacked, "stacking.seed=42", "stacking.final_predictor=blend")
    assert outcomes == sorted(outcomes)
    assert {False, True} == set(outcomes)


def kill_at(patch: pytest.MonkeyPatch, event: int) -> None:
    """Raise Killed at the n-th replacement or removal of a file by os, and at all that follow."""
    count = 0

    def counted(function):
        def call_unless_killed(*arguments, **keywords):
            nonlocal count
            count += 1
            if count >= event:
                raise Killed
            return function(*arguments, **keywords)

        return call_unless_killed

    for name in ("replace", "unlink", "rmdir"):
        patch.setattr(os, name, counted(getattr(os, name)))


def test_the_command_says_what_changed(stacked, monkeypatch, capsys):
    monkeypatch.setattr(
        "sys.argv", ["stack.py", "--run", str(stacked.folder), "--set", "stacking.final_predictor=mean"]
    )
    stack.main()
    output = " ".join(capsys.readouterr().out.split())
    assert "Stacking round 2 anew: stacking.final_predictor: blend, now mean" in output
    assert "mean (final)" in output
    changed = "Stacked by settings that changed after training: stacking.final_predictor: blend, now mean."
    assert changed in output
    assert changed in stacked.paths.report.read_text()
    monkeypatch.setattr("sys.argv", ["stack.py", "--run", str(stacked.folder)])
    stack.main()
    output = " ".join(capsys.readouterr().out.split())
    assert changed in output
    assert "anew" not in output
