import pytest

from melgpu import spent
from melgpu.training import checkpointing
from tests.helpers import report_run


def test_time_adds_up_over_epochs_and_folds(tmp_path):
    made = report_run.make(tmp_path, audio=False)
    logs = spent.logs(made, 2)
    assert {name: list(folds) for name, folds in logs.items()} == {"inception_v3": [1, 2], "resnet50": [1, 2]}
    found = spent.spent(made, "resnet50", logs["resnet50"])
    records = [record for job in made.jobs(2) if job.backbone == "resnet50" for record in checkpointing.log(made, job)]
    assert (found.networks, found.epochs) == (2, len(records))
    stages = ("audio_s", "pictures_s", "network_s", "rest_s", "validation_s")
    assert found.total_s == pytest.approx(sum(record[stage] for record in records for stage in stages))
    trained = [record["audio_s"] + record["pictures_s"] + record["network_s"] + record["rest_s"] for record in records]
    steps = sum(record["steps_per_s"] * own for record, own in zip(records, trained, strict=True))
    assert found.windows_per_s == pytest.approx(steps * made.recipe.optim.batch_size / sum(trained))


def test_networks_without_a_log_are_left_out(tmp_path):
    made = report_run.start(tmp_path, ("a", "b"), 4, True, audio=False)
    assert spent.logs(made, 1) == {}
