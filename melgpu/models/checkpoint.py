"""Save and load, atomically, without pickle.

A checkpoint is one safetensors file: tensors, and one JSON text in its header that says what they are. Loading one
from a stranger runs no code; a damaged or foreign one is refused with the reason.
"""

import hashlib
import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from melgpu import files
from melgpu.errors import InputError, one_line

FORMAT = "melgpu 1"
MAX_METADATA = 2**21  # characters of JSON; a network says 10,000 of itself


class CheckpointError(InputError):
    """A checkpoint that cannot be used; the message names it and the reason."""


def save(path: Path, tensors: dict[str, torch.Tensor], metadata: dict) -> None:
    """Write tensors and what they are (JSON data), whole or not at all. Raises OSError."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(metadata)
    header = {FORMAT: f"{_hash(tensors, text)} {text}"}  # of several keys safetensors shuffles the order
    with files.atomic_write(path) as temporary:
        try:
            save_file(tensors, temporary, header)
        except SafetensorError as error:  # its word for a full disk
            raise OSError(f"{path}: {error}") from None


def load(path: Path) -> tuple[dict[str, torch.Tensor], dict]:
    """The tensors (on the CPU) and what they are. Raises CheckpointError."""
    try:
        files.check_regular_file(path)
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            if FORMAT not in header:
                raise CheckpointError(f"{path}: a safetensors file, but not one of melgpu's")
            written, _, text = header[FORMAT].partition(" ")
            metadata = _parse_metadata(text)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if written != _hash(tensors, text):
                raise ValueError("its content is not what was written")
            return tensors, metadata
    except CheckpointError:
        raise
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError) as error:  # RuntimeError: nested too deeply
        raise CheckpointError(f"{path}: damaged or no checkpoint ({one_line(error)})") from None


def _hash(tensors: dict[str, torch.Tensor], metadata: str) -> str:
    """Of all that a checkpoint holds; finds damage that the file's form does not show."""
    found = hashlib.sha256(metadata.encode())
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return found.hexdigest()


def _parse_metadata(text: str) -> dict:
    if len(text) > MAX_METADATA:
        raise ValueError(f"it says {len(text)} characters of itself")
    metadata = json.loads(text)
    if not isinstance(metadata, dict):
        raise ValueError("what it says of itself is no table")
    return metadata


def load_into(module: torch.nn.Module, tensors: dict[str, torch.Tensor], path: Path, assign: bool = False) -> None:
    """Put tensors into a module. Raises CheckpointError where names, shapes or types differ, or for NaN and infinity.

    With `assign` the module takes the tensors themselves: one on the meta device needs no memory before they fit.
    """
    own, misfit = module.state_dict(), f"{path}: does not fit {type(module).__name__}"
    for name, value in tensors.items():
        if name in own and value.dtype != own[name].dtype:
            raise CheckpointError(f"{misfit} ({name} is of {value.dtype} instead of {own[name].dtype})")
    try:
        module.load_state_dict(tensors, assign=assign)
    except RuntimeError as error:
        raise CheckpointError(f"{misfit} ({one_line(error)})") from None
    for name, value in tensors.items():
        if not value.isfinite().all():
            raise CheckpointError(f"{path}: {name} holds what is no number")


def digest(path: Path) -> str:
    """A short hash of a file's content. Raises OSError."""
    files.check_regular_file(path)
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def pack_optimizer(optimizer: torch.optim.Optimizer) -> tuple[dict[str, torch.Tensor], list[dict]]:
    """An optimizer's state as named tensors, and its parameter groups as JSON data."""
    state = optimizer.state_dict()
    tensors = {f"{index}.{name}": value for index, values in state["state"].items() for name, value in values.items()}
    return tensors, state["param_groups"]


def unpack_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor], groups: list[dict]) -> None:
    """The inverse of `pack_optimizer`; moments take their parameter's memory layout, which fused steps rely on.

    Of the groups only the learning rate is taken: nothing else changes in training. Raises ValueError where tensors
    are not those of Adam over these parameters.
    """
    own = optimizer.state_dict()["param_groups"]
    if [group["params"] for group in groups] != [group["params"] for group in own]:
        raise ValueError("an optimizer of other parameters")
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    if not state.keys() <= {index for group in own for index in group["params"]}:
        raise ValueError("an optimizer of other parameters")
    groups = [{**ours, "lr": theirs["lr"]} for ours, theirs in zip(own, groups, strict=True)]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    for parameter, values in optimizer.state.items():
        shapes = {"step": torch.Size(), "exp_avg": parameter.shape, "exp_avg_sq": parameter.shape}
        if {name: value.shape for name, value in values.items()} != shapes:
            raise ValueError("an optimizer's tensors that are not Adam's")
        for name, value in values.items():
            if value.shape == parameter.shape:
                values[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
