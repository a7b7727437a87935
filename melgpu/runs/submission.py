"""The competition's answer file of a test set."""

from collections.abc import Sequence
from pathlib import Path

from melgpu import files


def write_submission(path: Path, ids: Sequence[str], labels: Sequence[str]) -> None:
    """The competition's form: `Id,Genre`, one row a test track, in the order of the test list."""
    files.write_csv(path, ("Id", "Genre"), zip(ids, labels, strict=True))
