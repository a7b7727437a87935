from types import SimpleNamespace

import pytest
import torch

from melgpu import distributed
from melgpu.errors import InputError
from melgpu.features import engines, parity
from melgpu.features.log_mel import LogMel
from melgpu.training import round as training_round
from melgpu.training.round import JobTraining, training_detail

CPU = torch.device("cpu")


@pytest.fixture
def job_training(made) -> JobTraining:
    """The training of a run's first network, whose pictures are computed by `fft`."""
    sample_rate = made.recipe.audio.sample_rate
    features = LogMel(made.recipe.mel, sample_rate)
    parity_figures = engines.resolve_engine(features, sample_rate, CPU).parity
    loader = SimpleNamespace(device=CPU)
    return JobTraining(made, made.jobs(1)[0], loader, features, parity_figures, "1/1")


def test_the_progress_detail_has_metrics_and_stage_times():
    detail = training_detail(1.25, 0.5, 0.625, {"audio": 0.001, "network": 6.0, "pictures": 2.0})
    assert detail.splitlines() == [
        "loss 1.250, accuracy 0.500 on training windows, 0.625 on validation at best",
        "time: network 75%, pictures 25%",
    ]
    assert "validation" not in training_detail(1.25, 0.5, -1.0, {})


def test_a_resumed_training_computes_with_its_own_engine_and_the_next_one_with_the_rounds(job_training, capsys):
    figures = job_training.use_engine("nnaudio")
    assert figures.engine == job_training.features.engine_on(CPU) == "nnaudio"
    assert "1/1: resuming with mel.engine nnaudio, instead of fft" in capsys.readouterr().out
    parity.check_same_pictures(figures, job_training.parity_figures, "x")
    assert job_training.use_engine("fft") is job_training.parity_figures
    assert job_training.features.engine_on(CPU) == "fft"


def test_a_resumed_training_is_refused_where_its_engine_does_not_run(job_training, monkeypatch):
    monkeypatch.setattr("melgpu.features.triton_kernels.INTERPRETED", False)
    message = r"last\.pt: trained with mel\.engine fused \(mel\.engine fused does not run on cpu\); delete it"
    with pytest.raises(InputError, match=message):
        job_training.use_engine("fused")


def test_a_resumed_training_is_refused_where_its_engine_misses_the_gate(job_training, monkeypatch):
    monkeypatch.setattr(parity, "MAX_ERROR_DB", 0.0)
    with pytest.raises(InputError, match=r"last\.pt: trained with mel\.engine nnaudio \(.* misses the parity gate"):
        job_training.use_engine("nnaudio")


def test_other_processes_take_the_engine_of_the_main_process(made, monkeypatch):
    features = LogMel(made.recipe.mel, made.recipe.audio.sample_rate)
    monkeypatch.setattr(distributed, "is_main_process", lambda: False)
    monkeypatch.setattr(distributed, "broadcast_from_main", lambda value: "nnaudio")
    figures = training_round.agree_on_engine(features, made.recipe.audio.sample_rate, CPU)
    assert figures.engine == features.engine == "nnaudio"
