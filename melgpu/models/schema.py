"""Schemas of JSON data: its types and bounds, validated once when it is read; what is read keeps its validated type.

Values are frozen, numbers finite, and types are never converted; additional keys are ignored.
"""

from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from melgpu import files
from melgpu.errors import InputError, one_line

NonNegative = Annotated[int, Field(ge=0, lt=2**31)]
Count = Annotated[int, Field(ge=1, lt=2**31)]
SchemaT = TypeVar("SchemaT", bound=BaseModel)


class Schema(BaseModel):
    """A JSON object."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore", allow_inf_nan=False)


def read_json(schema: type[SchemaT], path: Path) -> SchemaT:
    """A validated JSON file. Raises InputError."""
    try:
        text = files.read_text(path, max_bytes=2**24)  # 16 MiB, far more than any of a run's JSON files has
        return schema.model_validate_json(text)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: {describe_error(error)}") from None


def describe_error(error: Exception) -> str:
    """The first problem of a ValidationError, with its place, or else the text of an error; one line."""
    if not isinstance(error, ValidationError):
        return one_line(error)
    first = error.errors(include_input=False, include_url=False)[0]  # the input may be as large as the file
    location = ".".join(map(str, first["loc"]))
    reason = first["msg"].removeprefix("Value error, ")  # pydantic's prefix for errors of our validators
    return one_line(ValueError(f"{location}: {reason}" if location else reason))
