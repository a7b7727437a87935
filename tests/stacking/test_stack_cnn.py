import numpy as np
import torch

from melgpu.stacking import stack_cnn
from tests.helpers.stacking import SPEC, votes


def test_kernels_see_models_and_never_mix_classes():
    for kind in stack_cnn.CNNS.values():
        kernels = {conv.kernel_size for conv in kind(6, 10, 0.25).modules() if isinstance(conv, torch.nn.Conv2d)}
        assert kernels <= {(2, 1), (3, 1)}


def begin(name: str, train: stack_cnn.LabelledMatrix | None, watched: stack_cnn.LabelledMatrix) -> torch.nn.Module:
    return stack_cnn.pretrain(name, train, watched, np.ones((1, len(watched[1])), bool), SPEC)[0]


def test_learning_ends_with_what_was_best_on_the_stopping_rows():
    """Where the labels to stop by say the opposite, nothing learnt is kept: the first weights were the best."""
    rows, stop = votes(60, 1), votes(40, 2)
    wrong = (stop[0], (stop[1] + 1) % 4)
    for name in stack_cnn.CNNS:
        learnt, kept = (stack_cnn.finetune(begin(name, None, rows), rows, other, SPEC) for other in (stop, wrong))
        labels = votes(200, 3)[1]
        right = [(stack_cnn.predict(cnn, votes(200, 3)[0]).argmax(1) == labels).mean() for cnn in (learnt, kept)]
        assert right[0] > right[1] + 0.1


def test_rows_before_are_learnt_from():
    rows = votes(8, 1)
    alone, after = (stack_cnn.finetune(begin("cnn", train, rows), rows, rows, SPEC) for train in (None, votes(200, 4)))
    matrix, labels = votes(300, 5)
    right = [(stack_cnn.predict(cnn, matrix).argmax(1) == labels).mean() for cnn in (alone, after)]
    assert right[1] > right[0]
    assert np.isfinite(stack_cnn.predict(after, matrix)).all()


def test_groups_that_begin_together_begin_as_each_would_alone():
    """Every group's weights are, to the bit, those of a CNN that stops by that group and nothing else."""
    train, watched = votes(60, 1), votes(50, 2)
    spec = SPEC.model_copy(update={"fit_patience": 2, "max_epochs": 40})
    groups = np.arange(50) % 5 == np.arange(5)[:, None]
    wrong = (watched[0], np.where(groups[0], watched[1], (watched[1] + 1) % 4))  # the other groups end elsewhere
    for name in stack_cnn.CNNS:
        together = stack_cnn.pretrain(name, train, wrong, groups, spec)
        ends = [cnn.state_dict()["head.1.weight"] for cnn in together]
        assert any((end != ends[0]).any() for end in ends)
        for cnn, group in zip(together, groups, strict=True):
            (alone,) = stack_cnn.pretrain(name, train, wrong, group[None], spec)
            for key, value in alone.state_dict().items():
                assert torch.equal(cnn.state_dict()[key], value), key
