import numpy as np
import torch
from test_stacking import SPEC, votes

from melgpu import cnns


def test_kernels_see_models_and_never_mix_classes():
    for kind in cnns.CNNS.values():
        kernels = {conv.kernel_size for conv in kind(6, 10, 0.25).modules() if isinstance(conv, torch.nn.Conv2d)}
        assert kernels <= {(2, 1), (3, 1)}


def test_learning_ends_with_what_was_best_on_the_stopping_rows():
    """Where the labels to stop by say the opposite, nothing learnt is kept: the first weights were the best."""
    rows, stop = votes(60, 1), votes(40, 2)
    wrong = (stop[0], (stop[1] + 1) % 4)
    for name in cnns.CNNS:
        learnt, kept = (cnns.fit(name, None, rows, other, SPEC) for other in (stop, wrong))
        labels = votes(200, 3)[1]
        right = [(cnns.predict(cnn, votes(200, 3)[0]).argmax(1) == labels).mean() for cnn in (learnt, kept)]
        assert right[0] > right[1] + 0.1


def test_rows_before_are_learnt_from():
    rows = votes(8, 1)
    alone, after = (cnns.fit("cnn", before, rows, rows, SPEC) for before in (None, (votes(200, 4), rows)))
    matrix, labels = votes(300, 5)
    right = [(cnns.predict(cnn, matrix).argmax(1) == labels).mean() for cnn in (alone, after)]
    assert right[1] > right[0]
    assert np.isfinite(cnns.predict(after, matrix)).all()
