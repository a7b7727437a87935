"""TOML tables: reading with limits, `table.key=value` overrides, merging."""

import contextlib
import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

from melgpu import files
from melgpu.errors import InputError, one_line

MAX_KEY_DOTS = 500  # a key of many more parts takes much memory to parse
MAX_BYTES = 2**18  # 256 KiB, of a file
ITEM_NUMBER = re.compile(r"[1-9][0-9]{0,3}")  # of a table in a list


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
    """Merge tables key by key, into `base`; an empty table clears that of `base`.

    Tables of a list have numbers from 1: `rounds.2.blend` is a key of the second, and replaced as a whole. Raises
    InputError for a number that the list does not have.
    """
    for key, value in changes.items():
        present = base.get(key)
        if isinstance(value, dict) and value and isinstance(present, dict):
            merge(present, value)
        elif isinstance(present, list) and _are_tables(present) and _has_numbers(value):
            _change_items(key, present, value)
        else:
            base[key] = value


def _are_tables(items: list) -> bool:
    return bool(items) and all(isinstance(item, dict) for item in items)


def _has_numbers(value: object) -> bool:
    """Whether a value is a table of tables whose keys are numbers."""
    if not isinstance(value, dict) or not value:
        return False
    return all(ITEM_NUMBER.fullmatch(key) and isinstance(item, dict) for key, item in value.items())


def _change_items(name: str, items: list[dict], changes: dict[str, dict]) -> None:
    for number, change in changes.items():
        if int(number) > len(items):
            raise InputError(f"{name}.{number}: {name} has the numbers 1 to {len(items)}")
        items[int(number) - 1] |= change


def numbered(data: dict) -> dict:
    """Tables in which lists of tables are tables by number, as `merge` takes them."""
    tables = dict(data)
    for key, value in data.items():
        if isinstance(value, list) and _are_tables(value):
            tables[key] = {str(number): item for number, item in enumerate(value, start=1)}
    return tables


def flatten(data: dict, prefix: str = "") -> Iterator[tuple[str, object]]:
    """The items of nested tables as (table.key, value)."""
    for key, value in data.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
