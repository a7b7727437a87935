"""The submission file of a test set."""

from collections.abc import Sequence
from pathlib import Path

from melgpu import files


def write_submission(path: Path, ids: Sequence[str], labels: Sequence[str]) -> None:
    """Write the competition's format: `Id,Genre`, one row for each test track, in the order of the test list."""
    files.write_csv(path, ("Id", "Genre"), zip(ids, labels, strict=True))
