import pytest

from melgpu.report import training_times
from melgpu.training import checkpointing
from tests.helpers import report_run


def test_times_are_summed_over_epochs_and_folds(tmp_path):
    run = report_run.make(tmp_path, audio=False)
    logs = training_times.training_logs(run, 2)
    assert {name: list(folds) for name, folds in logs.items()} == {"inception_v3": [1, 2], "resnet50": [1, 2]}
    training = training_times.training_time(run, "resnet50", logs["resnet50"])
    records = [
        record for job in run.jobs(2) if job.backbone == "resnet50" for record in checkpointing.load_log(run, job)
    ]
    assert (training.networks, training.epochs) == (2, len(records))
    stages = ("audio_s", "pictures_s", "network_s", "other_s", "validation_s")
    assert training.total_s == pytest.approx(sum(getattr(record, stage) for record in records for stage in stages))
    training_s = [sum(getattr(record, stage) for stage in stages[:-1]) for record in records]
    steps = sum(record.steps_per_s * epoch_s for record, epoch_s in zip(records, training_s, strict=True))
    assert training.windows_per_s == pytest.approx(steps * run.recipe.optim.batch_size / sum(training_s))


def test_networks_without_a_log_are_left_out(tmp_path):
    run = report_run.create(tmp_path, ("a", "b"), 4, True, audio=False)
    assert training_times.training_logs(run, 1) == {}
