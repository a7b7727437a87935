import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from melgpu.errors import InputError
from melgpu.recipe_schema import PseudoSpec
from melgpu.runs.formats import pseudo_labels

PROBS = np.array([[0.9, 0.1], [0.85, 0.15], [0.1, 0.9], [0.5, 0.5]])
VOTES = np.array([[0, 0, 1, 0], [0, 0, 0, 1], [0, 1, 0, 1]])


def select(probs=PROBS, votes=VOTES, **changes) -> list[pseudo_labels.PseudoLabel]:
    spec = PseudoSpec(
        **{"kind": "hard", "power": 2.0, "threshold": 0.85, "agreement": 0.0, "max_per_class": 0, **changes}
    )
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


SOFT = ("rock", "pop")


def test_soft_labels_are_sharpened_distributions(tmp_path):
    selected = select(kind="soft", threshold=0.0)
    assert [(p.id, p.label, p.votes) for p in selected] == [(p.id, p.label, p.votes) for p in select(threshold=0.0)]
    assert [p.confidence for p in selected] == [0.9, 0.85, 0.9, 0.5]  # before they are sharpened
    assert selected[0].distribution == pytest.approx((0.81 / 0.82, 0.01 / 0.82))
    assert selected[3].distribution == (0.5, 0.5)
    assert select(kind="soft", threshold=0.0, power=1.0)[1].distribution == pytest.approx((0.85, 0.15))
    path = tmp_path / "pseudo.csv"
    pseudo_labels.save(selected, path, 1, "abc", SOFT)
    assert path.read_text().splitlines()[0] == "id,label,confidence,votes,round,recipe_digest,p(rock),p(pop)"
    loaded = pseudo_labels.load(path, 1, "abc", SOFT)
    assert [p.id for p in loaded] == ["t0", "t1", "t2", "t3"]
    for before, after in zip(selected, loaded, strict=True):
        assert after.distribution == pytest.approx(before.distribution, abs=1e-6)
    for other in ((), ("pop", "rock"), ("rock", "pop", "jazz")):  # hard, another order, other classes
        with pytest.raises(InputError, match="its columns are"):
            pseudo_labels.load(path, 1, "abc", other)


@given(st.lists(st.floats(1e-9, 1), min_size=2, max_size=300), st.floats(1, 10))
def test_sharpening_keeps_the_order_and_a_distribution(values, power):
    probs = np.array([values]) / sum(values)
    (sharp,) = pseudo_labels.sharpened(probs, power)
    assert sharp.sum() == pytest.approx(1)
    assert sharp.max() >= probs.max() - 1e-12
    assert (np.diff(sharp[np.argsort(probs[0])]) >= 0).all()


def test_an_empty_soft_selection_round_trips(tmp_path):
    pseudo_labels.save(select(PROBS[:0], VOTES[:, :0], kind="soft"), tmp_path / "pseudo.csv", 1, "abc", SOFT)
    assert pseudo_labels.load(tmp_path / "pseudo.csv", 1, "abc", SOFT) == []


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("rock,0.9,1/2,1,abc,0.9", "1 probabilities for 2 classes"),
        ("rock,0.9,1/2,1,abc,0.9,0.1,0", "3 probabilities for 2 classes"),
        ("rock,0.9,1/2,1,abc,0.9,x", "could not convert"),
        ("rock,0.9,1/2,1,abc,nan,nan", r"a probability outside \[0, 1\]"),
        ("rock,0.9,1/2,1,abc,1.5,-0.5", r"a probability outside \[0, 1\]"),
        ("rock,0.9,1/2,1,abc,0.9,0.2", "of a do not sum to 1"),
        ("pop,0.9,1/2,1,abc,0.9,0.1", "'pop' is not the most probable class of a"),
        ("jazz,0.9,1/2,1,abc,0.9,0.1", "'jazz' is not the most probable class of a"),
    ],
)
def test_malformed_distributions_are_rejected(tmp_path, row, reason):
    header = HEADER.decode().strip() + ",p(rock),p(pop)\n"
    (tmp_path / "x.csv").write_text(f"{header}a,{row}\n")
    with pytest.raises(InputError, match=rf"x\.csv: not a file of pseudo labels: .*{reason}"):
        pseudo_labels.load(tmp_path / "x.csv", 1, "abc", SOFT)
