import math
from unittest import mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from melgpu.recipe import load_recipe
from melgpu.recipe_schema import StackCNNTrainingSpec, StackingSpec
from melgpu.stacking import stack_cnn
from tests.helpers.stacking import SPEC, STACKING_OF_2019, accuracy, labelled_matrix


def test_kernels_run_along_the_model_axis_only():
    for kind in stack_cnn.CNNS.values():
        kernels = {conv.kernel_size for conv in kind(6, 10, 0.25).modules() if isinstance(conv, torch.nn.Conv2d)}
        assert kernels <= {(2, 1), (3, 1)}


class ChannelDropout:
    """In place of dropout: the n-th call takes away every fourth channel or column, from the n-th on."""

    def __init__(self) -> None:
        self.num_calls = 0

    def __call__(self, x: Tensor, *_: object, **__: object) -> Tensor:
        kept = (torch.arange(x.shape[1]) + self.num_calls) % 4 != 0
        self.num_calls += 1
        return x * kept.reshape(-1, *[1] * (x.ndim - 2))


class Original:
    """The two CNNs of 2019 up to the head, written out on the weights of one of ours."""

    def __init__(self, cnn: torch.nn.Module):
        self.state = cnn.state_dict()
        self.dropout = ChannelDropout()

    def conv(self, name: str, x: Tensor) -> Tensor:
        return F.conv2d(x, self.state[f"{name}.weight"], self.state[f"{name}.bias"])

    def skip(self, name: str, x: Tensor) -> Tensor:
        return self.dropout(F.relu(self.conv(name, x)))

    def norm(self, x: Tensor) -> Tensor:
        names = ("running_mean", "running_var", "weight", "bias")
        mean, variance, weight, bias = (self.state[f"norm.{name}"][:, None, None] for name in names)
        return weight * (x - mean) / (variance + 1e-5).sqrt() + bias

    def cnn(self, matrix: Tensor) -> Tensor:
        x1 = F.relu(self.conv("convs.0", matrix[:, None]))
        x2 = self.dropout(F.relu(self.conv("convs.1", x1)))
        return self.dropout(F.relu(self.conv("convs.2", x2)))

    def skip_cnn(self, matrix: Tensor) -> Tensor:
        x1 = F.relu(self.norm(self.conv("convs.0", matrix[:, None])))
        x2 = self.dropout(F.relu(self.conv("convs.1", x1)))
        x3 = self.dropout(F.relu(torch.cat([self.conv("convs.2", x2), self.skip("skips.0", x1)], 1)))
        x4 = self.dropout(F.relu(torch.cat([self.conv("convs.3", x3), self.skip("skips.1", x2)], 1)))
        return self.dropout(F.relu(torch.cat([self.conv("convs.4", x4), self.skip("skips.2", x3)], 1)))


@pytest.mark.parametrize("num_models", [1, 3, 4, 6, 9])
@pytest.mark.parametrize(("name", "channels", "kernels", "dropouts"), [("cnn", 32, 3, 2), ("skip_cnn", 192, 5, 7)])
def test_the_layers_are_those_of_2019(name, channels, kernels, dropouts, num_models):
    """Also of fewer models than the convolutions take: then rows of zeros stand for those that are missing."""
    torch.manual_seed(0)
    cnn = stack_cnn.CNNS[name](num_models, 10, 0.25).eval()
    for values in cnn.state_dict().values():
        if values.ndim == 1:  # biases, and everything of batch norm, which is the identity at first
            values.copy_(0.5 + torch.rand(len(values)))
    for module in cnn.modules():
        if isinstance(module, torch.nn.Dropout):
            module.train()
    original = Original(cnn)
    matrix = torch.rand(5, num_models, 10)
    padded = torch.zeros(5, max(num_models, kernels + 1), 10)
    padded[:, :num_models] = matrix
    features = []
    cnn.head.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0]))
    with torch.inference_mode(), mock.patch("torch.nn.functional.dropout", ChannelDropout()) as dropout:
        cnn(matrix)
        expected = getattr(original, name)(padded)
    assert expected.shape == (5, channels, padded.shape[1] - kernels, 10)
    torch.testing.assert_close(features[0], expected)
    assert original.dropout.num_calls == dropouts
    assert dropout.num_calls == dropouts + 1  # and that of the head


def triangle_of_the_original(step: int, lr: float, max_lr: float, half_cycle: int, gamma: float) -> float:
    """As keras-contrib and bckenstler/CLR have it, whose modes "exp_range" and "triangular" the original uses."""
    cycle = math.floor(1 + step / (2 * half_cycle))
    x = abs(step / half_cycle - 2 * cycle + 1)
    return lr + (max_lr - lr) * max(0, 1 - x) * gamma**step


def learning_rates(training: StackCNNTrainingSpec, name: str, epoch_steps: float, num_steps: int) -> list[float]:
    optimizer = torch.optim.Adam([torch.zeros(1, requires_grad=True)])
    schedule = stack_cnn.cyclic_schedule(optimizer, training, name, epoch_steps)
    optimizer.step()
    rates = []
    for _ in range(num_steps):
        rates.append(optimizer.param_groups[0]["lr"])
        schedule.step()
    return rates


