"""Save and load checkpoints, atomically, without pickle.

A checkpoint is one safetensors file: tensors, and the metadata (JSON) with a hash of both in its header. Loading an
untrusted one runs no code; a damaged one, or one not written by melgpu, is rejected with the reason.
"""

import hashlib
from pathlib import Path
from typing import ClassVar, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from melgpu import files
from melgpu.errors import InputError, one_line
from melgpu.models.schema import Schema, describe_error

FORMAT = "melgpu 6"
MAX_METADATA_CHARS = 2**21  # of JSON; a network has 10,000, and a file of unknown origin shall not cost more to parse


class CheckpointError(InputError):
    """A checkpoint that cannot be used; the message names it and the reason."""


class Metadata(Schema):
    """The metadata of a checkpoint; `kind` names it in messages, `of a network`."""

    kind: ClassVar[str]


MetadataT = TypeVar("MetadataT", bound=Metadata)


def save(path: Path, tensors: dict[str, torch.Tensor], metadata: Metadata) -> None:
    """Write tensors and metadata atomically. Raises OSError."""
    # safetensors rejects the strides of weights that are channels-last.
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = metadata.model_dump_json()
    if len(text) > MAX_METADATA_CHARS:  # it could not be loaded
        raise CheckpointError(f"{path}: metadata of {len(text)} characters; class names are too long")
    # One key: safetensors shuffles the order of several, so that equal content would give unequal files and digests.
    header = {FORMAT: f"{_content_hash(tensors, text)} {text}"}
    with files.atomic_write(path) as temporary:
        try:
            save_file(tensors, temporary, header)
        except SafetensorError as error:  # also for a full disk
            raise OSError(f"{path}: {error}") from None


def load(path: Path, schema: type[MetadataT]) -> tuple[dict[str, torch.Tensor], MetadataT]:
    """The tensors (on the CPU) and the metadata, of the kind that `schema` describes. Raises CheckpointError."""
    try:
        files.check_regular_file(path)
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            if FORMAT not in header:
                raise ValueError(f"not of format {FORMAT!r}")
            expected_hash, _, text = header[FORMAT].partition(" ")
            if len(text) > MAX_METADATA_CHARS:
                raise ValueError(f"metadata of {len(text)} characters")
            metadata = schema.model_validate_json(text)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if expected_hash != _content_hash(tensors, text):
            raise ValueError("hash mismatch")
    except PermissionError:
        raise CheckpointError(f"{path}: no permission to read it; {files.CHMOD_HINT}") from None
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path}: damaged, or no checkpoint {schema.kind} ({describe_error(error)})") from None
    return tensors, metadata


def _content_hash(tensors: dict[str, torch.Tensor], metadata: str) -> str:
    """SHA-256 of tensors and metadata; detects damage that leaves the file well-formed."""
    sha256 = hashlib.sha256(metadata.encode())
    for name, tensor in sorted(tensors.items()):  # a file has an order of its own
        sha256.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        flat = tensor.reshape(-1)  # a tensor without axes cannot be viewed as bytes
        sha256.update(flat.view(torch.uint8).numpy().data)
    return sha256.hexdigest()


def load_into(module: torch.nn.Module, tensors: dict[str, torch.Tensor], path: Path, assign: bool = False) -> None:
    """`load_state_dict` of the tensors of a checkpoint. Raises CheckpointError."""
    try:
        load_state_dict(module, tensors, assign)
    except ValueError as error:
        raise CheckpointError(f"{path}: does not fit {type(module).__name__} ({one_line(error)})") from None


def load_state_dict(module: torch.nn.Module, tensors: dict[str, torch.Tensor], assign: bool = False) -> None:
    """Load a state dict of unknown origin. Raises ValueError where names, shapes or types differ, or for NaN and inf.

    With `assign` the module takes the tensors themselves: on the meta device it needs no memory before the check.
    """
    module_state = module.state_dict()
    for name, value in tensors.items():
        # Of other types it would be converted silently; one that is larger than its memory could take all there is.
        if name in module_state and value.dtype != module_state[name].dtype:
            raise ValueError(f"{name} is of {value.dtype} instead of {module_state[name].dtype}")
        check_dense(name, value)
    try:
        module.load_state_dict(tensors, assign=assign)
    except RuntimeError as error:
        raise ValueError(str(error)) from None
    for name, value in tensors.items():
        if not value.isfinite().all():
            raise ValueError(f"{name} contains NaN or infinity")


def check_dense(name: str, value: torch.Tensor) -> None:
    """Raise ValueError for a tensor that is sparse, or has more elements than memory, as an expanded one."""
    if value.layout != torch.strided or value.numel() * value.element_size() > value.untyped_storage().nbytes():
        raise ValueError(f"{name} is not a dense tensor")


def digest(path: Path) -> str:
    """A short hash of a file's content. Raises OSError."""
    files.check_regular_file(path)
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
