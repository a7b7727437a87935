import contextlib
import json
import os
import pickle
import stat

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from melgpu.models import checkpoint


class Numbers(checkpoint.Metadata):
    kind = "of numbers"
    épreuve: tuple[int | None, ...]


METADATA = Numbers(épreuve=(1, None))


def save(path):
    checkpoint.save(path, {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor(True)}, METADATA)


def load(path):
    return checkpoint.load(path, Numbers)


def test_round_trip(tmp_path):
    save(tmp_path / "x")
    tensors, metadata = load(tmp_path / "x")
    assert torch.equal(tensors["a"], torch.arange(6.0).view(2, 3))
    assert tensors["b"].dtype == torch.bool
    assert metadata == METADATA


def test_the_permissions_are_those_of_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        save(tmp_path / "x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o640


def test_a_checkpoint_of_another_user_is_not_called_damaged(tmp_path, monkeypatch):
    save(tmp_path / "x")
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may read all
    with pytest.raises(checkpoint.CheckpointError, match=r"x: no permission to read it; .* chmod"):
        load(tmp_path / "x")


class Payload:
    def __reduce__(self):
        return (open, ("ran", "w"))


def test_damaged_and_untrusted_files_are_rejected_and_run_no_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "x")
    valid = (tmp_path / "x").read_bytes()
    malformed = {
        "truncated": valid[:-4],
        "half a header": valid[:20],
        "empty": b"",
        "huge header": (2**62).to_bytes(8, "little") + valid[8:],
        "pickle": pickle.dumps(Payload()),
        "text": b"hello, this is no checkpoint",
    }
    for name, content in malformed.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(checkpoint.CheckpointError, match=name):
            load(tmp_path / name)
    torch.save({"a": Payload()}, tmp_path / "torch")
    with pytest.raises(checkpoint.CheckpointError, match="torch"):
        load(tmp_path / "torch")
    save_file({"a": torch.zeros(1)}, tmp_path / "plain")
    with pytest.raises(checkpoint.CheckpointError, match="not of format"):
        load(tmp_path / "plain")
    with pytest.raises(checkpoint.CheckpointError, match="absent"):
        load(tmp_path / "absent")
    assert not (tmp_path / "ran").exists()


def write(path, header, data=b""):
    """A safetensors file by hand; tensors are (dtype, shape, first byte, byte after the last)."""
    keys = ("dtype", "shape", "data_offsets")
    tensors = {name: dict(zip(keys, (dtype, shape, ends), strict=True)) for name, dtype, shape, *ends in header}
    text = json.dumps({"__metadata__": {checkpoint.FORMAT: "0 {}"}, **tensors}).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ([("a", "F32", [2**40], 0, 64)], "invalid shape"),
        ([("a", "F32", [2**62, 2**62], 0, 64)], "overflow"),
        ([("a", "F32", [-16], 0, 64)], "invalid value"),
        ([("a", "F32", [16], 64, 128)], "invalid offset"),
        ([("a", "F32", [16], 64, 0)], "invalid offset"),
        ([("a", "F32", [8], 32, 64)], "invalid offset"),
        ([("a", "F32", [16], 0, 64), ("b", "F32", [16], 0, 64)], "invalid offset"),
        ([("a", "F32", [8], 0, 32)], "not fully covered"),
        ([("a", "PICKLE", [16], 0, 64)], "unknown variant"),
    ],
)
def test_malformed_headers_are_rejected(tmp_path, header, reason):
    write(tmp_path / "x", header, bytes(64))
    with pytest.raises(checkpoint.CheckpointError, match=f"x: damaged, or no checkpoint of numbers .*{reason}"):
        load(tmp_path / "x")


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ("[" * 100_000, "recursion"),
        ('{"a":' * 100_000, "recursion"),
        ("9" * 5000, "number out of range"),
        ("[]", "should be an object"),
        ("null", "should be an object"),
        ("3", "should be an object"),
        ("", "EOF while parsing"),
        ("{}", "épreuve: Field required"),
        ('{"épreuve": [1.5]}', "valid integer"),
        ("[" + "{}," * 10**6 + "{}]", "3000004 characters"),
    ],
    ids=lambda text: text[:8],
)
def test_malformed_metadata_is_rejected(tmp_path, metadata, reason):
    save_file({}, tmp_path / "x", {checkpoint.FORMAT: f"0 {metadata}"})
    with pytest.raises(checkpoint.CheckpointError, match=f"x: damaged, or no checkpoint of numbers .*{reason}"):
        load(tmp_path / "x")


@pytest.mark.parametrize("name", ["pipe", "folder", "/dev/zero", "link"])
def test_what_is_not_a_regular_file_is_rejected_at_once(tmp_path, name):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    with pytest.raises(checkpoint.CheckpointError, match="not a regular file"):
        load(tmp_path / name)
    with pytest.raises(OSError, match="not a regular file"):
        checkpoint.digest(tmp_path / name)


@settings(deadline=None)
@given(st.data())
def test_any_truncation_and_any_flipped_bit_is_rejected(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "bits"
    save(path)
    content, (tensors, metadata) = bytearray(path.read_bytes()), load(path)
    position = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        del content[position:]
    else:
        content[position] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    with contextlib.suppress(checkpoint.CheckpointError):  # else the change is in padding of the header
        loaded, loaded_metadata = load(path)
        assert loaded_metadata == metadata
        assert loaded.keys() == tensors.keys()
        assert all(torch.equal(loaded[key], tensors[key]) for key in tensors)


def test_equal_content_gives_identical_files(tmp_path):
    for name in ("first", "second"):
        save(tmp_path / name)
    assert checkpoint.digest(tmp_path / "first") == checkpoint.digest(tmp_path / "second")


W, B = torch.ones(2, 3), torch.zeros(2)


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        ({"weight": torch.zeros(2, 2), "bias": B}, "does not fit Linear .*size mismatch"),
        ({"weight": W}, "does not fit Linear .*Missing key"),
        ({"weight": W, "bias": B, "c": B}, "does not fit Linear .*Unexpected key"),
        ({"weight": W.double(), "bias": B}, "weight is of torch.float64 instead of torch.float32"),
        ({"weight": W.to(torch.int8), "bias": B}, "weight is of torch.int8"),
        ({"weight": W.to(torch.complex64), "bias": B}, "weight is of torch.complex64"),
        ({"weight": W.to(torch.float8_e4m3fn), "bias": B}, "weight is of torch.float8_e4m3fn"),
        ({"weight": W / 0, "bias": B}, "weight contains NaN or infinity"),
        ({"weight": W, "bias": B / 0}, "bias contains NaN or infinity"),
    ],
)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_tensors_that_do_not_fit_are_rejected(tmp_path, tensors, reason, device):
    module = torch.nn.Linear(3, 2, device=device)
    with pytest.raises(checkpoint.CheckpointError, match=f"x: {reason}|x: does not fit Linear .{reason}"):
        checkpoint.load_into(module, tensors, tmp_path / "x", assign=device == "meta")
