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
    """A run whose recipe trains as the tests of training do."""
    return replace(made, recipe=made.recipe.model_copy(update={"optim": OPTIM}))


def test_kept_resumed_and_finished(short):
    job, whole, cut = short.jobs(1)[0], fresh_tiny(), fresh_tiny()
    run(whole)
    for _ in range(2):  # killed after its first epoch, and after its second
        run(cut, epochs=1)
        checkpointing.save_epoch(short, job, cut, PARITY)
        cut = fresh_tiny()
        checkpointing.resume(short, job, cut)
    run(cut)
    checkpointing.save_epoch(short, job, cut, PARITY)
    checkpointing.mark_trained(short, job, cut)
    assert same_weights(cut.model, whole.model)
    assert short.is_trained(job)
    left = sorted(path.name for path in short.job_folder(job).iterdir())
    assert left == ["best.safetensors", "log.csv", "scores.json"]
    assert checkpointing.load_log(short, job) == cut.log
    assert len(cut.log) == OPTIM.max_epochs
    _, metadata = checkpoint.load(short.checkpoint(job))
    schema.validate_metadata(schema.NetworkMetadata, metadata, short.checkpoint(job))
    assert (metadata["parity"], metadata["recipe_digest"]) == (PARITY, short.recipe.digest())
    assert (metadata["fold"], metadata["class_names"]) == (0, ["a", "b"])
    assert metadata["scores"] in cut.log
    assert validate_recipe(metadata["recipe"], "again") == short.recipe
    made_on = environment.describe("cpu")
    assert {key: metadata["environment"][key] for key in made_on} == made_on


def test_two_processes_never_train_the_same_network(made):
    one, other = made.jobs(1)
    with checkpointing.job_lock(made, one):
        with checkpointing.job_lock(made, other):
            pass
        with (
            pytest.raises(InputError, match="another process is training this network"),
            checkpointing.job_lock(made, one),
        ):
            pass
    with checkpointing.job_lock(made, one):
        pass


def test_a_training_of_another_recipe_is_refused(short, made):
    job, state = short.jobs(1)[0], fresh_tiny()
    run(state, epochs=1)
    checkpointing.save_epoch(short, job, state, {})
    with pytest.raises(checkpoint.CheckpointError, match="made with another recipe"):
        checkpointing.resume(made, job, fresh_tiny())


def test_tensorboard_shows_the_log_once_though_it_was_interrupted(short):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    machine = short.recipe.machine.model_copy(update={"tensorboard": True})
    shown = replace(short, recipe=short.recipe.model_copy(update={"machine": machine}))
    job, state = shown.jobs(1)[0], fresh_tiny()
    for _ in range(2):
        run(state, epochs=1)
        checkpointing.save_epoch(shown, job, state, {})
    checkpointing.save_epoch(shown, job, state, {})  # as after a kill before the epoch's state was saved
    events = EventAccumulator(str(shown.job_folder(job) / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == [1, 2]
    assert {"loss", "accuracy", "window_accuracy", "lr"} <= set(events.Tags()["scalars"])


def test_a_damaged_or_foreign_training_is_refused(short):
    job, again = short.jobs(1)[0], fresh_tiny()
    tensors, said = again.state()
    first, path = next(iter(tensors)), short.job_folder(job) / "last.safetensors"
    for few, wrong in (
        ({}, None),
        ({}, []),
        ({}, {**said, "progress": {}}),
        ({}, {**said, "progress": {**said["progress"], "epoch": 10**9}}),
        ({}, {**said, "progress": {**said["progress"], "step": -1}}),
        ({}, {**said, "log": ["text"]}),
        ({}, {**said, "log": [{"window_accuracy": 0.5}]}),
        ({}, {**said, "groups": [{"lr": "fast", "params": [0]}]}),
        ({}, {**said, "micro_batch": 0}),
        ({}, {**said, "ranks": "two"}),
        ({}, said),
        ({"nameless": torch.zeros(3)}, said),
        ({"other.thing": torch.zeros(3)}, said),
        ({first: torch.zeros(77)}, said),
        ({**tensors, "epoch.sums": torch.zeros(3)}, said),
        (tensors, {**said, "groups": []}),
    ):
        checkpoint.save(path, few, {"recipe_digest": short.recipe.digest(), "pseudo_digest": "none", "training": wrong})
        with pytest.raises(checkpoint.CheckpointError, match=r"last\.safetensors: .*(not of a training|does not fit)"):
            checkpointing.resume(short, job, again)


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
def test_damaged_logs_are_refused(made, damage):
    job = made.jobs(1)[0]
    assert checkpointing.load_log(made, job) == []
    columns = ("lr", *checkpointing.LOG_COLUMNS)
    text = ",".join(columns) + "\n" + ",".join(["0.5"] * len(columns)) + "\n"
    path = made.job_folder(job) / "log.csv"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    assert checkpointing.load_log(made, job) == [dict.fromkeys(columns, 0.5)]
    path.write_text(damage(text))
    with pytest.raises(InputError, match=r"log\.csv: not a training's log"):
        checkpointing.load_log(made, job)
