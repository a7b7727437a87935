import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from melgpu import checkpoint, recipe, stacking

SPEC = recipe.load(["demo"], ["stacking.max_epochs=30", "stacking.num_trees=20"]).stacking
NAMES = ["cnn", "skip_cnn", "lightgbm"]


def votes(count: int, seed: int, num_models: int = 3, num_classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and models of which the first is good and the last knows nothing."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(count) % num_classes)
    logits = rng.standard_normal((count, num_models, num_classes))
    skill = np.linspace(3, 0, num_models)
    logits[np.arange(count)[:, None], np.arange(num_models), labels[:, None]] += skill
    odds = np.exp(2 * logits)
    return odds / odds.sum(-1, keepdims=True), labels


@pytest.fixture(scope="module")
def fitted() -> dict[str, tuple[list, np.ndarray]]:
    return {name: stacking.fit(name, votes(120, 1), votes(80, 2), SPEC) for name in NAMES}


def as_stack(fitted) -> stacking.Stack:
    return stacking.Stack(3, 4, {name: members for name, (members, _) in fitted.items()})


@settings(max_examples=15, deadline=None)
@given(st.integers(2, 9), st.integers(2, 20), st.sampled_from([stacking.StackCNN, stacking.StackSkipCNN]))
def test_any_number_of_models_and_classes_fits(num_models, num_classes, kind):
    cnn = kind(num_models, num_classes, 0.25).eval()
    assert cnn(torch.rand(5, num_models, num_classes)).shape == (5, num_classes)


def test_kernels_see_models_and_never_mix_classes():
    for kind in (stacking.StackCNN, stacking.StackSkipCNN):
        cnn = kind(6, 10, 0.25)
        kernels = {conv.kernel_size for conv in cnn.modules() if isinstance(conv, torch.nn.Conv2d)}
        assert kernels <= {(2, 1), (3, 1)}


@pytest.mark.parametrize("name", NAMES)
def test_a_stacker_learns_whom_to_trust(fitted, name):
    matrix, labels = votes(400, 3)
    right = lambda probs: (probs.argmax(1) == labels).mean()  # noqa: E731
    stacked = as_stack(fitted).predict(matrix)[name]
    np.testing.assert_allclose(stacked.sum(1), 1, atol=1e-5)
    assert right(stacked) > right(matrix.mean(1)) - 0.05
    assert right(stacked) > right(matrix[:, 2]) + 0.3


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_gives_the_same_bits(fitted, name):
    torch.rand(3)
    _, again = stacking.fit(name, votes(120, 1), votes(80, 2), SPEC)
    np.testing.assert_array_equal(again, fitted[name][1])


@pytest.mark.parametrize("name", NAMES)
def test_shuffled_labels_fall_to_chance(name):
    train, valid = votes(400, 4), votes(400, 5)
    rng = np.random.default_rng(6)
    shuffled = rng.permutation(valid[1])
    _, out_of_fold = stacking.fit(name, (train[0], rng.permutation(train[1])), (valid[0], shuffled), SPEC)
    assert (out_of_fold.argmax(1) == shuffled).mean() < 0.25 + 0.12  # chance, early stopping's choice, 4 sigma


def test_out_of_fold_means_out_of_fold(fitted):
    """Each validation track is judged by the one member that was not tuned on it."""
    from sklearn.model_selection import StratifiedKFold

    matrix, labels = votes(80, 2)
    members, out_of_fold = fitted["lightgbm"]
    splits = StratifiedKFold(SPEC.num_subfolds, shuffle=True, random_state=SPEC.seed).split(matrix, labels)
    for member, (_, outside) in zip(members, splits, strict=True):
        np.testing.assert_array_equal(stacking._member_probs(member, matrix[outside]), out_of_fold[outside])


def test_a_stack_survives_its_file(fitted, tmp_path):
    stack, matrix = as_stack(fitted), votes(50, 7)[0]
    stacking.save(stack, tmp_path / "x", {"fold": 2})
    again, about = stacking.load(tmp_path / "x")
    assert about["fold"] == 2
    for name, probs in stack.predict(matrix).items():
        np.testing.assert_array_equal(again.predict(matrix)[name], probs)


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        (None, "not of a stack"),
        ([], "not of a stack"),
        ({}, "stack.num_models: Field required"),
        ({"num_models": "2", "num_classes": 3, "members": {}}, "stack.num_models"),
        ({"num_models": 2, "num_classes": 10**30, "members": {"cnn": 1}}, "stack.num_classes"),
        ({"num_models": 2, "num_classes": 3, "members": {"cnn": 10**9}}, "stack.members.cnn"),
        ({"num_models": 2, "num_classes": 3, "members": {"evil": 1}}, "stack.members.evil"),
        ({"num_models": 1000, "num_classes": 10_000, "members": {"cnn": 1}}, "does not fit StackCNN"),
        ({"num_models": 2, "num_classes": 3, "members": {"skip_cnn": 1}}, "does not fit StackSkipCNN"),
        ({"num_models": 2, "num_classes": 3, "members": {"lightgbm": 1}}, "lightgbm.0 is no model of LightGBM's"),
    ],
)
def test_damaged_and_foreign_stacks_are_refused(tmp_path, shape, reason):
    garbage = {"lightgbm.0": torch.frombuffer(bytearray(b"tree\nTree=0\n\xff"), dtype=torch.uint8)}
    checkpoint.save(tmp_path / "x", garbage, {"stack": shape})
    with pytest.raises(checkpoint.CheckpointError, match=f"x: .*{reason}"):
        stacking.load(tmp_path / "x")
    checkpoint.save(tmp_path / "x", {}, {})
    with pytest.raises(checkpoint.CheckpointError, match="not of a stack"):
        stacking.load(tmp_path / "x")


def test_blend_weighs():
    probs = {"cnn": np.array([[1.0, 0.0]]), "lightgbm": np.array([[0.0, 1.0]])}
    np.testing.assert_allclose(stacking.blend(probs, {"cnn": 0.9, "lightgbm": 0.1}), [[0.9, 0.1]])
    np.testing.assert_allclose(stacking.blend(probs, {"cnn": 3.0, "lightgbm": 1.0}), [[0.75, 0.25]])


def test_a_class_that_a_subfold_lacks_is_no_problem():
    matrix, labels = votes(40, 8)
    labels[labels == 3] = 2
    labels[0] = 3
    for name in NAMES:
        _, out_of_fold = stacking.fit(name, (matrix, labels), (matrix, labels), SPEC)
        assert out_of_fold.shape == (40, 4)


def test_small_classes_get_fewer_subfolds_and_no_test_tracks_are_no_problem():
    matrix, labels = votes(12, 9)
    spec = SPEC.model_copy(update={"num_subfolds": 5})
    members, _ = stacking.fit("lightgbm", (matrix, labels), (matrix, labels), spec)
    assert len(members) == 3
    stack = stacking.Stack(
        3, 4, {name: stacking.fit(name, (matrix, labels), (matrix, labels), spec)[0] for name in NAMES}
    )
    assert {name: probs.shape for name, probs in stack.predict(matrix[:0]).items()} == dict.fromkeys(NAMES, (0, 4))
