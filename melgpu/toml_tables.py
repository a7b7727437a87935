"""TOML tables: reading with limits, `table.key=value` overrides, merging."""

import contextlib
import json
import tomllib
from collections.abc import Iterator
from pathlib import Path

from melgpu import files
from melgpu.errors import InputError, one_line

MAX_KEY_DOTS = 500  # a key of many more parts takes much memory to parse
MAX_BYTES = 2**18  # 256 KiB, of a file


def read(path: Path) -> dict:
    """The tables of a TOML file. Raises InputError."""
    try:
        text = files.read_text(path, max_bytes=MAX_BYTES)
        if any(line.count(".") > MAX_KEY_DOTS for line in text.split("\n")):
            raise ValueError(f"a line with more than {MAX_KEY_DOTS} dots")
        return tomllib.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"recipe {path}: {one_line(error)}") from None


def parse_override(text: str) -> dict:
    """`optim.lr=1e-3` as nested tables; a value that is not TOML is parsed as a string. Raises InputError."""
    path, separator, value = text.partition("=")
    quoted = json.dumps(value.strip(), ensure_ascii=False)
    for candidate in (text, f"{path}= {quoted}"):  # as TOML first: a number is no string
        with contextlib.suppress(tomllib.TOMLDecodeError, RecursionError):
            if separator and path.count(".") < MAX_KEY_DOTS:
                return tomllib.loads(candidate)
    raise InputError(f"--set {text}: expected table.key=value")


def merge(base: dict, changes: dict) -> None:
    """Merge tables key by key, into `base`; an empty table clears that of `base`."""
    for key, value in changes.items():
        if isinstance(value, dict) and value and isinstance(base.get(key), dict):
            merge(base[key], value)
        else:
            base[key] = value


def flatten(data: dict, prefix: str = "") -> Iterator[tuple[str, object]]:
    """The items of nested tables as (table.key, value)."""
    for key, value in data.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
