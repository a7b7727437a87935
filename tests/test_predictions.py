from dataclasses import replace

import numpy as np
import pytest

from melgpu import predictions
from melgpu.errors import InputError
from melgpu.predictions import Predictions


def made(model="resnet50", **changes) -> Predictions:
    probs = np.random.default_rng(len(model)).dirichlet(np.ones(3), size=6).astype(np.float32)
    source = {"model": model, "fold": 0, "round": 1, "recipe": "abc", "checkpoint": "def"}
    lost, num_windows = np.array([False, False, True]), np.array([2, 1, 3])
    base = Predictions(
        ("b.mp3", "a.mp3", "ü.ogg"), ("train", "valid", "public"), lost, num_windows, probs, ("x", "y", "z"), source
    )
    return replace(base, **changes)


def align(*members):
    return predictions.align(list(members), ("b.mp3", "a.mp3", "ü.ogg"), ["x", "y", "z"], "abc")


def test_a_track_is_the_mean_of_its_windows():
    own = made()
    expected = [own.probs[0:2].mean(0), own.probs[2], own.probs[3:6].mean(0)]
    np.testing.assert_allclose(own.track_probs, expected, rtol=1e-6)


def test_round_trip(tmp_path):
    predictions.save(made(), tmp_path / "x.npz")
    again = predictions.load(tmp_path / "x.npz")
    assert (again.ids, again.splits, again.class_names, again.source) == (
        made().ids,
        made().splits,
        made().class_names,
        made().source,
    )
    np.testing.assert_array_equal(again.probs, made().probs)
    np.testing.assert_array_equal(again.num_windows, made().num_windows)
    np.testing.assert_array_equal(again.lost, made().lost)


def test_damaged_and_pickled_files_are_refused(tmp_path):
    path = tmp_path / "x.npz"
    predictions.save(made(), path)
    good = path.read_bytes()
    for content in (b"", good[: len(good) // 2], b"text"):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"x\.npz"):
            predictions.load(path)
    np.savez(path, ids=np.array([print], object), splits=np.array(["a"]))
    with pytest.raises(InputError, match=r"x\.npz"):
        predictions.load(path)


def test_models_are_aligned():
    matrix = align(made("resnet50"), made("xception"))
    assert matrix.shape == (3, 2, 3)
    np.testing.assert_array_equal(matrix[:, 1], made("xception").track_probs)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (made("x", ids=("a.mp3", "b.mp3", "ü.ogg")), "the same tracks in another order"),
        (made("x", ids=("b.mp3", "a.mp3", "c.mp3")), "lacks 1 tracks (ü.ogg); has unknown 1 tracks (c.mp3)"),
        (made("x", class_names=("x", "y", "Z")), "its classes are x, y, Z, not x, y, z"),
        (made("x", splits=("valid", "valid", "public")), "differs from resnet50 in splits"),
        (made("x", source={**made().source, "recipe": "other"}), "made with recipe other, not abc"),
        (made("x", source={**made().source, "fold": 3}), "differs from resnet50 in fold"),
        (made("x", source={**made().source, "round": 2}), "differs from resnet50 in round"),
    ],
)
def test_mixtures_are_refused_by_name(wrong, message):
    with pytest.raises(InputError) as caught:
        align(made(), wrong)
    assert message in str(caught.value)
