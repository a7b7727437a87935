import numpy as np
import pytest

from melgpu.report import pseudo_label_counts
from melgpu.runs.formats import pseudo_labels
from tests.helpers import report_run


def test_pseudo_labels_are_counted_by_class(tmp_path):
    run = report_run.make(tmp_path, audio=False)
    selected = pseudo_labels.load(run.paths.pseudo_labels(1), 1, run.recipe.digest())
    true_labels = dict(zip(run.manifest.ids, run.manifest.labels, strict=True))
    classes = pseudo_label_counts.count_by_class(run, 1)
    assert [counts.name for counts in classes] == run.class_names
    for counts in classes:
        of_class = [pseudo for pseudo in selected if pseudo.label == counts.name]
        assert (counts.count, counts.labelled) == (len(of_class), len(of_class))
        assert counts.correct == sum(true_labels[pseudo.id] == counts.name for pseudo in of_class)
        assert counts.unanimous == sum(pseudo.votes == "2/2" for pseudo in of_class)
        assert counts.min_confidence == min((pseudo.confidence for pseudo in of_class), default=0)
    total = pseudo_label_counts.total(classes)
    assert total.count == len(selected) > 0
    assert total.mean_confidence == pytest.approx(np.mean([pseudo.confidence for pseudo in selected]))
    assert pseudo_label_counts.count_by_class(run, 2) is None
