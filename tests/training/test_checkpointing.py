import contextlib
import io
import pickle
import threading
import zipfile
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from melgpu import files
from melgpu.errors import InputError
from melgpu.models import checkpoint
from melgpu.models.metadata import NetworkMetadata
from melgpu.runs import environment
from melgpu.training import checkpointing
from melgpu.training.background_writer import BackgroundWriter
from tests.helpers.training import OPTIM, PARITY, epoch_record, fit, fresh_tiny, run, same_weights


@pytest.fixture
def short(made):
    """A run with the `optim` of the training tests."""
    return replace(made, recipe=made.recipe.model_copy(update={"optim": OPTIM}))


def save_epoch(run, job, training):
    with BackgroundWriter() as writer:
        checkpointing.save_epoch(run, job, training, PARITY, writer)


def save_state(run, job, training):
    with BackgroundWriter() as writer:
        checkpointing.save_state(run, job, training, writer)


def test_a_training_is_saved_resumed_and_finished(short):
    job, uninterrupted, resumed = short.jobs(1)[0], fresh_tiny(), fresh_tiny()
    run(uninterrupted)
    for _ in range(2):  # interrupted after its first epoch, and after its second
        run(resumed, epochs=1)
        save_epoch(short, job, resumed)
        resumed = fresh_tiny()
        checkpointing.resume(short, job, resumed)
    run(resumed)
    save_epoch(short, job, resumed)
    checkpointing.mark_trained(short, job, resumed)
    assert same_weights(resumed.model, uninterrupted.model)
    assert short.is_trained(job)
    names = sorted(path.name for path in short.paths.job_folder(job).iterdir())
    assert names == ["best.safetensors", "log.csv", "scores.json"]
    assert checkpointing.load_log(short, job) == resumed.log
    assert len(resumed.log) == OPTIM.max_epochs
    _, metadata = checkpoint.load(short.paths.checkpoint(job), NetworkMetadata)
    assert (metadata.parity, metadata.provenance) == (PARITY, short.job_provenance(job))
    assert metadata.class_names == ["a", "b"]
    assert metadata.scores in resumed.log
    assert metadata.recipe == short.recipe
    assert metadata.environment == environment.describe(torch.device("cpu"))


def test_a_saved_state_is_that_of_its_step(short):
    job, training = short.jobs(1)[0], fresh_tiny()
    events = fit(training)
    next(events)
    expected = {name: value.clone() for name, value in training.model.state_dict().items()}
    with BackgroundWriter() as writer:
        blocked = threading.Event()
        writer.submit(blocked.wait)
        threading.Timer(0.2, blocked.set).start()
        checkpointing.save_state(short, job, training, writer)
        next(events)  # changes the weights while they are written
    resumed = fresh_tiny()
    assert checkpointing.resume(short, job, resumed)
    assert resumed.progress.step == 1
    assert all(torch.equal(value, expected[name]) for name, value in resumed.model.state_dict().items())
    assert not same_weights(resumed.model, training.model)


