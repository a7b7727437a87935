import contextlib
import os
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from melgpu.data.manifest import Split
from melgpu.errors import InputError
from melgpu.models.metadata import NetworkProvenance
from melgpu.runs.formats import predictions
from melgpu.runs.formats.predictions import Predictions

TRACKS = (("b.mp3", Split.TRAIN), ("a.mp3", Split.VALID), ("ü.ogg", Split.PUBLIC))


def provenance(backbone="resnet50", **changes) -> NetworkProvenance:
    digests = {"recipe_digest": "abc", "pseudo_digest": "none"}
    return NetworkProvenance(**{"round": 1, "fold": 0, "backbone": backbone, **digests, **changes})


def build(backbone="resnet50", **changes) -> Predictions:
    probs = np.random.default_rng(len(backbone)).dirichlet(np.ones(3), size=6).astype(np.float32)
    unusable, num_windows = np.array([False, False, True]), np.array([2, 1, 3])
    base = Predictions(
        ("b.mp3", "a.mp3", "ü.ogg"),
        (Split.TRAIN, Split.VALID, Split.PUBLIC),
        unusable,
        num_windows,
        probs,
        ("x", "y", "z"),
        provenance(backbone, checkpoint_digest="def"),
    )
    return replace(base, **changes)


def align(*members):
    return predictions.align(members, [provenance(), provenance("x")], TRACKS, ["x", "y", "z"])


def test_track_probabilities_are_the_mean_over_windows():
    predicted = build()
    probs = predicted.probs
    expected = [probs[0:2].mean(0), probs[2], probs[3:6].mean(0)]
    np.testing.assert_allclose(predicted.track_probs, expected, rtol=1e-6)


def test_tracks_are_reordered_by_id_and_split():
    predicted = build(ids=("b.mp3", "a.mp3", "a.mp3"))  # one id in two splits
    tracks = [("a.mp3", Split.PUBLIC), ("a.mp3", Split.VALID), ("b.mp3", Split.TRAIN)]
    reordered = predicted.reordered_to(tracks)
    assert (reordered.ids, reordered.splits) == (("a.mp3", "a.mp3", "b.mp3"), ("public", "valid", "train"))
    np.testing.assert_array_equal(reordered.probs, predicted.probs[[3, 4, 5, 2, 0, 1]])
    np.testing.assert_array_equal(reordered.unusable, [True, False, False])
    np.testing.assert_allclose(reordered.track_probs, predicted.track_probs[[2, 1, 0]])
    assert predicted.reordered_to(tracks[:2]) is predicted
    assert predicted.reordered_to([*tracks[:2], ("c.mp3", Split.TRAIN)]) is predicted
    duplicate = replace(predicted, splits=(Split.TRAIN,) * 3)
    assert duplicate.reordered_to([("a.mp3", Split.TRAIN), ("b.mp3", Split.TRAIN)]) is duplicate


def test_round_trip(tmp_path):
    saved = build()
    predictions.save(saved, tmp_path / "x.npz")
    loaded = predictions.load(tmp_path / "x.npz")
    for name in ("ids", "splits", "class_names", "provenance"):
        assert getattr(loaded, name) == getattr(saved, name)
    for name in ("probs", "num_windows", "unusable"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(saved, name))
    assert predictions.load_provenance(tmp_path / "x.npz") == saved.provenance


