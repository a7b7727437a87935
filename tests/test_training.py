import pytest
import torch
from torch import nn

from melgpu import recipe, training
from melgpu.backbone import Classifier
from melgpu.errors import InputError
from melgpu.stream import Batch
from melgpu.training import Progress

OPTIM = recipe.load(["demo"], ["optim.precision='float32'", "optim.max_epochs=4", "optim.batch_size=4"]).optim
AUGMENT = recipe.load([]).augment


class Pictures(nn.Module):
    """A front end of two lines: waves (B, 3 * 75 * 75) are the pictures."""

    def forward(self, waves):
        return waves.view(-1, 3, 75, 75)


def batches(epoch: int = 0, count: int = 3):
    """Pictures whose brightness tells the class."""
    for step in range(count):
        generator = torch.Generator().manual_seed(1000 * epoch + step)
        tracks = torch.randint(2, (4,), generator=generator)
        waves = torch.rand(4, 3 * 75 * 75, generator=generator) * 0.2 + 0.6 * tracks[:, None]
        yield Batch(waves, tracks, tracks * 0, tracks >= 0)


LABELS = torch.tensor([0, 1])


def fresh(spec=OPTIM) -> training.Training:
    torch.manual_seed(0)
    return training.start(Classifier("resnet50", 2, 0.25), spec)


def run(state, spec=OPTIM, epochs=None):
    records = []
    steps = training.fit(state, Pictures(), batches, lambda: batches(99), LABELS, spec, AUGMENT, seed=3)
    for record in steps:
        if record:
            records.append(record)
        if epochs and len(records) == epochs:
            break
    return records


def same_weights(one, other) -> bool:
    theirs = other.state_dict()
    return all(torch.equal(value, theirs[key]) for key, value in one.state_dict().items())


def test_it_learns():
    spec = OPTIM.model_copy(update={"max_epochs": 6, "lr": 1e-4})
    records = run(fresh(spec), spec)
    assert [record["epoch"] for record in records] == [1, 2, 3, 4, 5, 6]
    assert records[-1]["loss"] < records[0]["loss"]
    assert records[-1]["window_accuracy"] > 0.9


def test_a_repeated_training_gives_the_same_bits():
    one, other = fresh(), fresh()
    assert run(one) == run(other)
    assert same_weights(one.model, other.model)


def test_a_resumed_training_gives_the_same_bits():
    for spec in (OPTIM, OPTIM.model_copy(update={"warmup_epochs": 2, "schedule": "plateau"})):
        whole, cut = fresh(spec), fresh(spec)
        run(whole, spec)
        for epochs in (1, 2):  # interrupted in the warm-up and at its end
            run(cut, spec, epochs=epochs)
            tensors, about = cut.state()
            tensors = {name: value.clone() for name, value in tensors.items()}
            cut = fresh(spec)
            torch.rand(epochs)  # another random state
            cut.restore(tensors, about, spec)
        run(cut, spec)
        assert cut.log == whole.log
        assert same_weights(cut.model, whole.model)


def test_warm_up_trains_the_head_alone():
    spec = OPTIM.model_copy(update={"warmup_epochs": 1, "warmup_lr": 1e-2, "refresh_batches": 0})
    state = fresh(spec)
    body = {key: value.clone() for key, value in state.model.body.state_dict().items()}
    head = state.model.head[0].weight.clone()
    records = run(state, spec, epochs=1)
    assert records[0]["lr"] == 1e-2
    assert all(torch.equal(value, body[key]) for key, value in state.model.body.state_dict().items())
    assert not torch.equal(state.model.head[0].weight, head)
    run(state, spec)
    assert not torch.equal(next(state.model.body.parameters()), body[next(iter(body))])


def test_the_plateau_is_keras():
    """ReduceLROnPlateau(factor 0.2, patience 4) with EarlyStopping(patience 8), as Keras counts."""
    spec = recipe.load([]).optim
    progress, drops = Progress(), []
    for epoch, accuracy in enumerate([0.1, 0.5, 0.4, 0.5, 0.3, 0.5, 0.2, 0.6, *[0.6] * 20], start=1):
        if progress.note(accuracy, spec):
            drops.append(epoch)
        if progress.finished(spec):
            break
    assert drops == [6, 12, 16]
    assert epoch == 16
    assert progress.best_accuracy == 0.6


def test_the_plateau_lowers_the_learning_rate():
    spec = OPTIM.model_copy(update={"schedule": "plateau", "plateau_patience": 1, "lr": 1e-9})
    records = run(fresh(spec), spec)
    assert len({round(record["lr"] / 1e-9, 6) for record in records}) > 1


def test_the_cosine_falls_towards_zero():
    rates = [record["lr"] for record in run(fresh())]
    assert rates[0] == OPTIM.lr
    assert sorted(rates, reverse=True) == rates
    assert 0 < rates[-1] < 0.2 * OPTIM.lr


def test_refreshed_statistics_are_those_of_the_batches():
    model = nn.Sequential(Pictures(), nn.BatchNorm2d(3))
    pictures = torch.cat([batch.waves for batch in batches(0, 3)]).view(-1, 3, 75, 75)
    training.refresh_batch_norm(model[1], Pictures(), batches(0, 9), num_batches=3, bfloat16=False)
    assert torch.allclose(model[1].running_mean, pictures.mean((0, 2, 3)), atol=1e-5)
    before = model[1].running_mean.clone()
    training.refresh_batch_norm(model[1], Pictures(), batches(1), num_batches=0, bfloat16=False)
    assert torch.equal(model[1].running_mean, before)


def test_epoch_seeds_differ():
    assert len({training.epoch_seed(seed, epoch) for seed in range(20) for epoch in range(20)}) == 400


def test_a_loss_that_is_no_number_is_explained():
    def broken(epoch=0):
        for batch in batches(epoch):
            batch.waves[2] = torch.nan
            yield batch

    def diverged(epoch=0):
        for batch in batches(epoch):
            yield Batch(batch.waves * 1e38, batch.tracks, batch.starts, batch.heard)

    for source, message in ((broken, "window at sample 0: its picture is no number"), (diverged, "optim.lr")):
        steps = training.fit(fresh(), Pictures(), source, lambda: batches(99), LABELS, OPTIM, AUGMENT, seed=3)
        with pytest.raises(InputError, match=message):
            list(steps)
