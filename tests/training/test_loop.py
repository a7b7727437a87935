import itertools
import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from melgpu.data.batch import Batch
from melgpu.data.targets import Targets
from melgpu.errors import InputError
from melgpu.models.classifier import Classifier
from melgpu.training import loop
from tests.helpers.training import (
    AUGMENT,
    DEMO,
    MACHINE,
    OPTIM,
    TARGETS,
    Pictures,
    Tiny,
    batches,
    fit,
    fresh_tiny,
    results,
    run,
    same_weights,
)


def fresh(spec=OPTIM) -> loop.Training:
    torch.manual_seed(0)
    return loop.start(Classifier("resnet50", 2, DEMO), spec, MACHINE)


def test_it_learns():
    spec = OPTIM.model_copy(update={"max_epochs": 6, "lr": 1e-4})
    records = run(fresh(spec), spec)
    assert [record["epoch"] for record in records] == [1, 2, 3, 4, 5, 6]
    assert records[-1]["loss"] < records[0]["loss"]
    assert records[-1]["window_accuracy"] > 0.9


def test_a_repeated_training_gives_the_same_bits():
    one, other = fresh_tiny(), fresh_tiny()
    assert results(run(one)) == results(run(other))
    assert same_weights(one.model, other.model)


VARIED = AUGMENT.model_copy(update={"num_masks": 1, "max_mask": 0.2, "mixup_alpha": 0.3})
MODERN = {"label_smoothing": 0.1, "ema_decay": 0.9, "weight_decay": 0.05}


@pytest.mark.parametrize(
    "changes",
    [{}, {"warmup_epochs": 1}, {"schedule": "plateau", "plateau_patience": 1}, {**MODERN, "warmup_epochs": 1}],
)
def test_a_training_resumed_at_any_step_gives_the_same_bits(changes):
    spec = OPTIM.model_copy(update={"max_epochs": 2, **changes})
    augment = VARIED if "ema_decay" in changes else AUGMENT
    whole = fresh_tiny(spec)
    yields = len(list(fit(whole, spec, augment)))
    assert yields == 2 * (3 + 3 + 1)  # steps, batches of validation, the record
    for stop in range(1, yields):
        cut = fresh_tiny(spec)
        for _ in itertools.islice(fit(cut, spec, augment), stop):
            pass
        tensors, metadata = cut.state()
        tensors, metadata = {name: value.clone() for name, value in tensors.items()}, json.loads(json.dumps(metadata))
        resumed = fresh_tiny(spec)
        torch.rand(stop)  # another random state
        resumed.restore(tensors, metadata, spec)
        assert len(list(fit(resumed, spec, augment))) <= yields - stop + 3  # a validation begins anew
        assert results(resumed.log) == results(whole.log), stop
        assert same_weights(resumed.model, whole.model), stop
        assert same_weights(resumed.evaluated_model, whole.evaluated_model), stop


def test_when_memory_runs_out_the_micro_batch_halves_and_the_step_stays(monkeypatch):
    class Small(nn.Module):
        """Holds two pictures at once."""

        def __init__(self):
            super().__init__()
            self.head = nn.Linear(3, 2)
            self.most = []

        def forward(self, images):
            self.most.append(len(images))
            if len(images) > 2:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return self.head(images.mean((2, 3)))

        def freeze_body(self, frozen):
            pass

    def run_once(micro_batch):
        torch.manual_seed(0)
        small = Small()
        state = loop.start(small, OPTIM, MACHINE.model_copy(update={"micro_batch": micro_batch}))
        steps = loop.train_epoch(state, Pictures(), batches(), TARGETS, OPTIM, AUGMENT, 0)
        assert list(steps) == [4, 4, 4]
        return state, small

    halved, small = run_once(1024)
    assert halved.micro_batch == 2
    assert small.most == [4, 2, 2, 2, 2, 2, 2]
    whole, _ = run_once(2)
    assert same_weights(halved.model, whole.model)
    assert torch.equal(halved.sums, whole.sums)
    monkeypatch.setattr(Small, "forward", lambda self, images: (_ for _ in ()).throw(torch.OutOfMemoryError("no")))
    with pytest.raises(InputError, match=r"machine\.micro_batch"):
        run_once(1024)


