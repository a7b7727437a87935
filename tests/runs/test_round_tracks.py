import pytest

from melgpu.errors import InputError
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
