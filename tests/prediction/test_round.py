"""What `predict_round` does where there is nothing to predict."""

import pytest
import torch

from melgpu.errors import InputError
from melgpu.prediction import round as prediction_round
from melgpu.prediction.round import predict_round
from tests.helpers.runs import mark_stacked

CPU = torch.device("cpu")


def test_a_first_round_without_networks_is_an_error(made):
    with pytest.raises(InputError, match=r"round 1 has no trained network yet; first python train\.py --run"):
        predict_round(made, CPU)


def test_between_rounds_the_next_step_is_said(made, capsys):
    mark_stacked(made, 1, [])
    predict_round(made, CPU)
    assert capsys.readouterr().out == f"Round 1 is done. Next: python train.py --run {made.folder}\n"
    made.paths.job_folder(made.jobs(2)[0]).mkdir(parents=True)  # the next one is begun, and no network is trained
    with pytest.raises(InputError, match="round 2 has no trained network yet"):
        predict_round(made, CPU)
    mark_stacked(made, 2, [])
    predict_round(made, CPU)
    assert "All rounds are done" in capsys.readouterr().out


def test_deleted_predictions_of_a_finished_run_are_made_again(made, monkeypatch, capsys):
    mark_stacked(made, 1, [])
    mark_stacked(made, 2, [])
    deleted = made.jobs(2)[0]
    predicted = []
    monkeypatch.setattr(type(made), "is_trained", lambda run, job: True)
    monkeypatch.setattr(type(made), "is_predicted", lambda run, job: job != deleted or bool(predicted))
    monkeypatch.setattr(prediction_round.relocation, "check_present", lambda run: None)
    monkeypatch.setattr(prediction_round.preflight, "fill_cache", lambda run: None)
    monkeypatch.setattr(prediction_round, "predict_jobs", lambda run, jobs, device: predicted.extend(jobs))
    predict_round(made, CPU)
    assert predicted == [deleted]
    assert "Next: python stack.py" in capsys.readouterr().out
    predict_round(made, CPU)
    assert "All rounds are done" in capsys.readouterr().out
    assert predicted == [deleted]


def test_resume_logs_of_complete_predictions_are_deleted(made, monkeypatch, capsys):
    monkeypatch.setattr(type(made), "is_trained", lambda run, job: True)
    monkeypatch.setattr(type(made), "is_predicted", lambda run, job: True)
    made.paths.predictions_folder(1).mkdir(parents=True)
    log = made.paths.resume_log(1, 0, ["a"])
    log.touch()  # of a process that was killed after its predictions
    predict_round(made, CPU)
    assert "Next: python stack.py" in capsys.readouterr().out
    assert not log.exists()
