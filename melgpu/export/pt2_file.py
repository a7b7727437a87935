"""A traced network as a pt2 file, for `torch.export.load`, and its probabilities by that file."""

import io
import warnings
from pathlib import Path

import numpy as np
import torch
from torch.export import ExportedProgram

from melgpu.export.check import Probs
from melgpu.export.metadata import KEY, FileMetadata


def write(program: ExportedProgram, metadata: FileMetadata, path: Path) -> None:
    """Write a traced network; its metadata is the extra file `melgpu.json`."""
    content = io.BytesIO()
    with warnings.catch_warnings(action="ignore"):  # of torch about its own deprecated functions
        torch.export.save(program, content, extra_files={f"{KEY}.json": metadata.to_json()})
    path.write_bytes(content.getbuffer())


def open_file(path: Path) -> Probs:
    """The function from waveforms to probabilities that a file holds. For files of one's own: torch may run code."""
    with open(path, "rb") as file, warnings.catch_warnings(action="ignore"):
        module = torch.export.load(io.BytesIO(file.read())).module()

    def probs(waves: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return module(torch.from_numpy(waves)).numpy()

    return probs
