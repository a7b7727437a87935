import numpy as np
import torch

from melgpu.stacking import stack_cnn
from tests.helpers.stacking import SPEC, accuracy, labelled_matrix


def test_kernels_run_along_the_model_axis_only():
    for kind in stack_cnn.CNNS.values():
        kernels = {conv.kernel_size for conv in kind(6, 10, 0.25).modules() if isinstance(conv, torch.nn.Conv2d)}
        assert kernels <= {(2, 1), (3, 1)}


def pretrain(name: str, train: stack_cnn.LabelledMatrix | None, valid: stack_cnn.LabelledMatrix) -> torch.nn.Module:
    return stack_cnn.pretrain(name, train, valid, np.ones((1, len(valid[1])), bool), SPEC)[0]


def test_early_stopping_restores_the_best_weights():
    """Where the labels of the stopping rows are wrong, no epoch is an improvement: the initial weights are the best."""
    rows, stop = labelled_matrix(60, 1), labelled_matrix(40, 2)
    wrong_stop = stop._replace(labels=(stop.labels + 1) % 4)
    matrix, labels = labelled_matrix(200, 3)
    for name in stack_cnn.CNNS:
        trained, initial = (
            stack_cnn.finetune(pretrain(name, None, rows), rows, stop_rows, SPEC) for stop_rows in (stop, wrong_stop)
        )
        accuracies = [accuracy(stack_cnn.predict(cnn, matrix), labels) for cnn in (trained, initial)]
        assert accuracies[0] > accuracies[1] + 0.1


def test_pretraining_helps():
    rows = labelled_matrix(8, 1)
    fresh, pretrained = (
        stack_cnn.finetune(pretrain("cnn", train, rows), rows, rows, SPEC) for train in (None, labelled_matrix(200, 4))
    )
    matrix, labels = labelled_matrix(300, 5)
    accuracies = [accuracy(stack_cnn.predict(cnn, matrix), labels) for cnn in (fresh, pretrained)]
    assert accuracies[1] > accuracies[0]
    assert np.isfinite(stack_cnn.predict(pretrained, matrix)).all()


def test_groups_pretrained_together_get_the_weights_of_each_alone():
    """Each group's weights are, to the bit, those of a CNN that is stopped early by that group alone."""
    train, valid = labelled_matrix(60, 1), labelled_matrix(50, 2)
    spec = SPEC.model_copy(update={"pretrain_patience": 2, "max_epochs": 40})
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
