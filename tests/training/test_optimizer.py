import copy
import io

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from melgpu.recipe import load_recipe
from melgpu.training import optimizer
from melgpu.training.optimizer import OptimizerState, Progress
from tests.helpers.training import Tiny


def train_on(accuracies, spec):
    """The epochs after which the learning rate is lowered, those that are the best so far, and the last epoch."""
    progress, drops, improvements = Progress(), [], []
    for accuracy in accuracies:
        if progress.record_epoch(accuracy, spec):
            drops.append(progress.epoch)
        if progress.improved:
            improvements.append(progress.epoch)
        if progress.finished(spec):
            break
    return drops, improvements, progress.epoch


def test_the_plateau_schedule_is_that_of_keras():
    """ReduceLROnPlateau(factor 0.2, patience 4) with EarlyStopping(patience 8), as Keras counts."""
    spec = load_recipe([], ["optim.warmup_epochs=0"]).optim
    accuracies = [0.1, 0.5, 0.4, 0.5, 0.3, 0.5, 0.2, 0.6, *[0.6] * 20]
    assert train_on(accuracies, spec) == ([6, 12, 16], [1, 2, 8], 16)


def test_the_warm_up_stands_before_the_epochs_and_their_patience():
    spec = load_recipe([]).optim
    assert train_on(np.linspace(0, 1, 200), spec)[2] == spec.total_epochs == 1 + 100
    # The warm-up is the best of all and stays saved, but later epochs are compared with the first of them.
    accuracies = [0.9, 0.1, 0.2, *[0.2] * 20]
    assert train_on(accuracies, spec) == ([7, 11], [1], 11)


def keras(accuracies, max_epochs: int, patience: int, stop_patience: int):
    """What `train_on` returns, by the code of Keras' callbacks for one call of fit(), without `min_delta`."""
    best_of_plateau = best_of_stopping = -np.inf
    wait_of_plateau = wait_of_stopping = 0
    drops = []
    for epoch, accuracy in enumerate(accuracies[:max_epochs], start=1):
        if accuracy > best_of_plateau:
            best_of_plateau = accuracy
            wait_of_plateau = 0
        else:
            wait_of_plateau += 1
            if wait_of_plateau >= patience:
                drops.append(epoch)
                wait_of_plateau = 0
        wait_of_stopping += 1
        if accuracy > best_of_stopping:
            best_of_stopping = accuracy
            wait_of_stopping = 0
        if wait_of_stopping >= stop_patience:
            return drops, epoch
    return drops, max_epochs


@given(
    accuracies=st.lists(st.integers(0, 9), min_size=30, max_size=30),
    warmup=st.integers(0, 3),
    patiences=st.tuples(st.integers(1, 4), st.integers(1, 8)),
    max_epochs=st.integers(1, 25),
)
def test_warm_up_and_training_are_two_calls_of_keras(accuracies, warmup, patiences, max_epochs):
    """The second call begins with patience, and goes on with the best weights, as one ModelCheckpoint does."""
    patience, stop_patience = patiences
    changes = {"plateau_patience": patience, "stop_patience": stop_patience, "max_epochs": max_epochs}
    spec = load_recipe([]).optim.model_copy(update={"warmup_epochs": warmup, **changes})
    drops, last = keras(accuracies[warmup:], max_epochs, patience, stop_patience)
    seen = accuracies[: warmup + last]
    improvements = [epoch for epoch in range(1, len(seen) + 1) if seen[epoch - 1] > max([-1, *seen[: epoch - 1]])]
    assert train_on(accuracies, spec) == ([warmup + drop for drop in drops], improvements, warmup + last)


def test_without_weight_decay_it_is_adam():
    spec = load_recipe([], ["optim.warmup_epochs=0", "optim.lr=0.01"]).optim
    weights = []
    for make in (
        lambda model: optimizer.make_optimizer(model, spec, 0),
        lambda model: torch.optim.Adam(model.parameters(), 0.01, fused=True),  # fused: the same rounding
    ):
        torch.manual_seed(0)
        model = Tiny()
        adam = make(model)
        for _ in range(3):
            adam.zero_grad()
            model(torch.rand(4, 3, 75, 75, generator=torch.Generator().manual_seed(1))).square().sum().backward()
            adam.step()
        weights.append(torch.cat([value.flatten() for value in model.parameters()]))
    torch.testing.assert_close(weights[0], weights[1])


