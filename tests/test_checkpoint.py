import pickle

import pytest
import torch
from safetensors.torch import save_file

from melgpu import checkpoint


def save(path):
    checkpoint.save(path, {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor(True)}, {"épreuve": [1, None]})


def test_round_trip(tmp_path):
    save(tmp_path / "x")
    tensors, about = checkpoint.load(tmp_path / "x")
    assert torch.equal(tensors["a"], torch.arange(6.0).view(2, 3))
    assert tensors["b"].dtype == torch.bool
    assert about == {"épreuve": [1, None]}


class Payload:
    def __reduce__(self):
        return (open, ("ran", "w"))


def test_damaged_and_foreign_files_are_refused_and_run_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "x")
    good = (tmp_path / "x").read_bytes()
    attacks = {
        "cut": good[:-4],
        "half a header": good[:20],
        "empty": b"",
        "huge header": (2**62).to_bytes(8, "little") + good[8:],
        "pickle": pickle.dumps(Payload()),
        "text": b"hello, this is no checkpoint",
    }
    for name, content in attacks.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(checkpoint.CheckpointError, match=name):
            checkpoint.load(tmp_path / name)
    torch.save({"a": Payload()}, tmp_path / "torch")
    with pytest.raises(checkpoint.CheckpointError, match="torch"):
        checkpoint.load(tmp_path / "torch")
    save_file({"a": torch.zeros(1)}, tmp_path / "plain")
    with pytest.raises(checkpoint.CheckpointError, match="not one of melgpu's"):
        checkpoint.load(tmp_path / "plain")
    with pytest.raises(checkpoint.CheckpointError, match="absent"):
        checkpoint.load(tmp_path / "absent")
    assert not (tmp_path / "ran").exists()


def test_tensors_that_do_not_fit_are_refused(tmp_path):
    for tensors in (
        {"weight": torch.zeros(2, 2)},
        {"weight": torch.zeros(2, 3), "bias": torch.zeros(2), "c": torch.zeros(1)},
    ):
        with pytest.raises(checkpoint.CheckpointError, match="does not fit Linear"):
            checkpoint.load_into(torch.nn.Linear(3, 2), tensors, tmp_path / "x")


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_an_optimizer_survives(tmp_path, layout):
    def fresh(seed):
        torch.manual_seed(seed)
        model = torch.nn.Conv2d(3, 5, 3).to(memory_format=layout)
        return model, torch.optim.Adam(model.parameters(), lr=0.1 * seed, fused=True)

    def step(model, optimizer):
        optimizer.zero_grad()
        model(torch.arange(75.0).view(1, 3, 5, 5)).square().sum().backward()
        optimizer.step()

    model, optimizer = fresh(1)
    step(model, optimizer)
    tensors, groups = checkpoint.pack_optimizer(optimizer)
    checkpoint.save(tmp_path / "x", tensors, {"groups": groups})
    twin, other = fresh(2)
    twin.load_state_dict(model.state_dict())
    loaded, about = checkpoint.load(tmp_path / "x")
    checkpoint.unpack_optimizer(other, loaded, about["groups"])
    for _ in range(3):
        step(model, optimizer)
        step(twin, other)
    assert torch.equal(model.weight, twin.weight)
