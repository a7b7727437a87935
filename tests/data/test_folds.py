from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from melgpu.data import folds
from melgpu.errors import InputError
from tests.helpers.runs import ZALO_COUNTS


def test_folds_of_the_competition_are_stratified():
    labels = [label for label, count in ZALO_COUNTS.items() for _ in range(count)]
    drawn = folds.assign_folds(labels, 5, seed=8)
    assert (drawn == folds.assign_folds(labels, 5, seed=8)).all()
    for label, count in ZALO_COUNTS.items():
        sizes = Counter(drawn[np.array(labels) == label].tolist())
        assert set(sizes) == set(range(5))
        assert max(sizes.values()) - min(sizes.values()) <= 1, (label, count)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(["", "x", "y", "z", "w"])), min_size=30, max_size=60))
def test_an_artist_is_never_split_between_folds(rows):
    labels, artists = ["a", "b", *(r[0] for r in rows)], ["p", "q", *(r[1] for r in rows)]
    drawn = folds.assign_folds(labels, 2, 8, artists)
    assert set(drawn) <= {0, 1}
    for artist in set(artists) - {""}:
        assert len({fold for fold, group in zip(drawn, artists, strict=True) if group == artist}) == 1


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("bac"), st.sampled_from(["", "x", "ä", "Z", "10"])), min_size=20, max_size=40)
)
def test_folds_are_those_that_scikit_learn_draws_for_the_texts(rows):
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    labels, artists = [*"aabbcc", *(row[0] for row in rows)], [*"uvwxyz", *(row[1] for row in rows)]
    groups = [artist or f"\0{row}" for row, artist in enumerate(artists)]
    splits = {
        (): StratifiedKFold(2, shuffle=True, random_state=8).split(labels, labels),
        tuple(artists): StratifiedGroupKFold(2, shuffle=True, random_state=8).split(labels, labels, groups),
    }
    for named, expected in splits.items():
        drawn = folds.assign_folds(labels, 2, 8, named)
        for fold, (_, held_out) in enumerate(expected):
            assert np.flatnonzero(drawn == fold).tolist() == held_out.tolist()


def test_a_long_label_takes_no_memory_for_each_track():
    labels = ["a", "b"] * 50_000
    labels[0] = labels[2] = "x" * 1_000_000  # as an array of texts 400 GB
    assert set(folds.assign_folds(labels, 2, 8)) == {0, 1}


def test_listed_folds_are_numbered_in_natural_order():
    assert folds.listed_folds(["10", "2", "1", "2"], 3).tolist() == [2, 1, 0, 1]
    assert folds.listed_folds(["fold_b", "fold_a"], 2).tolist() == [1, 0]
    with pytest.raises(InputError, match=r"has 3 folds \(1, 2, 10\) and the recipe 5: --set folds.num_folds=3"):
        folds.listed_folds(["10", "2", "1", "2"], 5)
    with pytest.raises(InputError, match=r"has 1 folds \(1\) and the recipe 5: --set folds.num_folds=2"):
        folds.listed_folds(["1"], 5)
    with pytest.raises(InputError, match="9 and 990 more"):
        folds.listed_folds([str(number) for number in range(1000)], 5)


def test_a_class_in_one_fold_only_is_a_problem():
    (problem,) = folds.check_listed_folds(np.array([0, 1, 1, 1]), ["a", "a", "b", "b"])
    assert problem.startswith("1 of 2 classes are in one fold of the list only")
    assert ": b (1);" in problem
    assert list(folds.check_listed_folds(np.array([0, 1, 0, 1]), ["a", "a", "b", "b"])) == []


def test_groups_in_several_folds_are_named():
    assert folds.split_groups(["0", "1", "0", "1", "1"], ["x", "x", "", "", "y"]) == ["x"]
