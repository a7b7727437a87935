from dataclasses import replace

import pytest
import torch

from melgpu.errors import InputError
from melgpu.models import checkpoint, schema
from melgpu.recipe import validate_recipe
from melgpu.runs import environment
from melgpu.training import checkpointing
from tests.helpers.training import OPTIM, PARITY, fresh_tiny, run, same_weights


@pytest.fixture
def short(made):
    """A run with the `optim` of the training tests."""
    return replace(made, recipe=made.recipe.model_copy(update={"optim": OPTIM}))


def test_a_training_is_saved_resumed_and_finished(short):
    job, uninterrupted, resumed = short.jobs(1)[0], fresh_tiny(), fresh_tiny()
    run(uninterrupted)
    for _ in range(2):  # interrupted after its first epoch, and after its second
        run(resumed, epochs=1)
        checkpointing.save_epoch(short, job, resumed, PARITY)
        resumed = fresh_tiny()
        checkpointing.resume(short, job, resumed)
    run(resumed)
    checkpointing.save_epoch(short, job, resumed, PARITY)
    checkpointing.mark_trained(short, job, resumed)
    assert same_weights(resumed.model, uninterrupted.model)
    assert short.is_trained(job)
    names = sorted(path.name for path in short.job_folder(job).iterdir())
    assert names == ["best.safetensors", "log.csv", "scores.json"]
    assert checkpointing.load_log(short, job) == resumed.log
    assert len(resumed.log) == OPTIM.max_epochs
    _, metadata = checkpoint.load(short.checkpoint_path(job))
    schema.validate_metadata(schema.NetworkMetadata, metadata, short.checkpoint_path(job))
    assert (metadata["parity"], metadata["recipe_digest"]) == (PARITY, short.recipe.digest())
    assert (metadata["fold"], metadata["class_names"]) == (0, ["a", "b"])
    assert metadata["scores"] in resumed.log
    assert validate_recipe(metadata["recipe"], "saved") == short.recipe
    expected = environment.describe("cpu")
    assert {key: metadata["environment"][key] for key in expected} == expected


def test_two_processes_never_train_the_same_network(made):
    first, second = made.jobs(1)
    with checkpointing.job_lock(made, first):
        with checkpointing.job_lock(made, second):
            pass
        with (
            pytest.raises(InputError, match="another process is training this network"),
            checkpointing.job_lock(made, first),
        ):
            pass
    with checkpointing.job_lock(made, first):
        pass


def test_a_training_of_another_recipe_is_rejected(short, made):
    job, training = short.jobs(1)[0], fresh_tiny()
    run(training, epochs=1)
    checkpointing.save_epoch(short, job, training, {})
    with pytest.raises(checkpoint.CheckpointError, match="made with another recipe"):
        checkpointing.resume(made, job, fresh_tiny())


def test_tensorboard_has_each_epoch_once_after_an_interruption(short):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    machine = short.recipe.machine.model_copy(update={"tensorboard": True})
    with_tensorboard = replace(short, recipe=short.recipe.model_copy(update={"machine": machine}))
    job, training = with_tensorboard.jobs(1)[0], fresh_tiny()
    for _ in range(2):
        run(training, epochs=1)
        checkpointing.save_epoch(with_tensorboard, job, training, {})
    checkpointing.save_epoch(with_tensorboard, job, training, {})  # as after a kill before the epoch's state was saved
    events = EventAccumulator(str(with_tensorboard.job_folder(job) / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == [1, 2]
    assert {"loss", "accuracy", "window_accuracy", "lr"} <= set(events.Tags()["scalars"])


def test_a_malformed_state_is_rejected(short):
    job, training = short.jobs(1)[0], fresh_tiny()
    tensors, metadata = training.state()
    first_name, path = next(iter(tensors)), short.job_folder(job) / "last.safetensors"
    digests = {"recipe_digest": short.recipe.digest(), "pseudo_digest": "none"}
    for bad_tensors, bad_metadata in (
        ({}, None),
        ({}, []),
        ({}, {**metadata, "progress": {}}),
        ({}, {**metadata, "progress": {**metadata["progress"], "epoch": 10**9}}),
        ({}, {**metadata, "progress": {**metadata["progress"], "step": -1}}),
        ({}, {**metadata, "log": ["text"]}),
        ({}, {**metadata, "log": [{"window_accuracy": 0.5}]}),
        ({}, {**metadata, "groups": [{"lr": "fast", "params": [0]}]}),
        ({}, {**metadata, "micro_batch": 0}),
        ({}, {**metadata, "ranks": "two"}),
        ({}, metadata),
        ({"nameless": torch.zeros(3)}, metadata),
        ({"other.thing": torch.zeros(3)}, metadata),
        ({first_name: torch.zeros(77)}, metadata),
        ({**tensors, "epoch.sums": torch.zeros(3)}, metadata),
        (tensors, {**metadata, "groups": []}),
    ):
        checkpoint.save(path, bad_tensors, digests | {"training": bad_metadata})
        with pytest.raises(checkpoint.CheckpointError, match=r"last\.safetensors: .*(not of a training|does not fit)"):
            checkpointing.resume(short, job, training)


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: "epoch,loss\n1,2\n",
        lambda text: text.replace("0.5", "half"),
        lambda text: text.replace("0.5", "nan"),
        lambda text: text + "1,2\n",
        lambda text: text + "\0",
    ],
)
def test_malformed_logs_are_rejected(made, damage):
    job = made.jobs(1)[0]
    assert checkpointing.load_log(made, job) == []
    columns = ("lr", *checkpointing.LOG_COLUMNS)
    text = ",".join(columns) + "\n" + ",".join(["0.5"] * len(columns)) + "\n"
    path = made.job_folder(job) / "log.csv"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    assert checkpointing.load_log(made, job) == [dict.fromkeys(columns, 0.5)]
    path.write_text(damage(text))
    with pytest.raises(InputError, match=r"log\.csv: not a training log"):
        checkpointing.load_log(made, job)
