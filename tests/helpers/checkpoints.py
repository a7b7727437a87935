"""Checkpoints with any metadata, as an untrusted one may have."""

import json
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from melgpu.models import checkpoint


def write_checkpoint(path: Path, tensors: dict[str, Tensor], metadata: object) -> None:
    """A well-formed checkpoint, with the right hash, of metadata that are not validated."""
    text = json.dumps(metadata)
    save_file(tensors, path, {checkpoint.FORMAT: f"{checkpoint._content_hash(tensors, text)} {text}"})
