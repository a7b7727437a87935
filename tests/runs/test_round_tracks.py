from dataclasses import replace

import numpy as np
import pytest

from melgpu.errors import InputError
from melgpu.recipe import apply_overrides
from melgpu.runs.folder import open_run
from tests.helpers.runs import mark_stacked, pseudo_label


def test_the_digest_depends_on_the_pseudo_labels(made):
    mark_stacked(made, 1, [pseudo_label("y.wav", "b")])
    before = made.provenance(2)
    mark_stacked(made, 1, [pseudo_label("y.wav", "a")])
    assert made.provenance(2) == before  # read once
    (difference,) = open_run(made.folder).provenance(2).differences(before)
    assert difference.startswith("made with pseudo labels ")


def test_pseudo_labels_of_other_tracks_are_rejected(made):
    mark_stacked(made, 1, [pseudo_label("3.wav", "b")])
    with pytest.raises(InputError, match=r"3\.wav is not a public test track"):
        made.round_tracks(2)


def test_pseudo_labels_of_unknown_classes_are_rejected(made):
    mark_stacked(made, 1, [pseudo_label("y.wav", "c")])
    with pytest.raises(InputError, match=r"pseudo\.csv: 'c' is not a class"):
        made.round_tracks(2)


def test_soft_pseudo_labels_are_distributions_weighted_by_confidence(made):
    soft = replace(made, recipe=apply_overrides(made.recipe, ["pseudo.kind=soft"]))
    mark_stacked(soft, 1, [pseudo_label("y.wav", "b", (0.25, 0.75))])
    tracks = soft.round_tracks(2)
    assert tracks.manifest.labels[13] == "b"
    assert tracks.pseudo_rows.tolist() == [13]
    np.testing.assert_allclose(tracks.pseudo_targets, [[0.9 * 0.25, 0.9 * 0.75]])
    first = tracks.pseudo_digest
    again = replace(soft)  # reads them anew
    mark_stacked(again, 1, [pseudo_label("y.wav", "b", (0.24, 0.76))])
    assert again.round_tracks(2).pseudo_digest != first
    mark_stacked(again, 1, [])
    assert replace(soft).round_tracks(2).pseudo_targets is None


def test_hard_pseudo_labels_have_no_distribution(made):
    mark_stacked(made, 1, [pseudo_label("y.wav", "b")])
    assert made.round_tracks(2).pseudo_targets is None
