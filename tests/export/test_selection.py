"""Which network of a run is exported, and what is said of the others."""

import re
import shutil

import pytest

from melgpu.errors import InputError
from melgpu.export import selection
from melgpu.prediction.ensemble import load_ensemble
from melgpu.runs.formats.scores import RoundScores
from melgpu.runs.job import Job
from tests.helpers.runs import finish_without_scores, write_run

TWO_NETWORKS = ("test_efficientnet", "test_resnet")
STACKED = "rounds=[{backbones=['test_efficientnet'], folds=[0], blend={cnn=1.0}}]"
TWO_ROUNDS = (
    "rounds=[{backbones=['test_efficientnet'], folds=[0], blend={}},"
    " {backbones=['test_efficientnet'], folds=[0], blend={}}]"
)


def test_one_network_of_several_is_chosen_by_name(tmp_path):
    run = write_run(tmp_path, TWO_NETWORKS)
    assert selection.select_job(run, "test_resnet", None).backbone == "test_resnet"
    with pytest.raises(InputError, match=r"--backbone test_efficientnet --fold 0; --backbone test_resnet --fold 0$"):
        selection.select_job(run, None, 0)
    with pytest.raises(InputError, match="no such network is trained; there are: --backbone"):
        selection.select_job(run, "resnet50", None)
    for job in run.jobs(1):
        run.paths.job_scores(job).unlink()
    with pytest.raises(InputError, match="no trained network yet"):
        selection.select_job(run, None, None)


def test_a_finished_run_of_several_networks_can_teach_one(tmp_path):
    run = write_run(tmp_path, TWO_NETWORKS)
    finish_without_scores(run, 1)
    student = re.escape(f"train.py --run NEW --recipe student --teacher {run.folder}")
    with pytest.raises(InputError, match=student):
        selection.select_job(run, None, None)
    note = selection.describe_others(run, run.jobs(1)[0])
    assert note.startswith("note: this is one network of round 1: predict.py uses all 2 networks of round 1")
    assert re.search(student, note)


def test_the_note_names_the_stackers_of_a_single_network(tmp_path):
    run = write_run(tmp_path, ("test_efficientnet",), STACKED)
    (job,) = run.jobs(1)
    finish_without_scores(run, 1)  # by the mean
    assert selection.describe_others(run, job) is None
    settings = run.stack_settings(1)
    run.finish_round(1, RoundScores(settings=settings, final_predictor="blend", selection=None, scores={}))
    note = selection.describe_others(run, job)
    assert note == "note: predict.py combines this network's probabilities by the stackers of round 1"


def test_the_note_names_the_round_that_predict_uses(tmp_path):
    run = write_run(tmp_path, ("test_efficientnet",), TWO_ROUNDS)
    (first,) = run.jobs(1)
    assert selection.select_job(run, None, None) == first
    assert selection.describe_others(run, first) is None
    second = Job(2, first.backbone, first.fold)
    finish_without_scores(run, 1)
    shutil.copytree(run.paths.job_folder(first), run.paths.job_folder(second))
    assert selection.select_job(run, None, None) == second
    assert load_ensemble(run).networks[0].metadata.provenance.round == 1
    assert "of round 2: predict.py uses the network of round 1" in selection.describe_others(run, second)
    finish_without_scores(run, 2)
    assert selection.describe_others(run, second) is None
    assert "of round 1: predict.py uses the network of round 2" in selection.describe_others(run, first)
