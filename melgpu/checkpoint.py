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
from melgpu.errors import InputError

FORMAT = "melgpu 1"


class CheckpointError(InputError):
    """A checkpoint that cannot be used; the message names it and the reason."""


def save(path: Path, tensors: dict[str, torch.Tensor], about: dict) -> None:
    """Write tensors and what they are (JSON data), whole or not at all. Raises OSError."""
    header = {"format": FORMAT, "about": json.dumps(about)}
    with files.replacing(path) as temporary:
        try:
            save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, temporary, header)
        except SafetensorError as error:  # its word for a full disk
            raise OSError(f"{path}: {error}") from None


def load(path: Path) -> tuple[dict[str, torch.Tensor], dict]:
    """The tensors (on the CPU) and what they are. Raises CheckpointError."""
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            if header.get("format") != FORMAT:
                raise CheckpointError(f"{path}: a safetensors file, but not one of melgpu's")
            return {name: file.get_tensor(name) for name in file.keys()}, json.loads(header["about"])  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path}: damaged or no checkpoint ({error})") from None


def load_into(module: torch.nn.Module, tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Put tensors into a module. Raises CheckpointError where names or shapes differ."""
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        raise CheckpointError(f"{path}: does not fit {type(module).__name__} ({str(error).splitlines()[-1]})") from None


def digest(path: Path) -> str:
    """A short hash of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def pack_optimizer(optimizer: torch.optim.Optimizer) -> tuple[dict[str, torch.Tensor], list[dict]]:
    """An optimizer's state as named tensors, and its parameter groups as JSON data."""
    state = optimizer.state_dict()
    tensors = {f"{index}.{name}": value for index, values in state["state"].items() for name, value in values.items()}
    return tensors, state["param_groups"]


def unpack_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor], groups: list[dict]) -> None:
    """The inverse of `pack_optimizer`; moments take their parameter's memory layout, which fused steps rely on."""
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            if value.shape == parameter.shape:
                values[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
