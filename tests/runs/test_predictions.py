import contextlib
import os
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from melgpu.errors import InputError
from melgpu.runs import predictions
from melgpu.runs.predictions import Predictions

WANTED = {"round": 1, "fold": 0, "recipe_digest": "abc", "pseudo_digest": "none"}


def made(model="resnet50", **changes) -> Predictions:
    probs = np.random.default_rng(len(model)).dirichlet(np.ones(3), size=6).astype(np.float32)
    source = {
        "backbone": model,
        "fold": 0,
        "round": 1,
        "recipe_digest": "abc",
        "pseudo_digest": "none",
        "checkpoint_digest": "def",
    }
    unusable, num_windows = np.array([False, False, True]), np.array([2, 1, 3])
    base = Predictions(
        ("b.mp3", "a.mp3", "ü.ogg"), ("train", "valid", "public"), unusable, num_windows, probs, ("x", "y", "z"), source
    )
    return replace(base, **changes)


def align(*members):
    return predictions.align(list(members), ("b.mp3", "a.mp3", "ü.ogg"), ["x", "y", "z"], WANTED)


def test_a_track_is_the_mean_of_its_windows():
    own = made()
    expected = [own.probs[0:2].mean(0), own.probs[2], own.probs[3:6].mean(0)]
    np.testing.assert_allclose(own.track_probs, expected, rtol=1e-6)


def test_tracks_are_found_by_id_and_split():
    own = made(ids=("a.mp3", "b.mp3", "a.mp3"))  # one name in two sets
    tracks = [("a.mp3", "public"), ("a.mp3", "train"), ("b.mp3", "train")]
    moved = own.in_order(tracks)
    assert (moved.ids, moved.splits) == (("a.mp3", "a.mp3", "b.mp3"), ("public", "train", "valid"))
    np.testing.assert_array_equal(moved.probs, own.probs[[3, 4, 5, 0, 1, 2]])
    np.testing.assert_array_equal(moved.unusable, [True, False, False])
    np.testing.assert_allclose(moved.track_probs, own.track_probs[[2, 0, 1]])
    assert own.in_order(tracks[:2]) is own
    assert own.in_order([*tracks[:2], ("c.mp3", "train")]) is own
    twice = replace(own, splits=("train", "valid", "train"))
    assert twice.in_order([("a.mp3", "train"), ("b.mp3", "train")]) is twice


def test_round_trip(tmp_path):
    predictions.save(made(), tmp_path / "x.npz")
    again = predictions.load(tmp_path / "x.npz")
    assert (again.ids, again.splits, again.class_names, again.provenance) == (
        made().ids,
        made().splits,
        made().class_names,
        made().provenance,
    )
    np.testing.assert_array_equal(again.probs, made().probs)
    np.testing.assert_array_equal(again.num_windows, made().num_windows)
    np.testing.assert_array_equal(again.unusable, made().unusable)


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


def arrays(path, **changes) -> dict:
    """What a file of predictions holds, with some of it replaced."""
    predictions.save(made(), path)
    with np.load(path) as data:
        return {**data, **changes}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"probs": np.full((6, 3), np.nan, np.float32)}, "values that are no probabilities"),
        ({"probs": np.full((6, 3), -0.1, np.float32)}, "values that are no probabilities"),
        ({"probs": np.full((6, 3), 7.0, np.float32)}, "values that are no probabilities"),
        ({"probs": np.ones((6, 3), int)}, "probs has another dtype or shape"),
        ({"probs": np.ones((6, 3), complex)}, "probs has another dtype or shape"),
        ({"probs": np.ones(6)}, "probs has another dtype or shape"),
        ({"probs": np.ones((6, 4))}, "columns differ in length"),
        ({"ids": np.arange(3)}, "ids has another dtype or shape"),
        ({"ids": np.array([["a"], ["b"], ["c"]])}, "ids has another dtype or shape"),
        ({"ids": np.array(["a", "b"])}, "columns differ in length"),
        ({"ids": np.array([print] * 3, object)}, "Object arrays cannot be loaded"),
        ({"unusable": np.zeros(3, [("a", "i4")])}, "unusable has another dtype or shape"),
        ({"num_windows": np.array([3, 0, 3])}, "windows of the tracks"),
        ({"num_windows": np.array([7, -2, 1])}, "windows of the tracks"),
        ({"num_windows": np.array([2**62, 2**62, 2**63 + 6], np.uint64).view(np.int64)}, "windows of the tracks"),
        ({"num_windows": np.array([2.0, 1.0, 3.0])}, "num_windows has another dtype or shape"),
        ({"provenance": np.array("[]")}, "does not say what made it"),
        ({"provenance": np.array("[" * 100_000)}, "recursion"),
        ({"provenance": np.array(3)}, "provenance has another dtype or shape"),
        ({"splits": np.zeros(30_000_000)}, "a small file of huge arrays"),
    ],
)
def test_arrays_of_another_form_are_refused(tmp_path, changes, reason):
    path = tmp_path / "x.npz"
    np.savez_compressed(path, **arrays(path, **changes))
    with pytest.raises(InputError, match=rf"x\.npz: damaged or no predictions .*{reason}"):
        predictions.load(path)


@pytest.mark.parametrize(
    "header",
    ["{'descr':'<f4','fortran_order':False,'shape':(10**12,3)}", "(" * 9000, "-" * 9000 + "1", "{", None]
    + [f"{{'descr':'<f4','fortran_order':False,'shape':({shape},3)}}" for shape in (10**12, 10**40, -3)],
)
def test_arrays_that_lie_about_themselves_are_refused(tmp_path, header):
    path = tmp_path / "x.npz"
    np.savez_compressed(path, **arrays(path))
    text = (header or "").encode()
    member = b"\x93NUMPY\x02\0" + len(text).to_bytes(4, "little") + text if header else b"hello"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(tmp_path / "y.npz", "w") as new:
        for name in old.namelist():
            new.writestr(name, member if name == "probs.npy" else old.read(name))
    with pytest.raises(InputError, match=r"y\.npz: damaged or no predictions"):
        predictions.load(tmp_path / "y.npz")


def test_what_is_no_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "/dev/zero", "absent", "."):
        with pytest.raises(InputError, match="damaged or no predictions"):
            predictions.load(tmp_path / name)


@settings(deadline=None)
@given(st.data())
def test_any_cut_and_any_changed_bit_is_refused_or_of_no_meaning(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "bits.npz"
    predictions.save(made(), path)
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        del content[place:]
    else:
        content[place] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    with contextlib.suppress(InputError):
        again = predictions.load(path)
        assert (again.ids, again.provenance) == (made().ids, made().provenance)
        np.testing.assert_array_equal(again.probs, made().probs)


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
        (made("x", splits=("valid", "valid", "public")), "was trained on other tracks than resnet50"),
        (
            made("x", provenance={**made().provenance, "recipe_digest": "other"}),
            "made with recipe_digest other, not abc",
        ),
        (made("x", provenance={**made().provenance, "fold": 3}), "made with fold 3, not 0"),
        (made("x", provenance={**made().provenance, "round": 2}), "made with round 2, not 1"),
        (made("x", provenance={**made().provenance, "pseudo_digest": "0a"}), "made with pseudo_digest 0a, not none"),
    ],
)
def test_mixtures_are_refused_by_name(wrong, message):
    with pytest.raises(InputError) as caught:
        align(made(), wrong)
    assert message in str(caught.value)