def test_a_state_that_cannot_be_written_stops_the_training(short, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    job, training = short.jobs(1)[0], fresh_tiny()
    monkeypatch.setattr(torch, "save", full)
    with BackgroundWriter() as writer:
        checkpointing.save_state(short, job, training, writer)
        with pytest.raises(OSError, match="No space left"):
            checkpointing.save_state(short, job, training, writer)
    with pytest.raises(OSError, match="No space left"), BackgroundWriter() as writer:
        checkpointing.save_state(short, job, training, writer)


def test_the_state_that_a_kill_at_the_end_leaves_is_deleted(short):
    first, second = short.jobs(1)
    for job in (first, second):
        short.paths.job_folder(job).mkdir(parents=True)
        short.paths.training_state(job).touch()
    short.paths.job_scores(first).touch()
    checkpointing.delete_unused_states(short, short.jobs(1))
    assert [short.paths.training_state(job).exists() for job in (first, second)] == [False, True]


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


def test_without_locks_a_network_is_trained_with_a_note(made, monkeypatch, capsys):
    monkeypatch.setattr(files, "lock", lambda file: False)
    for job in made.jobs(1):
        with checkpointing.job_lock(made, job):
            pass
    assert capsys.readouterr().out == f"{made.folder}: {files.UNLOCKED_NOTE}\n"  # once


def test_a_training_of_another_recipe_is_rejected(short, made):
    job, training = short.jobs(1)[0], fresh_tiny()
    run(training, epochs=1)
    save_epoch(short, job, training)
    with pytest.raises(checkpoint.CheckpointError, match="made with recipe "):
        checkpointing.resume(made, job, fresh_tiny())


def test_tensorboard_has_each_epoch_once_after_an_interruption(short):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    machine = short.recipe.machine.model_copy(update={"tensorboard": True})
    with_tensorboard = replace(short, recipe=short.recipe.model_copy(update={"machine": machine}))
    job, training = with_tensorboard.jobs(1)[0], fresh_tiny()
    for _ in range(2):
        run(training, epochs=1)
        save_epoch(with_tensorboard, job, training)
    save_epoch(with_tensorboard, job, training)  # as after a kill before the epoch's state was saved
    events = EventAccumulator(str(with_tensorboard.paths.tensorboard(job)))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == [1, 2]
    assert {"loss", "accuracy", "window_accuracy", "lr"} <= set(events.Tags()["scalars"])


@pytest.mark.parametrize(
    "damage",
    [
        lambda state: state.clear(),
        lambda state: state.update(progress={**state["progress"], "epoch": 10**9}),
        lambda state: state.update(progress={**state["progress"], "step": -1}),
        lambda state: state.update(progress={**state["progress"], "best_epoch": 10**9}),
        lambda state: state.update(progress={**state["progress"], "best_accuracy": float("nan")}),
        lambda state: state.update(log=["text"]),
        lambda state: state.update(log=[{"window_accuracy": 0.5}]),
        lambda state: state.update(micro_batch=0),
        lambda state: state.update(world_size="two"),
        lambda state: state.update(model={}),
        lambda state: state["model"].update({"head.2.bias": torch.zeros(77)}),
        lambda state: state["model"].update({"head.2.bias": [0.0, 0.0]}),
        lambda state: state.update(ema={}),
        lambda state: state.update(metric_sums=torch.zeros(3)),
        lambda state: state.update(metric_sums=torch.zeros(2)),
        lambda state: state.update(metric_sums=torch.zeros(1).expand(2**40)),
        lambda state: state.update(world_size=2**70),
        lambda state: state["model"].update({"head.2.bias": torch.zeros(2, dtype=torch.float64)}),
        lambda state: state["model"].update({"head.2.bias": torch.full((2,), torch.nan)}),
        lambda state: state["model"].update({"head.2.weight": torch.zeros(1, 1).expand(2, 8)}),
        lambda state: state["model"].update({"head.2.bias": torch.zeros(2).to_sparse()}),
        lambda state: state.update(optimizer={"state": {}, "param_groups": []}),
        lambda state: state.update(optimizer=None),
        lambda state: state.pop("provenance"),
    ],
)
def test_a_malformed_state_is_rejected(short, damage):
    job, training = short.jobs(1)[0], fresh_tiny()
    state = training.state(short.job_provenance(job)).model_dump()
    path = short.paths.training_state(job)
    path.parent.mkdir(parents=True)
    torch.save(state, path)
    assert checkpointing.resume(short, job, training)
    damage(state)
    torch.save(state, path)
    with pytest.raises(checkpoint.CheckpointError, match=r"last\.pt: .*(not the state of a training|does not fit)"):
        checkpointing.resume(short, job, training)


class Payload:
    def __reduce__(self):
        return (open, ("ran", "w"))


def test_damaged_and_untrusted_states_are_rejected_and_run_no_code(short, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    job, training = short.jobs(1)[0], fresh_tiny()
    path = short.paths.training_state(job)
    path.parent.mkdir(parents=True)
    save_state(short, job, training)
    intact = path.read_bytes()
    malicious, legacy = io.BytesIO(), io.BytesIO()
    torch.save({"model": Payload()}, malicious)
    torch.save(training.state(short.job_provenance(job)).model_dump(), legacy, _use_new_zipfile_serialization=False)
    appended = legacy.getvalue() + intact  # zipfile reads the end of a file, torch its beginning
    damaged = [b"", b"text", intact[:-9], pickle.dumps(Payload()), malicious.getvalue(), compressed_bytes(intact)]
    for content in [*damaged, legacy.getvalue(), appended]:
        path.write_bytes(content)
        with pytest.raises(checkpoint.CheckpointError, match=r"last\.pt: damaged, or not the state of a training"):
            checkpointing.resume(short, job, training)
    assert not (tmp_path / "ran").exists()


def compressed_bytes(archive_bytes: bytes) -> bytes:
    """The same archive with compressed members, which may be of any size."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive_bytes)) as archive, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as out:
        for name in archive.namelist():
            out.writestr(name, archive.read(name))
    return file.getvalue()


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_flipped_bit_of_a_state_is_rejected_or_harmless(short, data):
    job, training = short.jobs(1)[0], fresh_tiny()
    expected = {name: value.clone() for name, value in training.model.state_dict().items()}
    path = short.paths.training_state(job)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_state(short, job, training)
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    with contextlib.suppress(checkpoint.CheckpointError):  # else the change is in padding or in a time stamp
        checkpointing.resume(short, job, training)
    assert all(torch.equal(value, expected[name]) for name, value in training.model.state_dict().items())


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
    record = epoch_record(1)
    row = ",".join(str(value) for _, value in record)
    text = ",".join(checkpointing.LOG_COLUMNS) + f"\n{row}\n"
    path = made.paths.training_log(job)
    path.parent.mkdir(parents=True)
    path.write_text(text)
    assert checkpointing.load_log(made, job) == [record]
    path.write_text(damage(text))
    with pytest.raises(InputError, match=r"log\.csv: not a training log"):
        checkpointing.load_log(made, job)