def test_damaged_and_pickled_files_are_rejected(tmp_path):
    path = tmp_path / "x.npz"
    predictions.save(build(), path)
    valid = path.read_bytes()
    for content in (b"", valid[: len(valid) // 2], b"text"):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"x\.npz"):
            predictions.load(path)
        with pytest.raises(InputError, match=r"x\.npz"):
            predictions.load_provenance(path)
    np.savez(path, ids=np.array([print], object), splits=np.array(["a"]))
    with pytest.raises(InputError, match=r"x\.npz"):
        predictions.load(path)


def arrays(path, **changes) -> dict:
    """The arrays of a file of predictions, with some of them replaced."""
    predictions.save(build(), path)
    with np.load(path) as data:
        return {**data, **changes}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"probs": np.full((6, 3), np.nan, np.float32)}, "values that are not probabilities"),
        ({"probs": np.full((6, 3), -0.1, np.float32)}, "values that are not probabilities"),
        ({"probs": np.full((6, 3), 7.0, np.float32)}, "values that are not probabilities"),
        ({"probs": np.ones((6, 3), int)}, "probs has a wrong dtype or number of axes"),
        ({"probs": np.ones((6, 3), complex)}, "probs has a wrong dtype or number of axes"),
        ({"probs": np.ones(6)}, "probs has a wrong dtype or number of axes"),
        ({"probs": np.ones((6, 4))}, "columns differ in length"),
        ({"ids": np.arange(3)}, "ids has a wrong dtype or number of axes"),
        ({"ids": np.array([["a"], ["b"], ["c"]])}, "ids has a wrong dtype or number of axes"),
        ({"ids": np.array(["a", "b"])}, "columns differ in length"),
        ({"ids": np.array([print] * 3, object)}, "Object arrays cannot be loaded"),
        ({"unusable": np.zeros(3, [("a", "i4")])}, "unusable has a wrong dtype or number of axes"),
        ({"num_windows": np.array([3, 0, 3])}, "num_windows does not match probs"),
        ({"num_windows": np.array([7, -2, 1])}, "num_windows does not match probs"),
        (
            {"num_windows": np.array([2**62, 2**62, 2**63 + 6], np.uint64).view(np.int64)},
            "num_windows does not match probs",
        ),
        ({"num_windows": np.array([2.0, 1.0, 3.0])}, "num_windows has a wrong dtype or number of axes"),
        ({"provenance": np.array("[]")}, "Input should be an object"),
        ({"provenance": np.array("{}")}, "round: Field required"),
        ({"splits": np.array(["train", "valid", "test"])}, "'test' is not a valid Split"),
        ({"provenance": np.array("[" * 100_000)}, "recursion"),
        ({"provenance": np.array(3)}, "provenance has a wrong dtype or number of axes"),
        ({"splits": np.zeros(30_000_000)}, "compressed more than 200 times"),
    ],
)
def test_arrays_that_do_not_match_the_schema_are_rejected(tmp_path, changes, reason):
    path = tmp_path / "x.npz"
    np.savez_compressed(path, **arrays(path, **changes))
    with pytest.raises(InputError, match=rf"x\.npz: not a file of predictions .*{reason}"):
        predictions.load(path)


@pytest.mark.parametrize(
    "header",
    ["{'descr':'<f4','fortran_order':False,'shape':(10**12,3)}", "(" * 9000, "-" * 9000 + "1", "{", None]
    + [f"{{'descr':'<f4','fortran_order':False,'shape':({shape},3)}}" for shape in (10**12, 10**40, -3)],
)
def test_arrays_with_a_malformed_header_are_rejected(tmp_path, header):
    path = tmp_path / "x.npz"
    np.savez_compressed(path, **arrays(path))
    text = (header or "").encode()
    member = b"\x93NUMPY\x02\0" + len(text).to_bytes(4, "little") + text if header else b"hello"
    with zipfile.ZipFile(path) as valid, zipfile.ZipFile(tmp_path / "y.npz", "w") as malformed:
        for name in valid.namelist():
            malformed.writestr(name, member if name == "probs.npy" else valid.read(name))
    with pytest.raises(InputError, match=r"y\.npz: not a file of predictions"):
        predictions.load(tmp_path / "y.npz")


def test_files_that_are_not_regular_are_rejected(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "/dev/zero", "absent", "."):
        with pytest.raises(InputError, match="not a file of predictions"):
            predictions.load(tmp_path / name)


@settings(deadline=None)
@given(st.data())
def test_truncated_and_bit_flipped_files_are_rejected_or_equal(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "bits.npz"
    saved = build()
    predictions.save(saved, path)
    content = bytearray(path.read_bytes())
    position = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        del content[position:]
    else:
        content[position] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    with contextlib.suppress(InputError):
        loaded = predictions.load(path)
        assert (loaded.ids, loaded.provenance) == (saved.ids, saved.provenance)
        np.testing.assert_array_equal(loaded.probs, saved.probs)


def test_networks_are_aligned():
    matrix = align(build("resnet50"), build("x"))
    assert matrix.shape == (3, 2, 3)
    np.testing.assert_array_equal(matrix[:, 1], build("x").track_probs)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (build("x", ids=("a.mp3", "b.mp3", "ü.ogg")), "the same tracks in another order"),
        (
            build("x", ids=("b.mp3", "a.mp3", "c.mp3")),
            "lacks 1 tracks (ü.ogg); has unknown 1 tracks (c.mp3)",
        ),
        (build("x", class_names=("x", "y", "Z")), "its classes are x, y, Z, not x, y, z"),
        (build("x", splits=(Split.VALID, Split.VALID, Split.PUBLIC)), "was trained on other tracks"),
        (build("x", provenance=provenance("x", recipe_digest="other")), "made with recipe other, not abc"),
        (build("x", provenance=provenance("x", fold=3)), "made with fold 3, not 0"),
        (build("x", provenance=provenance("x", round=2)), "made with round 2, not 1"),
        (build("x", provenance=provenance("x", pseudo_digest="0a")), "made with pseudo labels 0a, not none"),
        (build("x", provenance=provenance("y")), "made with backbone y, not x"),
    ],
)
def test_networks_that_do_not_match_are_rejected_by_name(other, message):
    with pytest.raises(InputError) as caught:
        align(build(), other)
    assert message in str(caught.value)
