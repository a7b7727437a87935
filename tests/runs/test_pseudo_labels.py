import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from melgpu.errors import InputError
from melgpu.recipe_schema import PseudoSpec
from melgpu.runs import pseudo_labels

PROBS = np.array([[0.9, 0.1], [0.85, 0.15], [0.1, 0.9], [0.5, 0.5]])
VOTES = np.array([[0, 0, 1, 0], [0, 0, 0, 1], [0, 1, 0, 1]])


def select(probs=PROBS, votes=VOTES, **changes) -> list[pseudo_labels.PseudoLabel]:
    spec = PseudoSpec(**{"threshold": 0.85, "agreement": 0.0, "max_per_class": 0, **changes})
    return pseudo_labels.select([f"t{row}" for row in range(len(probs))], probs, votes, ["rock", "pop"], spec)


def test_only_tracks_above_the_threshold_are_selected(tmp_path):
    selected = select()
    assert [(p.id, p.label, p.votes) for p in selected] == [("t0", "rock", "3/3"), ("t2", "pop", "1/3")]
    pseudo_labels.save(selected, tmp_path / "pseudo.csv", 1, "abc")
    assert pseudo_labels.load(tmp_path / "pseudo.csv", 1, "abc") == selected
    assert (tmp_path / "pseudo.csv").read_text().splitlines()[1] == "t0,rock,0.900000,3/3,1,abc"


def test_agreement_is_required():
    assert [p.id for p in select(agreement=0.34)] == ["t0"]
    assert [p.id for p in select(agreement=1.0, threshold=0.4)] == ["t0"]
    assert [p.id for p in select(agreement=0.66, threshold=0.4)] == ["t0", "t1"]


def test_agreement_counts_networks_exactly():
    votes = np.repeat([[0], [1]], [7, 18], axis=0)
    assert len(select(PROBS[:1], votes, agreement=0.28)) == 1
    assert len(select(PROBS[:1], votes, agreement=0.281)) == 0


@given(st.lists(st.tuples(st.sampled_from([0, 1]), st.integers(60, 99)), min_size=1), st.integers(1, 5))
def test_the_most_confident_tracks_of_each_class_are_selected(tracks, limit):
    confidence = np.array([percent / 100 for _, percent in tracks])
    probs = np.stack([np.where([c == k for c, _ in tracks], confidence, 1 - confidence) for k in (0, 1)], axis=1)
    selected = select(probs, np.zeros((1, len(probs)), int), threshold=0.7, max_per_class=limit)
    for k, name in enumerate(("rock", "pop")):
        expected = (p for (c, _), p in zip(tracks, confidence, strict=True) if c == k and p > 0.7)
        expected = sorted(expected, reverse=True)[:limit]
        assert sorted((p.confidence for p in selected if p.label == name), reverse=True) == pytest.approx(expected)
    assert [p.id for p in selected] == sorted((p.id for p in selected), key=lambda name: int(name[1:]))


def test_an_empty_selection_round_trips(tmp_path):
    for probs, votes in ((PROBS[3:], VOTES[:, 3:]), (PROBS[:0], VOTES[:, :0])):
        pseudo_labels.save(select(probs, votes, max_per_class=1), tmp_path / "pseudo.csv", 1, "abc")
        assert pseudo_labels.load(tmp_path / "pseudo.csv", 1, "abc") == []


HEADER = b"id,label,confidence,votes,round,recipe_digest\n"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"file,label\na,b\n", "its columns are file, label"),
        (b"", "not enough values"),
        (b"\xff\xfe", "can't decode"),
        (HEADER + b"a,rock\n", "not enough values"),
        (HEADER + b"a,rock,sure,1/2,1,abc\n", "could not convert"),
        (HEADER + b"a,rock,nan,1/2,1,abc\n", r"a confidence outside \[0, 1\]"),
        (HEADER + b"a,rock,7,1/2,1,abc\n", r"a confidence outside \[0, 1\]"),
        (HEADER + b"a" * 200_000 + b",rock,0.9,1/2,1,abc\n", "field larger"),
        (HEADER + b"a,rock,0.9,1/2,2,abc\n", "not of round 1"),
        (HEADER + b"a,rock,0.9,1/2,1,abd\n", "or of recipe abc"),
        (HEADER + b"a,rock,0.9,1/2,1,abc\na,pop,0.9,1/2,1,abc\n", "listed twice"),
    ],
)
def test_malformed_files_are_rejected(tmp_path, content, reason):
    (tmp_path / "x.csv").write_bytes(content)
    with pytest.raises(InputError, match=rf"x\.csv: not a file of pseudo labels: .*{reason}"):
        pseudo_labels.load(tmp_path / "x.csv", 1, "abc")


def test_files_that_are_not_regular_are_rejected(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "absent", "."):
        with pytest.raises(InputError, match="not a file of pseudo labels"):
            pseudo_labels.load(tmp_path / name, 1, "abc")