class Learning(Pictures):
    """A front end that learns."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(3, 1, 1))

    def forward(self, waves):
        return super().forward(waves) * self.gain


def test_a_front_end_that_learns_does_so_in_micro_batches_too():
    gradients = []
    for micro_batch in (1, 3, 1024):
        state, front_end = fresh_tiny(OPTIM), Learning()
        state.model.eval()  # no dropout, no statistics of a part
        state.micro_batch = micro_batch
        images = front_end(next(batches()).waves)
        wanted = torch.tensor([[0.25, 0], [0, 0.25], [0, 0.25], [0.25, 0]])
        sums = loop._backward(state, state.model, images, wanted, False)
        gradients.append((sums, front_end.gain.grad))
    for sums, gradient in gradients:
        torch.testing.assert_close(sums, gradients[0][0])
        torch.testing.assert_close(gradient, gradients[0][1])
        assert gradient.abs().sum() > 0


def test_a_resumed_training_remembers_what_memory_held():
    state = fresh_tiny(OPTIM)
    state.micro_batch = 2
    resumed = fresh_tiny(OPTIM)
    resumed.restore(*state.state(), OPTIM)
    assert resumed.micro_batch == 2


def test_another_number_of_processes_goes_on_after_as_many_windows():
    tensors, metadata = fresh_tiny(OPTIM).state()
    metadata |= {"ranks": 4, "progress": metadata["progress"] | {"step": 10}}
    resumed = fresh_tiny(OPTIM)
    resumed.restore(tensors | {"epoch.sums": torch.tensor([5.0, 1.0])}, metadata, OPTIM)
    assert resumed.progress.step == 40
    assert resumed.sums.tolist() == [20, 4]


def test_a_compiled_body_keeps_its_names():
    torch.manual_seed(0)
    plain, model = fresh().model, Classifier("resnet50", 2, DEMO)
    loop.start(model, OPTIM, MACHINE.model_copy(update={"compile": True}))
    assert model.body._compiled_call_impl
    assert model.state_dict().keys() == plain.state_dict().keys()


def test_windows_that_were_not_heard_teach_nothing():
    def half(heard):
        for batch in batches():
            yield Batch(batch.waves, batch.tracks, batch.starts, heard)

    state = fresh()
    before = [value.clone() for value in state.model.parameters()]
    silent = half(torch.zeros(4, dtype=torch.bool))
    list(loop.train_epoch(state, Pictures(), silent, TARGETS, OPTIM, AUGMENT, 0))
    assert all(torch.equal(a, b) for a, b in zip(before, state.model.parameters(), strict=True))
    assert state.sums.tolist() == [0, 0]


def test_warm_up_trains_the_head_alone():
    spec = OPTIM.model_copy(update={"warmup_epochs": 1, "warmup_lr": 1e-2, "batch_norm_batches": 0})
    state = fresh(spec)
    body = {key: value.clone() for key, value in state.model.body.state_dict().items()}
    head = state.model.head[0].weight.clone()
    records = run(state, spec, epochs=1)
    assert records[0]["lr"] == 1e-2
    assert all(torch.equal(value, body[key]) for key, value in state.model.body.state_dict().items())
    assert not torch.equal(state.model.head[0].weight, head)
    run(state, spec)
    assert not torch.equal(next(state.model.body.parameters()), body[next(iter(body))])


def test_the_plateau_lowers_the_learning_rate():
    spec = OPTIM.model_copy(update={"schedule": "plateau", "plateau_patience": 1, "lr": 1e-9})
    records = run(fresh_tiny(spec), spec)
    assert len({round(record["lr"] / 1e-9, 6) for record in records}) > 1


def test_the_cosine_falls_towards_zero():
    rates = [record["lr"] for record in run(fresh_tiny())]
    assert rates[0] == OPTIM.lr
    assert sorted(rates, reverse=True) == rates
    assert 0 < rates[-1] < 0.2 * OPTIM.lr


def test_refreshed_statistics_are_those_of_the_batches():
    model = nn.Sequential(Pictures(), nn.BatchNorm2d(3))
    pictures = torch.cat([batch.waves for batch in batches(0)]).view(-1, 3, 75, 75)
    loop.update_batch_norm(model[1], Pictures(), batches(0, count=9), num_batches=3, bfloat16=False)
    assert torch.allclose(model[1].running_mean, pictures.mean((0, 2, 3)), atol=1e-5)


def test_step_seeds_differ():
    numbers = itertools.product(range(5), repeat=4)
    assert len({loop.step_seed(*place) for place in numbers}) == 5**4


def test_a_loss_that_is_no_number_is_explained():
    def broken(epoch=0, first_step=0):
        for batch in batches(epoch, first_step):
            batch.waves[2] = torch.nan
            yield batch

    def diverged(epoch=0, first_step=0):
        for batch in batches(epoch, first_step):
            yield Batch(batch.waves * 1e38, batch.tracks, batch.starts, batch.valid)

    for source, message in ((broken, "window at sample 0: its picture is no number"), (diverged, "optim.lr")):
        steps = loop.fit(fresh(), Pictures(), source, lambda: batches(99), TARGETS, OPTIM, AUGMENT, seed=3)
        with pytest.raises(InputError, match=message):
            list(steps)


def test_many_broken_windows_are_not_all_named():
    def broken(epoch=0, first_step=0):
        for batch in batches(epoch, first_step, count=30):
            yield replace(batch, waves=batch.waves * torch.nan)

    steps = loop.fit(fresh(), Pictures(), broken, lambda: batches(99), TARGETS, OPTIM, AUGMENT, seed=3)
    with pytest.raises(InputError) as caught:
        list(steps)
    assert len(caught.value.problems) == loop.MAX_DESCRIBED


def test_a_front_end_that_diverged_is_not_blamed_on_the_files():
    class Drawing(Pictures):
        def __init__(self):
            super().__init__()
            self.gain = nn.Parameter(torch.tensor(torch.nan))

        def forward(self, waves):
            return super().forward(waves) * self.gain

    state = fresh_tiny()
    state.model.front_end = Drawing()
    steps = loop.fit(state, state.model.front_end, batches, lambda: batches(99), TARGETS, OPTIM, AUGMENT, seed=3)
    with pytest.raises(InputError, match=r"try a smaller optim\.lr"):
        list(steps)


def test_an_average_is_what_is_judged():
    spec = OPTIM.model_copy(update={"ema_decay": 0.999})
    state = fresh_tiny(spec)
    run(state, spec)
    assert state.progress.updates == 12
    assert not same_weights(state.evaluated_model, state.model)
    plain = fresh_tiny()
    run(plain)
    for one, other in zip(state.model.parameters(), plain.model.parameters(), strict=True):
        assert torch.equal(one, other)
    assert plain.evaluated_model is plain.model


def test_masks_mixes_and_smoothing_learn_too():
    augment = AUGMENT.model_copy(update={"num_masks": 1, "max_mask": 0.2, "mixup_alpha": 0.3})
    spec = OPTIM.model_copy(update={"max_epochs": 12, "lr": 1e-2, "label_smoothing": 0.1, "schedule": "cosine"})
    state = fresh_tiny(spec)
    records = [record for record in fit(state, spec, augment) if isinstance(record, dict)]
    assert records[-1]["loss"] < records[0]["loss"]
    assert records[-1]["window_accuracy"] > 0.9


def test_the_loss_is_the_cross_entropy_of_the_heard_windows():
    state = fresh_tiny()
    state.model.eval()
    batch = next(batches())
    heard, images = torch.tensor([True, True, False, True]), Pictures()(batch.waves)
    rows = Targets(TARGETS.classes, torch.tensor([1.0, 3.0])).of(replace(batch, valid=heard), 0.1)
    loss, accuracy = loop._backward(state, state.model, images, rows / 3, False)
    expected = torch.nn.functional.cross_entropy(
        state.model(images)[heard], TARGETS.classes[batch.tracks[heard]], torch.tensor([1.0, 3.0])
    )
    smooth = -(rows * state.model(images).log_softmax(1)).sum() / 3
    torch.testing.assert_close(loss, smooth.double())
    right = state.model(images).argmax(1) == TARGETS.classes[batch.tracks]
    assert float(accuracy) == pytest.approx(float(right[heard].float().mean()))
    unsmoothed = Targets(TARGETS.classes, torch.tensor([1.0, 3.0])).of(replace(batch, valid=heard), 0.0)
    loss, _ = loop._backward(state, state.model, images, unsmoothed / unsmoothed.sum(), False)
    torch.testing.assert_close(loss, expected.double())


def test_a_log_says_where_the_time_went():
    (record, *_) = run(fresh_tiny(), epochs=1)
    assert {f"{stage}_s" for stage in loop.STAGES} < record.keys()
    assert record["steps_per_s"] > 0
    assert 0 <= record["accuracy"] <= 1


@pytest.mark.gpu
def test_a_step_never_waits_for_the_gpu():
    device = torch.device("cuda")
    spec = OPTIM.model_copy(update={"ema_decay": 0.9, "label_smoothing": 0.1, "precision": "bfloat16"})
    augment = AUGMENT.model_copy(update={"num_masks": 1, "mixup_alpha": 0.2})
    state = loop.start(Tiny().to(device), spec, MACHINE)
    on_device = [replace(batch, waves=batch.waves.to(device)) for batch in batches(count=6)]
    steps = loop.train_epoch(state, Pictures(), on_device, TARGETS, spec, augment, 0)
    for _ in itertools.islice(steps, 3):
        pass
    torch.cuda.set_sync_debug_mode("error")
    try:
        assert list(steps) == [4, 4, 4]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.isfinite(state.sums).all()
