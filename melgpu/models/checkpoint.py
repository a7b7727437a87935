"""Save and load checkpoints, atomically, without pickle.

A checkpoint is one safetensors file: tensors, and the metadata (JSON data) with a hash of both in its header. Loading
an untrusted one runs no code; a damaged one, or one not written by melgpu, is rejected with the reason.
"""

import hashlib
import itertools
import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from melgpu import files
from melgpu.errors import InputError, one_line

FORMAT = "melgpu 2"
MAX_METADATA_CHARS = 2**21  # of JSON; a network has 10,000, and a file of unknown origin shall not cost more to parse


class CheckpointError(InputError):
    """A checkpoint that cannot be used; the message names it and the reason."""


def save(path: Path, tensors: dict[str, torch.Tensor], metadata: dict) -> None:
    """Write tensors and metadata (JSON data) atomically. Raises OSError."""
    # safetensors rejects the strides of weights that are channels-last.
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(metadata)
    # One key: safetensors shuffles the order of several, so that equal content would give unequal files and digests.
    header = {FORMAT: f"{_content_hash(tensors, text)} {text}"}
    with files.atomic_write(path) as temporary:
        try:
            save_file(tensors, temporary, header)
        except SafetensorError as error:  # also for a full disk
            raise OSError(f"{path}: {error}") from None


def load(path: Path) -> tuple[dict[str, torch.Tensor], dict]:
    """The tensors (on the CPU) and the metadata. Raises CheckpointError."""
    try:
        files.check_regular_file(path)
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            if FORMAT not in header:
                raise CheckpointError(f"{path}: a safetensors file, but not of format {FORMAT!r}")
            expected_hash, _, text = header[FORMAT].partition(" ")
            metadata = _parse_metadata(text)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if expected_hash != _content_hash(tensors, text):
                raise ValueError("hash mismatch")
            return tensors, metadata
    except CheckpointError:  # a ValueError too, but its message is complete
        raise
    # RuntimeError: deeply nested JSON.
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError) as error:
        raise CheckpointError(f"{path}: damaged or no checkpoint ({one_line(error)})") from None


def _content_hash(tensors: dict[str, torch.Tensor], metadata: str) -> str:
    """SHA-256 of tensors and metadata; detects damage that leaves the file well-formed."""
    sha256 = hashlib.sha256(metadata.encode())
    for name, tensor in sorted(tensors.items()):  # a file has an order of its own
        sha256.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        flat = tensor.reshape(-1)  # a tensor without axes cannot be viewed as bytes
        sha256.update(flat.view(torch.uint8).numpy())
    return sha256.hexdigest()


def _parse_metadata(text: str) -> dict:
    if len(text) > MAX_METADATA_CHARS:
        raise ValueError(f"metadata of {len(text)} characters")
    metadata = json.loads(text)
    if not isinstance(metadata, dict):
        raise ValueError("metadata is not a JSON object")
    return metadata


def load_into(module: torch.nn.Module, tensors: dict[str, torch.Tensor], path: Path, assign: bool = False) -> None:
    """Load a state dict into a module. Raises CheckpointError where names, shapes or types differ, or for NaN and inf.

    With `assign` the module takes the tensors themselves: on the meta device it needs no memory before the check.
    """
    module_state = module.state_dict()
    misfit = f"{path}: does not fit {type(module).__name__}"
    # load_state_dict checks names and shapes, but would convert types silently.
    for name, value in tensors.items():
        if name in module_state and value.dtype != module_state[name].dtype:
            raise CheckpointError(f"{misfit} ({name} is of {value.dtype} instead of {module_state[name].dtype})")
    try:
        module.load_state_dict(tensors, assign=assign)
    except RuntimeError as error:
        raise CheckpointError(f"{misfit} ({one_line(error)})") from None
    for name, value in tensors.items():
        if not value.isfinite().all():
            raise CheckpointError(f"{path}: {name} contains NaN or infinity")


def digest(path: Path) -> str:
    """A short hash of a file's content. Raises OSError."""
    files.check_regular_file(path)
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def pack_optimizer(optimizer: torch.optim.Optimizer) -> tuple[dict[str, torch.Tensor], list[dict]]:
    """An optimizer's state as named tensors, and its parameter groups as JSON data."""
    state = optimizer.state_dict()
    tensors = {}
    for index, values in state["state"].items():
        for name, value in values.items():
            tensors[f"{index}.{name}"] = value
    return tensors, state["param_groups"]


def unpack_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor], groups: list[dict]) -> None:
    """The inverse of `pack_optimizer`; moments take their parameter's memory layout, which fused steps rely on.

    Of the groups only the learning rate is restored: nothing else changes in training. Raises ValueError where the
    state is not that of Adam over these parameters.
    """
    current_groups = optimizer.state_dict()["param_groups"]
    saved_indices = [group["params"] for group in groups]
    current_indices = [group["params"] for group in current_groups]
    if saved_indices != current_indices:
        raise ValueError("an optimizer state of other parameters")
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    # Parameters without a gradient so far have no state, so it may be a subset.
    if not state.keys() <= set(itertools.chain.from_iterable(current_indices)):
        raise ValueError("an optimizer state of other parameters")
    groups = [{**current, "lr": saved["lr"]} for current, saved in zip(current_groups, groups, strict=True)]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    for parameter, values in optimizer.state.items():
        # Checked after loading: only now are the states assigned to their parameters.
        shapes = {"step": torch.Size(), "exp_avg": parameter.shape, "exp_avg_sq": parameter.shape}
        loaded_shapes = {name: value.shape for name, value in values.items()}
        if loaded_shapes != shapes:
            raise ValueError("an optimizer state that is not Adam's")
        # A file has no memory layout: moments come back contiguous. Beside channels-last weights fused Adam would pair
        # the wrong elements silently.
        for name, value in values.items():
            if value.shape == parameter.shape:
                values[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
