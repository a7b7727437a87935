"""Frozen dataclasses to .npz files, and back: a field is an array. Nothing is pickled.

The annotation of a field says what its array is: `tuple[str, ...]`, or of a StrEnum, is one of texts; a Schema is its
JSON in one text; `Annotated[np.ndarray, Array(kind, axes)]` is one of numbers.
"""

import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar, get_args, get_origin, get_type_hints

import numpy as np

from melgpu import files
from melgpu.errors import InputError
from melgpu.models.schema import describe_error

MAX_COMPRESSION = 200  # ratio of a file; a higher one may be a decompression bomb


@dataclass(frozen=True)
class Array:
    """The kind of an array's dtype, in numpy's letters, and its number of axes; floats are probabilities."""

    kind: str
    axes: int


Flags = Annotated[np.ndarray, Array("b", 1)]
Integers = Annotated[np.ndarray, Array("i", 1)]
ValueT = TypeVar("ValueT")


@dataclass(frozen=True)
class NpzFormat(Generic[ValueT]):
    """The .npz files of a dataclass.

    name, remedy : what such a file is called, and what to do where one is malformed; for messages
    """

    value_type: type[ValueT]
    name: str
    remedy: str

    def save(self, value: ValueT, path: Path) -> None:
        """Write a compressed file atomically."""
        arrays = {name: _to_array(getattr(value, name)) for name in get_type_hints(self.value_type)}
        with files.atomic_write(path) as temporary, open(temporary, "wb") as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]  # none is named allow_pickle

    def load(self, path: Path) -> ValueT:
        """Raises InputError for a malformed file."""
        with self._as_input_errors(path):
            return self.value_type(**_read(path, get_type_hints(self.value_type, include_extras=True)))

    def load_field(self, path: Path, name: str) -> Any:
        """One field, without reading the others. Raises InputError for a malformed file."""
        annotations = get_type_hints(self.value_type, include_extras=True)
        with self._as_input_errors(path):
            return _read(path, {name: annotations[name]})[name]

    @contextmanager
    def _as_input_errors(self, path: Path) -> Iterator[None]:
        try:
            yield
        except PermissionError:
            raise InputError(f"{path}: no permission to read it; {files.CHMOD_HINT}") from None
        except Exception as error:  # zipfile, zlib, numpy and pydantic raise their own
            raise InputError(f"{path}: not {self.name} ({describe_error(error)}); {self.remedy}") from None


def _to_array(value: Any) -> np.ndarray:
    if isinstance(value, np.ndarray):
        return value
    if isinstance(value, tuple):
        return np.array(value, np.str_)
    return np.array(value.model_dump_json())  # a text: an object would need pickle


def _read(path: Path, annotations: Mapping[str, Any]) -> dict[str, Any]:
    """The values of fields, by their annotations. Raises ValueError; zipfile, zlib and numpy raise their own errors."""
    files.check_regular_file(path)
    _check_size(path)
    with np.load(path, allow_pickle=False) as archive:
        return {name: _parse(name, archive[name], annotation) for name, annotation in annotations.items()}


def _check_size(path: Path) -> None:
    """Raise ValueError for a file that may not fit into memory."""
    with zipfile.ZipFile(path) as archive:
        uncompressed_bytes = sum(member.file_size for member in archive.infolist())
    if uncompressed_bytes > MAX_COMPRESSION * path.stat().st_size + 2**24:  # 16 MiB do no harm at any ratio
        raise ValueError(f"compressed more than {MAX_COMPRESSION} times")


def _parse(name: str, array: Any, annotation: Any) -> Any:
    """The value of a field. Raises ValueError for another dtype or number of axes, and for invalid values."""
    expected = _array_type(annotation)
    # Bytes, if it is not stored as .npy.
    if not isinstance(array, np.ndarray) or (array.dtype.kind, array.ndim) != (expected.kind, expected.axes):
        raise ValueError(f"{name} has a wrong dtype or number of axes")
    if get_origin(annotation) is tuple:
        item_type, _ = get_args(annotation)
        return tuple(map(item_type, array.tolist()))
    if expected.axes == 0:
        return annotation.model_validate_json(array.item())
    if expected.kind == "f" and not ((array >= 0) & (array <= 1.001)).all():  # 1 may be exceeded by rounding
        raise ValueError("values that are not probabilities")
    return array


def _array_type(annotation: Any) -> Array:
    if get_origin(annotation) is tuple:
        return Array("U", 1)
    if get_origin(annotation) is Annotated:
        _, array_type = get_args(annotation)
        return array_type
    return Array("U", 0)
