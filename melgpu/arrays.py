"""Named arrays in a file (.npz without pickle), held against the form that they must have before one is believed."""

import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from melgpu import files

MOST_TIMES = 200  # larger than the file that holds it compressed

Form = Mapping[str, tuple[str, int]]  # kind of numpy dtype and number of axes, by name


def save(path: Path, data: Mapping[str, np.ndarray]) -> None:
    with files.replacing(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **data)


def load(path: Path, form: Form) -> dict[str, np.ndarray]:
    """A file's arrays. Raises ValueError where one is of another form; zipfile, zlib and numpy raise their own."""
    files.refuse_odd(path)
    with zipfile.ZipFile(path) as members:
        if sum(member.file_size for member in members.infolist()) > MOST_TIMES * path.stat().st_size + 2**24:
            raise ValueError("a small file of huge arrays")
    with np.load(path, allow_pickle=False) as members:
        data = {name: members[name] for name in form}
    for name, (kind, axes) in form.items():
        if not (isinstance(data[name], np.ndarray) and (data[name].dtype.kind, data[name].ndim) == (kind, axes)):
            raise ValueError(f"{name} is of another form")
    return data


def refuse_improbable(probs: np.ndarray) -> None:
    """Raise ValueError where an array holds what is no probability."""
    if not ((probs >= 0) & (probs <= 1.001)).all():
        raise ValueError("what should be probabilities is not")