@pytest.mark.parametrize("name", stack_cnn.CNNS)
@pytest.mark.parametrize("phase", ["pretrain", "finetune"])
def test_the_settings_of_2019_give_its_learning_rates(phase, name):
    training = getattr(load_recipe([str(STACKING_OF_2019)]).stacking, phase)
    rates = learning_rates(training, name, 129, 9000)  # more than two cycles
    constants = training.lr, training.max_lr[name], training.half_cycle, training.gamma
    expected = [triangle_of_the_original(step, *constants) for step in range(9000)]
    np.testing.assert_allclose(rates, expected, rtol=1e-9, atol=1e-15)
    assert max(rates) == rates[2000]


@pytest.mark.parametrize(("epoch_steps", "half_cycle"), [(129.5, 518), (2, 8), (0.6, 2), (0.1, 2)])
def test_half_a_cycle_is_four_epochs_unless_it_is_set(epoch_steps, half_cycle):
    training = load_recipe([]).stacking.pretrain
    rates = learning_rates(training, "cnn", epoch_steps, 3 * half_cycle)
    assert rates[0] == pytest.approx(training.lr)
    assert rates[half_cycle] == max(rates) == pytest.approx(training.max_lr["cnn"])
    assert rates[2 * half_cycle] == pytest.approx(training.lr)


@pytest.mark.parametrize("name", stack_cnn.CNNS)
def test_a_training_has_the_settings_of_its_phase_and_cnn(name):
    patiences = {"pretrain": {"cnn": 2, "skip_cnn": 3}, "finetune": {"cnn": 4, "skip_cnn": 5}}
    phases = {phase: getattr(SPEC, phase).changed(patience=patience) for phase, patience in patiences.items()}
    spec = SPEC.model_copy(update=phases)
    rows = labelled_matrix(20, 1)
    for phase, training in phases.items():
        with (
            mock.patch.object(stack_cnn, "_scores", return_value=[(0.5, -1.0)]) as scores,  # no epoch is an improvement
            mock.patch.object(stack_cnn, "cyclic_schedule", wraps=stack_cnn.cyclic_schedule) as schedule,
        ):
            if phase == "pretrain":
                pretrain(name, rows, rows, spec)
            else:
                stack_cnn.finetune(name, pretrain(name, None, rows), rows, rows, spec)
        assert scores.call_count == 1 + patiences[phase][name]  # before the first epoch, and after each
        assert schedule.call_args.args[1:] == (training, name, 20 / spec.batch_size)


def pretrain(
    name: str, train: stack_cnn.LabelledMatrix | None, valid: stack_cnn.LabelledMatrix, spec: StackingSpec = SPEC
) -> torch.nn.Module:
    return stack_cnn.pretrain(name, train, valid, np.ones((1, len(valid[1])), bool), spec)[0]


def test_early_stopping_restores_the_best_weights():
    """Where the labels of the stopping rows are wrong, no epoch is an improvement: the initial weights are the best."""
    rows, stop = labelled_matrix(60, 1), labelled_matrix(40, 2)
    wrong_stop = stop._replace(labels=(stop.labels + 1) % 4)
    matrix, labels = labelled_matrix(200, 3)
    for name in stack_cnn.CNNS:
        accuracies = []
        for stop_rows in (stop, wrong_stop):
            cnn = stack_cnn.finetune(name, pretrain(name, None, rows), rows, stop_rows, SPEC)
            accuracies.append(accuracy(stack_cnn.predict(cnn, matrix), labels))
        assert accuracies[0] > accuracies[1] + 0.1


def test_pretraining_helps():
    rows = labelled_matrix(8, 1)
    matrix, labels = labelled_matrix(300, 5)
    accuracies = []
    for train in (None, labelled_matrix(200, 4)):
        cnn = stack_cnn.finetune("cnn", pretrain("cnn", train, rows), rows, rows, SPEC)
        probs = stack_cnn.predict(cnn, matrix)
        accuracies.append(accuracy(probs, labels))
    fresh, pretrained = accuracies
    assert pretrained > fresh
    assert np.isfinite(probs).all()


def test_groups_pretrained_together_get_the_weights_of_each_alone():
    """Each group's weights are, to the bit, those of a CNN that is stopped early by that group alone."""
    train, valid = labelled_matrix(60, 1), labelled_matrix(50, 2)
    patience = SPEC.pretrain.changed(patience={"cnn": 2, "skip_cnn": 2})
    spec = SPEC.model_copy(update={"pretrain": patience, "max_epochs": 40})
    groups = np.arange(50) % 5 == np.arange(5)[:, None]
    valid = valid._replace(
        labels=np.where(groups[0], valid.labels, (valid.labels + 1) % 4)
    )  # the other groups stop at another epoch
    for name in stack_cnn.CNNS:
        together = stack_cnn.pretrain(name, train, valid, groups, spec)
        head_weights = [cnn.state_dict()["head.1.weight"] for cnn in together]
        assert any((weight != head_weights[0]).any() for weight in head_weights)
        for cnn, group in zip(together, groups, strict=True):
            (alone,) = stack_cnn.pretrain(name, train, valid, group[None], spec)
            for key, value in alone.state_dict().items():
                assert torch.equal(cnn.state_dict()[key], value), key
