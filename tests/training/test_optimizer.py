import pytest
import torch

from melgpu.recipe import load_recipe
from melgpu.training import optimizer
from melgpu.training.optimizer import Progress
from tests.helpers.training import Tiny


def test_the_plateau_schedule_is_that_of_keras():
    """ReduceLROnPlateau(factor 0.2, patience 4) with EarlyStopping(patience 8), as Keras counts."""
    spec = load_recipe([]).optim
    progress, drops = Progress(), []
    for epoch, accuracy in enumerate([0.1, 0.5, 0.4, 0.5, 0.3, 0.5, 0.2, 0.6, *[0.6] * 20], start=1):
        if progress.record_epoch(accuracy, spec):
            drops.append(epoch)
        if progress.finished(spec):
            break
    assert drops == [6, 12, 16]
    assert epoch == 16
    assert progress.best_accuracy == 0.6


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


def test_learning_rates_of_groups_are_scaled():
    spec = load_recipe([], ["optim.weight_decay=0.1", "optim.warmup_epochs=0"]).optim
    adamw = optimizer.make_optimizer(Tiny(), spec, 0)
    adamw.param_groups[0]["lr_scale"] = 0.5
    optimizer.set_lr(adamw, 0.2)
    assert optimizer.get_lr(adamw) == 0.2
    assert adamw.param_groups[0]["lr"] == pytest.approx(0.1)
    assert sorted({group["weight_decay"] for group in adamw.param_groups}) == [0, 0.1]
    assert all((group["weight_decay"] > 0) == (p.ndim > 1) for group in adamw.param_groups for p in group["params"])


def test_the_cosine_schedule_starts_at_lr_and_falls():
    spec = load_recipe([], ["optim.max_epochs=4", "optim.lr=1.0"]).optim
    assert [optimizer.cosine_lr(spec, epoch) for epoch in range(4)] == pytest.approx(
        [1, 0.853553, 0.5, 0.146447], abs=1e-6
    )
