"""New music files to class probabilities: a table, a CSV."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from rich.box import SIMPLE
from rich.markup import escape
from rich.table import Table

from melgpu import files
from melgpu.audio.quarantine import Flaw
from melgpu.audio.remote import is_url
from melgpu.errors import InputError


def answer_table(paths: Sequence[str], probs: np.ndarray, class_names: Sequence[str], lost: Sequence[bool]) -> Table:
    """The three likeliest classes of each file, named from the folder that they share; probs (N, C)."""
    table = Table("file", "likeliest", "second", "third", box=SIMPLE)
    here = [path for path in paths if not is_url(path)]
    shared = os.path.commonpath([Path(path).absolute().parent for path in here]) if here else ""
    for path, own, is_lost in zip(paths, probs, lost, strict=True):
        best = own.argsort()[::-1][:3]
        answers = [f"{escape(class_names[c])} {own[c]:.0%}" for c in best] if not is_lost else ["not readable"]
        table.add_row(escape(path if is_url(path) else os.path.relpath(path, shared)), *answers)
    return table


def refuse_foreign(out: Path) -> None:
    """Raise InputError where `write_answers` would replace anything but what it has written itself."""
    if out.is_dir():
        raise InputError(f"--out {out}: a folder; name a file in it")
    if out.exists():
        with files.read_csv(out, "an earlier result of this script, which alone --out may replace") as (header, _):
            if (header[:1], header[-1:]) != (["file"], ["flaw"]):
                raise ValueError(f"its columns are {', '.join(header)}")


def write_answers(
    out: Path, paths: Sequence[str], probs: np.ndarray, class_names: Sequence[str], flaws: Mapping[str, Flaw]
) -> None:
    """Probabilities of all classes, (N, C), one row a file; empty cells for one that gave nothing."""
    rows = (_answer(path, own, flaws.get(path)) for path, own in zip(paths, probs, strict=True))
    files.write_csv(out, ["file", *class_names, "flaw"], rows)


def _answer(path: str, probs: np.ndarray, flaw: Flaw | None) -> list[str]:
    cells = [""] * len(probs) if flaw and flaw.is_lost else [f"{p:.6f}" for p in probs]
    return [path, *cells, flaw.reason if flaw else ""]