def test_all_groups_have_the_learning_rate():
    spec = load_recipe([], ["optim.weight_decay=0.1", "optim.warmup_epochs=0"]).optim
    adamw = optimizer.make_optimizer(Tiny(), spec, 0)
    optimizer.set_lr(adamw, 0.2)
    assert optimizer.get_lr(adamw) == 0.2
    assert [group["lr"] for group in adamw.param_groups] == [0.2, 0.2]
    assert sorted({group["weight_decay"] for group in adamw.param_groups}) == [0, 0.1]
    assert all((group["weight_decay"] > 0) == (p.ndim > 1) for group in adamw.param_groups for p in group["params"])


def test_the_cosine_schedule_starts_at_lr_and_falls():
    for warmup in (0, 1, 3):
        spec = load_recipe([], ["optim.max_epochs=4", "optim.lr=1.0", f"optim.warmup_epochs={warmup}"]).optim
        rates = [optimizer.cosine_lr(spec, epoch) for epoch in range(warmup, spec.total_epochs)]
        assert rates == pytest.approx([1, 0.853553, 0.5, 0.146447], abs=1e-6)


def stepped(optimizer_of, seed: int = 1):
    """A linear network and its optimizer after one step."""
    torch.manual_seed(seed)
    model = torch.nn.Linear(3, 2)
    adam = optimizer_of(model)
    model(torch.ones(1, 3)).sum().backward()
    adam.step()
    return model, adam


def adam_of(model):
    return torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)


@pytest.mark.parametrize(
    "damage",
    [
        lambda state, groups: state[0].update(exp_avg=torch.zeros(9)),
        lambda state, groups: state[0].update(step=torch.zeros(2, 3)),
        lambda state, groups: state[1].pop("exp_avg_sq"),
        lambda state, groups: state[0].update(step=torch.tensor(1.0).to_sparse()),
        lambda state, groups: state[0].update(exp_avg=torch.zeros(1, 1).expand(2, 3)),
        lambda state, groups: state.update({7: {"step": torch.tensor(1.0)}}),
        lambda state, groups: groups.clear(),
        lambda state, groups: groups[0].update(params=[0]),
        lambda state, groups: groups[0].update(betas=(0.0, 0.0)),
        lambda state, groups: groups[0].update(lr="fast"),
        lambda state, groups: groups[0].update(lr=float("nan")),
        lambda state, groups: groups[0].pop("lr"),
    ],
)
def test_an_optimizer_state_of_other_parameters_is_rejected(damage):
    _, adam = stepped(adam_of)
    saved = OptimizerState(**copy.deepcopy(adam.state_dict()))
    optimizer.restore_optimizer(adam, saved)
    damage(saved.state, saved.param_groups)
    with pytest.raises(ValueError):
        optimizer.restore_optimizer(adam, saved)


def test_parameters_never_share_their_number_of_steps():
    _, adam = stepped(adam_of)
    saved = OptimizerState(**adam.state_dict())
    saved.state[1]["step"] = saved.state[0]["step"]
    optimizer.restore_optimizer(adam, saved)
    adam.step()
    assert [float(values["step"]) for values in adam.state.values()] == [2, 2]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("resumed_layout", [torch.contiguous_format, torch.channels_last])
def test_an_optimizer_resumes_in_any_memory_format(layout, resumed_layout):
    def build(seed, memory_format):
        torch.manual_seed(seed)
        model = torch.nn.Conv2d(3, 5, 3).to(memory_format=memory_format)
        return model, adam_of(model)

    def step(model, adam):
        adam.zero_grad()
        model(torch.arange(75.0).view(1, 3, 5, 5) / 75).square().sum().backward()
        adam.step()

    model, adam = build(1, layout)
    step(model, adam)
    saved = io.BytesIO()
    torch.save(OptimizerState(**adam.state_dict()).model_dump(), saved)
    loaded = torch.load(io.BytesIO(saved.getvalue()), weights_only=True)
    resumed_model, resumed_adam = build(2, resumed_layout)
    resumed_model.load_state_dict(model.state_dict())
    optimizer.restore_optimizer(resumed_adam, OptimizerState(**loaded))
    for _ in range(3):
        step(model, adam)
        step(resumed_model, resumed_adam)
    torch.testing.assert_close(model.weight, resumed_model.weight, rtol=0, atol=0 if layout == resumed_layout else 1e-5)
