import os
from dataclasses import replace

import numpy as np
import pytest

from melgpu.errors import InputError
from melgpu.stacking import evaluation
from melgpu.stacking.evaluation import RoundEvaluation


def made(**changes) -> RoundEvaluation:
    """Two networks, their mean and a blend, on four validation tracks of two folds, two public ones and one private."""
    probs = np.random.default_rng(0).dirichlet(np.ones(3), (4, 7)).astype(np.float32)
    base = RoundEvaluation(
        ("resnet50", "xception", "mean", "blend"),
        ("a", "b", "c", "d", "e", "f", "g"),
        ("validation",) * 4 + ("public",) * 2 + ("private",),
        np.array([0, 0, 1, 1, -1, -1, -1]),
        np.array([0, 1, 2, 0, 1, -1, -1]),
        np.arange(7) == 4,
        probs,
        ("x", "y", "ü"),
        {"round": 2, "final_predictor": "blend"},
    )
    return replace(base, **changes)


def test_round_trip(tmp_path):
    evaluation.save(made(), tmp_path / "x.npz")
    again = evaluation.load(tmp_path / "x.npz")
    for name in RoundEvaluation.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(again, name), getattr(made(), name))


def test_rows_are_those_with_labels():
    assert [made().rows(split).tolist() for split in evaluation.SPLITS] == [[0, 1, 2, 3], [4], []]
    assert made().rows("validation", fold=1).tolist() == [2, 3]


def test_tracks_that_were_trained_on_are_counted():
    counts = {split: score["pseudo_labelled"] for split, score in made().scores()["blend"].items()}
    assert counts == {"validation": 0, "public": 1}


def test_scores_count_what_is_right_and_what_is_gained():
    probs = np.full((4, 7, 3), 0.1)
    probs[:, np.arange(7), [0, 1, 0, 1, 1, 0, 0]] = 0.8  # three of the five known are right
    probs[3, 2] = [0.1, 0.1, 0.8]  # the blend mends one
    scores = made(probs=probs).scores()
    assert list(scores) == ["resnet50", "xception", "mean", "blend"]
    assert {name: own["validation"]["accuracy"] for name, own in scores.items()} == {
        "resnet50": 0.5,
        "xception": 0.5,
        "mean": 0.5,
        "blend": 0.75,
    }
    best = scores["blend"]
    assert best["validation"]["gain"] == 0.25
    assert best["validation"]["gain_interval"][0] == 0
    assert best["validation"]["gain_interval"][1] > 0.25
    assert best["validation"]["gain_p"] == 1  # of one track
    assert best["public"]["tracks"] == 1
    assert best["public"]["gain"] == 0
    assert "private" not in best
    low, high = best["validation"]["interval"]
    assert low < 0.75 < high


@pytest.mark.parametrize(
    "changes",
    [
        {"folds": np.zeros(6, int)},
        {"labels": np.full(7, 3)},
        {"labels": np.full(7, -2)},
        {"splits": ("train",) * 7},
        {"probs": np.zeros((4, 7, 2))},
        {"provenance": []},
    ],
)
def test_columns_that_do_not_fit_are_refused(changes):
    with pytest.raises(AssertionError):
        made(**changes)


def test_damaged_and_foreign_files_are_refused(tmp_path):
    path = tmp_path / "x.npz"
    evaluation.save(made(), path)
    good = path.read_bytes()
    os.mkfifo(tmp_path / "pipe")
    for content in (b"", good[: len(good) // 2], b"text"):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"x\.npz: damaged"):
            evaluation.load(path)
    evaluation.save(made(provenance={"final_predictor": "oracle"}), path)
    with pytest.raises(InputError, match=r"x\.npz: damaged"):
        evaluation.load(path)
    evaluation.save(made(probs=np.full((4, 7, 3), np.nan)), path)
    with pytest.raises(InputError, match="values that are no probabilities"):
        evaluation.load(path)
    with pytest.raises(InputError):
        evaluation.load(tmp_path / "pipe")
