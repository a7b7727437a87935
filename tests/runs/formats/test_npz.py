import errno
import os
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

import numpy as np
import pytest

from melgpu.errors import InputError
from melgpu.models.schema import Schema
from melgpu.runs.formats.npz import Array, Flags, Integers, NpzFormat
from tests.helpers import file_size_limit


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


class Origin(Schema):
    place: str
    numbers: list[int]


@dataclass(frozen=True)
class Example:
    names: tuple[str, ...]
    colours: tuple[Colour, ...]
    is_old: Flags
    counts: Integers
    probs: Annotated[np.ndarray, Array("f", 2)]
    origin: Origin

    def __post_init__(self) -> None:
        if len(self.names) != len(self.probs):
            raise ValueError("columns differ in length")


NPZ = NpzFormat(Example, "a file of examples", "delete it")
ARRAYS = {
    "names": np.array(["nhạc", "b"]),
    "colours": np.array(["blue", "red"]),
    "is_old": np.array([True, False]),
    "counts": np.array([3, -1], np.int32),
    "probs": np.array([[0.25, 0.75], [1, 0]], np.float32),
    "origin": np.array('{"place": "x", "numbers": [1, 2]}'),
}


def test_a_file_of_plain_arrays_is_loaded_and_saved_with_their_types(tmp_path):
    np.savez(tmp_path / "x.npz", **ARRAYS)
    loaded = NPZ.load(tmp_path / "x.npz")
    assert (loaded.names, loaded.colours) == (("nhạc", "b"), (Colour.BLUE, Colour.RED))
    assert loaded.origin == Origin(place="x", numbers=[1, 2])
    NPZ.save(loaded, tmp_path / "y.npz")
    with np.load(tmp_path / "y.npz", allow_pickle=False) as saved:
        assert list(saved) == list(ARRAYS)
        for name in ("names", "colours", "is_old", "counts", "probs"):
            np.testing.assert_array_equal(saved[name], ARRAYS[name], strict=True)
        assert saved["origin"].item() == '{"place":"x","numbers":[1,2]}'


def test_columns_without_rows_round_trip(tmp_path):
    none = np.empty(0)
    NPZ.save(
        Example((), (), none.astype(bool), none.astype(int), np.empty((0, 3)), Origin(place="", numbers=[])),
        tmp_path / "x.npz",
    )
    loaded = NPZ.load(tmp_path / "x.npz")
    assert (loaded.names, loaded.colours, loaded.probs.shape) == ((), (), (0, 3))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"names": np.array([b"a", b"b"])}, "names has a wrong dtype or number of axes"),
        ({"colours": np.array(["red", "green"])}, "'green' is not a valid Colour"),
        ({"counts": np.array([1.0, 2.0])}, "counts has a wrong dtype or number of axes"),
        ({"is_old": np.array([0, 1])}, "is_old has a wrong dtype or number of axes"),
        ({"probs": np.full((2, 2), np.nan)}, "values that are not probabilities"),
        ({"probs": np.zeros((3, 2))}, "columns differ in length"),
        ({"origin": np.array('{"place": 1}')}, "place: Input should be a valid string"),
        ({"names": np.array([print, print], object)}, "Object arrays cannot be loaded"),
    ],
)
def test_malformed_values_are_rejected_with_name_reason_and_remedy(tmp_path, changes, reason):
    np.savez(tmp_path / "x.npz", **ARRAYS | changes)
    with pytest.raises(InputError, match=rf"x\.npz: not a file of examples \(.*{reason}.*\); delete it$"):
        NPZ.load(tmp_path / "x.npz")


def test_one_field_is_read_without_the_others(tmp_path):
    np.savez(tmp_path / "x.npz", names=ARRAYS["names"])
    assert NPZ.load_field(tmp_path / "x.npz", "names") == ("nhạc", "b")
    with pytest.raises(InputError, match="not a file of examples"):
        NPZ.load_field(tmp_path / "x.npz", "counts")


def test_a_file_without_permission_is_not_called_malformed(tmp_path, monkeypatch):
    np.savez(tmp_path / "x.npz", **ARRAYS)
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may read all
    with pytest.raises(InputError, match=r"x\.npz: no permission to read it"):
        NPZ.load(tmp_path / "x.npz")


def test_the_error_of_a_full_disk_names_the_file(tmp_path):
    probs = np.random.default_rng(0).random((10_000, 1))
    example = Example(("a",) * 10_000, (), np.zeros(1, bool), np.zeros(1, int), probs, Origin(place="", numbers=[]))
    with file_size_limit(1000), pytest.raises(OSError, match=r"x\.npz'$") as caught:
        NPZ.save(example, tmp_path / "x.npz")
    assert caught.value.errno == errno.EFBIG
    assert os.listdir(tmp_path) == []
