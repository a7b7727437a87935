import numpy as np
import pytest
import torch

from melgpu.models import checkpoint
from melgpu.models.metadata import Provenance
from melgpu.stacking.stack import Stack, fit_subfolds
from melgpu.stacking.stack_file import StackMetadata, load_stack, save_stack
from tests.helpers.runs import write_checkpoint
from tests.helpers.stacking import SPEC, labelled_matrix

NAMES = ["cnn", "skip_cnn", "lightgbm", "multinomial"]
CNN = {
    "provenance": {"round": 1, "recipe_digest": "1f", "pseudo_digest": "none"},
    "final_predictor": "blend",
    "folds": [2],
    "backbones": ["resnet50", "xception"],
    "class_names": ["a", "b", "c"],
    "weights": {"cnn": 1.0},
    "fitted_weights": [{"cnn": 1.0}],
}


def fit_and_save(train, path) -> tuple[Stack, StackMetadata]:
    valid = labelled_matrix(40, 1)
    _, num_models, num_classes = valid[0].shape
    fitted = list(fit_subfolds(train, valid, np.arange(40) % 3, NAMES, SPEC.model_copy(update={"max_epochs": 2})))
    stack = Stack(num_models, num_classes, dict.fromkeys(NAMES, 0.5), fitted)
    metadata = StackMetadata(
        provenance=Provenance(**CNN["provenance"]),
        final_predictor="cnn",
        folds=(2,),
        backbones=tuple(f"network{k}" for k in range(num_models)),
        class_names=[f"class {c}" for c in range(num_classes)],
        weights=dict(stack.weights),
        fitted_weights=[dict(subfold.weights) for subfold in stack.subfold_stackers],
    )
    save_stack(stack, metadata, path)
    return stack, metadata


@pytest.mark.parametrize("train", [None, labelled_matrix(60, 2)], ids=["oof", "original"])
def test_the_same_seed_gives_the_same_bits(train, tmp_path):
    for name in ("first", "second"):
        fit_and_save(train, tmp_path / name)
        torch.rand(3)  # another random state
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()


def test_a_saved_stack_gives_the_same_predictions(tmp_path):
    stack, metadata = fit_and_save(None, tmp_path / "x")
    loaded, loaded_metadata = load_stack(tmp_path / "x")
    assert loaded_metadata == metadata
    matrix = labelled_matrix(50, 7)[0]
    for name, probs in stack.predict(matrix).items():
        np.testing.assert_array_equal(loaded.predict(matrix)[name], probs)


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        (None, "no checkpoint of a stack"),
        ([], "no checkpoint of a stack"),
        ({}, "provenance: Field required"),
        ({**CNN, "backbones": "2"}, "backbones"),
        ({**CNN, "backbones": ["resnet50"] * 1001}, "backbones"),
        ({**CNN, "class_names": list(map(str, range(10_001)))}, "class_names"),
        ({**CNN, "fitted_weights": [{"cnn": 1.0}] * 1001}, "fitted_weights"),
        ({**CNN, "fitted_weights": []}, "fitted_weights"),
        ({**CNN, "fitted_weights": [{"cnn": -0.5}]}, "fitted_weights"),
        ({**CNN, "fitted_weights": [{"cnn": 0.0}]}, "fitted weights of other stackers, or all zero"),
        ({**CNN, "fitted_weights": [{"skip_cnn": 1.0}]}, "fitted weights of other stackers, or all zero"),
        ({**CNN, "weights": {"evil": 1.0}}, "weights.evil"),
        ({**CNN, "final_predictor": "lightgbm"}, "a final predictor 'lightgbm' that it does not have"),
        ({**CNN, "weights": {"cnn": 0.0}}, "weights.cnn"),
        ({**CNN, "backbones": ["x"] * 1000, "class_names": list(map(str, range(10_000)))}, "does not fit StackCNN"),
        ({**CNN, "weights": {"skip_cnn": 1.0}, "fitted_weights": [{"skip_cnn": 1.0}]}, "does not fit StackSkipCNN"),
        (
            {**CNN, "weights": {"lightgbm": 1.0}, "fitted_weights": [{"lightgbm": 1.0}]},
            "lightgbm.0 is not a LightGBM model",
        ),
    ],
)
def test_malformed_stacks_are_rejected(tmp_path, metadata, reason):
    garbage = {"lightgbm.0": torch.frombuffer(bytearray(b"tree\nTree=0\n\xff"), dtype=torch.uint8)}
    write_checkpoint(tmp_path / "x", garbage, metadata)
    with pytest.raises(checkpoint.CheckpointError, match=f"x: .*{reason}"):
        load_stack(tmp_path / "x")
