import io
import os
from dataclasses import replace

import numpy as np
import pytest

from melgpu.data.manifest import EVALUATED_SPLITS, Split
from melgpu.errors import InputError
from melgpu.models.metadata import Provenance
from melgpu.recipe import load_recipe
from melgpu.stacking import evaluation
from melgpu.stacking.evaluation import EvaluationMetadata, RoundEvaluation

METADATA = EvaluationMetadata(
    provenance=Provenance(round=2, recipe_digest="1f", pseudo_digest="none"),
    settings=load_recipe(["demo"]).stack_settings(1),
    final_predictor="blend",
    selection=None,
    fitted_weights={"cnn": 1.0},
)


def make_evaluation(**changes) -> RoundEvaluation:
    """Two networks, their mean and a blend, on four validation tracks of two folds, two public ones and one private."""
    probs = np.random.default_rng(0).dirichlet(np.ones(3), (4, 7)).astype(np.float32)
    round_evaluation = RoundEvaluation(
        ("resnet50", "xception", "mean", "blend"),
        ("a", "b", "c", "d", "e", "f", "g"),
        (Split.VALID,) * 4 + (Split.PUBLIC,) * 2 + (Split.PRIVATE,),
        np.array([0, 0, 1, 1, -1, -1, -1]),
        np.array([0, 1, 2, 0, 1, -1, -1]),
        np.arange(7) == 4,
        probs,
        ("x", "y", "ü"),
        METADATA,
    )
    return replace(round_evaluation, **changes)


def test_round_trip(tmp_path):
    evaluation.save(make_evaluation(), tmp_path / "x.npz")
    loaded = evaluation.load(tmp_path / "x.npz")
    for name in RoundEvaluation.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(loaded, name), getattr(make_evaluation(), name))


def test_rows_have_known_labels():
    assert [make_evaluation().rows(split).tolist() for split in EVALUATED_SPLITS] == [[0, 1, 2, 3], [4], []]
    assert make_evaluation().rows(Split.VALID, fold=1).tolist() == [2, 3]


def test_pseudo_labelled_tracks_are_counted():
    counts = {split: score.num_pseudo_labelled for split, score in make_evaluation().scores()["blend"].items()}
    assert counts == {"valid": 0, "public": 1}


def test_scores_are_accuracy_and_gain():
    probs = np.full((4, 7, 3), 0.1)
    probs[:, np.arange(7), [0, 1, 0, 1, 1, 0, 0]] = 0.8  # three of the five known are correct
    probs[3, 2] = [0.1, 0.1, 0.8]  # the blend corrects one
    scores = make_evaluation(probs=probs).scores()
    assert list(scores) == ["resnet50", "xception", "mean", "blend"]
    assert {name: splits[Split.VALID].accuracy for name, splits in scores.items()} == {
        "resnet50": 0.5,
        "xception": 0.5,
        "mean": 0.5,
        "blend": 0.75,
    }
    blend = scores["blend"]
    assert blend[Split.VALID].gain == 0.25
    assert (blend[Split.PUBLIC].num_tracks, blend[Split.PUBLIC].gain) == (1, 0)
    assert Split.PRIVATE not in blend


@pytest.mark.parametrize(
    "changes",
    [
        {"folds": np.zeros(6, int)},
        {"labels": np.full(7, 3)},
        {"labels": np.full(7, -2)},
        {"splits": (Split.TRAIN,) * 7},
        {"probs": np.zeros((4, 7, 2))},
        {"metadata": METADATA.model_copy(update={"final_predictor": "oracle"})},
    ],
)
def test_columns_that_do_not_fit_are_rejected(changes):
    with pytest.raises(ValueError):
        make_evaluation(**changes)


def test_malformed_files_are_rejected(tmp_path):
    path = tmp_path / "x.npz"
    evaluation.save(make_evaluation(), path)
    valid = path.read_bytes()
    os.mkfifo(tmp_path / "pipe")
    for content in (b"", valid[: len(valid) // 2], b"text"):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"x\.npz: not an evaluation of a round .*; delete its folder to stack"):
            evaluation.load(path)
    with np.load(io.BytesIO(valid)) as data:
        arrays = dict(data)
    for changes in (
        {"metadata": np.array("{}")},
        {"metadata": np.array(str(arrays["metadata"]).replace("blend", "oracle"))},
        {"metadata": np.array(str(arrays["metadata"]).replace("1.0", '"all"'))},
        {"splits": np.array(["validation"] * 7)},
    ):
        np.savez(path, **arrays | changes)
        with pytest.raises(InputError, match=r"x\.npz: not an evaluation of a round .*; delete its folder to stack"):
            evaluation.load(path)
    evaluation.save(make_evaluation(probs=np.full((4, 7, 3), np.nan)), path)
    with pytest.raises(InputError, match="values that are not probabilities"):
        evaluation.load(path)
    with pytest.raises(InputError):
        evaluation.load(tmp_path / "pipe")
