import csv
import os
import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from melgpu.audio.quarantine import AudioError
from melgpu.errors import InputError
from melgpu.prediction import tagging
from melgpu.prediction.table import PredictionTable, RunDigests, TableMetadata, file_status, write_table
from melgpu.prediction.tagging import TagWriting
from melgpu.tags import containers
from tests.helpers import write_audio
from tests.helpers.tags import tagged_files


def predict(paths, min_confidence=0.0, errors=None) -> PredictionTable:
    """Predictions of the class Rock with 0.75, or of 0.55 for files whose name begins with `unsure`."""
    confidences = [0.55 if os.path.basename(path).startswith("unsure") else 0.75 for path in paths]
    probs = np.array([[1 - confidence, confidence] for confidence in confidences])
    errors = errors or [None] * len(paths)
    statuses = list(map(file_status, paths))
    return PredictionTable(paths, ["Pop", "Rock"], probs, errors, [1.0] * len(paths), statuses, min_confidence)


@pytest.fixture
def library(tmp_path) -> list[str]:
    """A file of each format, and others that keep their tags."""
    paths = [tagged_files.write_tagged(tmp_path / f"a{suffix}", seconds=0.5) for suffix in tagged_files.SUFFIXES]
    paths.append(tagged_files.write_tagged(tmp_path / "already.mp3", "rock", 0.5))
    paths.append(tagged_files.write_tagged(tmp_path / "unsure.flac", seconds=0.5))
    paths.append(write_audio(tmp_path / "other.wav", 0.5))
    return [*map(str, paths), "https://x.org/a.mp3"]


def state(paths) -> list[tuple[bytes, int, int]]:
    """What a change would change in local files."""
    local_paths = [Path(path) for path in paths if "//" not in path]
    return [(path.read_bytes(), path.stat().st_ino, path.stat().st_mtime_ns) for path in local_paths]


def test_without_confirmation_nothing_is_changed(library, tmp_path, console_output):
    text = console_output(False)
    before = state(library)
    folder_mtime_ns = tmp_path.stat().st_mtime_ns
    assert tagging.write_tags(predict(library, 0.6), TagWriting.SHOW) == []
    assert state(library) == before
    assert tmp_path.stat().st_mtime_ns == folder_mtime_ns
    output = text.getvalue()
    (row,) = [line for line in output.splitlines() if "a.mp3" in line]
    assert re.split(r"\s{2,}", row.strip()) == [library[0], "Old Genre", "Rock", "0.75"]
    assert "5 genre tags to write; nothing was written: --yes writes them" in output
    assert (
        "genre tags that stay: 1 with this genre already, 1 below a confidence of 0.6, 1 of other formats than "
        in output
    )
    assert "1 at URLs" in output


def test_confirmed_labels_are_written_and_the_others_kept(library, console_output):
    text = console_output(False)
    kept = state(library[5:])
    assert tagging.write_tags(predict(library, 0.6), TagWriting.WRITE) == []
    assert [containers.open_tags(path).genres for path in library[:5]] == [["Rock"]] * 5
    assert state(library[5:]) == kept
    assert "5 genre tags written" in text.getvalue()
    before = state(library)
    tagging.write_tags(predict(library, 0.6), TagWriting.WRITE)  # the same again
    assert state(library) == before
    assert "6 with this genre already" in text.getvalue()


def test_the_table_describes_the_files_as_they_are_then(library, tmp_path):
    predictions = predict(library)
    out = tmp_path / "o.csv"
    metadata = TableMetadata(digests=RunDigests(run="r", recipe="x", checkpoints=("a",), stacks=()))
    os.utime(library[0], (1e9, 1e9))
    tagging.write_tags(predictions, TagWriting.WRITE, partial(write_table, out, metadata=metadata))
    with open(out, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    statuses = [file_status(path) for path in library]
    assert [row["size"] for row in rows] == [str(status.size or "") for status in statuses]
    assert [row["mtime"] for row in rows[:-1]] == [status.mtime.isoformat() for status in statuses[:-1]]


def test_a_file_that_cannot_be_written_costs_no_other(library, tmp_path, console_output):
    text = console_output(False)
    os.link(library[1], tmp_path / "linked.flac")
    (tmp_path / "text.mp3").write_text("no music")
    damaged = str(tagged_files.write_tagged(tmp_path / "damaged.ogg", seconds=0.5))
    paths = [str(tmp_path / "text.mp3"), damaged, *library[:5]]
    errors = [None, AudioError(damaged, "damaged", 0.4), *[None] * 5]
    problems = tagging.write_tags(predict(paths, errors=errors), TagWriting.WRITE)
    assert [problem.split(": ")[0] for problem in problems] == [paths[0], library[1]]
    assert "it has 2 names (hard links)" in problems[1]
    assert all(f"error: {problem}" in text.getvalue() for problem in problems)
    assert [containers.open_tags(path).genres[0] for path in library[:5]] == ["Rock", "Old Genre", *["Rock"] * 3]
    assert containers.open_tags(damaged).genres[0] == "Old Genre"


def test_a_full_disk_ends_it(library, monkeypatch):
    def fill(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tagging.edit, "write_genre", fill)
    with pytest.raises(OSError, match="No space left"):
        tagging.write_tags(predict(library), TagWriting.WRITE)


@pytest.mark.parametrize("name", ["1", "10", "017", "(17)", "RX", "((x)", "(1)Rock", "a; b", "unknown", "a  b"])
def test_classes_that_would_be_read_as_other_genres_are_refused(name):
    with pytest.raises(InputError, match="1 of this run's classes, as a genre tag, would be read as other genres"):
        tagging.check_classes(["Rock", name])


def test_classes_that_are_read_as_written_are_accepted():
    tagging.check_classes(["Rock", "Nhạc vàng", "1984", "(live)", "R&B/Soul", "unsure"])


def test_flags():
    assert tagging.requested(None, None) is None
    assert tagging.requested(True, None) is TagWriting.SHOW
    assert tagging.requested(True, True) is TagWriting.WRITE
    with pytest.raises(InputError, match="--yes has the tags written that --write-tags shows: give both"):
        tagging.requested(None, True)
