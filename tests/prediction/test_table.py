import csv
import json
import os
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from melgpu.audio.quarantine import AudioError
from melgpu.errors import InputError
from melgpu.prediction import table, table_writer
from melgpu.prediction.table import (
    FileStatus,
    PredictionTable,
    RunDigests,
    TableMetadata,
    check_out,
    file_status,
    used_seconds,
)
from tests.helpers import run_script, write_audio

MODIFIED = datetime(2026, 11, 25, 8, 30, 15, tzinfo=UTC)
CLASSES = ["path", 'error, "x"', "nhạc"]
METADATA = TableMetadata(digests=RunDigests(run="r", recipe="x", checkpoints=("a", "b"), stacks=()))
NAMES = ["path", "label", "confidence", "p:path", 'p:error, "x"', "p:nhạc", "error", "used_s", "size", "mtime"]


def make_table(min_confidence: float = 0.0) -> PredictionTable:
    """An intact file, one that is used up to its error, one without usable audio, and a URL."""
    paths = ["album/nhạc số 1.ogg", "cut, short.mp3", "text.mp3", "https://x.org/a.ogg"]
    probs = np.array([[0.1, 0.3, 0.6], [0.8, 0.15, 0.05], [0.4, 0.3, 0.3], [1 / 3, 2 / 3, 0]], np.float32)
    cut = AudioError(paths[1], "decoding failed\nafter 12.3 s", 12.3)
    unusable = AudioError(paths[2], "not readable \udcff", 0.0)
    statuses = [FileStatus(1_000, MODIFIED), FileStatus(2**40, MODIFIED), FileStatus(8, None), FileStatus(None, None)]
    used_s = [18.0, 12.3, 0.0, None]
    return PredictionTable(paths, CLASSES, probs, [None, cut, unusable, None], used_s, statuses, min_confidence)


def write_table(out: Path, predictions: PredictionTable) -> None:
    table.write_table(out, predictions, METADATA)


def read_csv(path: Path) -> list[list[str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def test_a_csv_has_a_row_for_each_file(tmp_path):
    write_table(tmp_path / "o.csv", make_table())
    time = "2026-11-25T08:30:15+00:00"
    assert read_csv(tmp_path / "o.csv") == [
        NAMES,
        ["album/nhạc số 1.ogg", "nhạc", "0.600000", "0.100000", "0.300000", "0.600000", "", "18.000", "1000", time],
        [
            *("cut, short.mp3", "path", "0.800000", "0.800000", "0.150000", "0.050000"),
            *("decoding failed\nafter 12.3 s", "12.300", str(2**40), time),
        ],
        ["text.mp3", "", "", "", "", "", "not readable ?", "0.000", "8", ""],
        ["https://x.org/a.ogg", 'error, "x"', "0.666667", "0.333333", "0.666667", "0.000000", "", "", "", ""],
    ]


def test_lines_of_json_have_the_same_cells(tmp_path):
    write_table(tmp_path / "o.jsonl", make_table())
    text = (tmp_path / "o.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.split("\n")[:-1]]
    assert [list(row) for row in rows] == [NAMES] * 4
    assert "nhạc số 1" in text
    assert list(rows[0].values())[1:] == [
        *("nhạc", 0.6, 0.1, 0.3, 0.6, None),
        *(18.0, 1000, "2026-11-25T08:30:15+00:00"),
    ]
    assert list(rows[2].values())[1:] == [None] * 5 + ["not readable ?", 0.0, 8, None]
    assert list(rows[3].values())[2:] == [0.666667, 0.333333, 0.666667, 0.0, None, None, None, None]


def test_parquet_has_the_same_cells_with_types(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    write_table(tmp_path / "o.parquet", make_table())
    read = parquet.read_table(tmp_path / "o.parquet")
    assert read.column_names == NAMES
    types = [str(field.type) for field in read.schema]
    assert types == ["string"] * 2 + ["float"] * 4 + ["string", "double", "int64", "timestamp[ms, tz=UTC]"]
    assert read.to_pydict() == {name: list(cells) for name, cells in make_table().columns().items()}
    assert read["p:path"].to_pylist() == [np.float32(0.1), np.float32(0.8), None, np.float32(1 / 3)]
    assert TableMetadata.model_validate_json(read.schema.metadata[b"melgpu"]) == METADATA
    assert read["mtime"].to_pylist() == [MODIFIED, MODIFIED, None, None]


@pytest.mark.parametrize(
    ("min_confidence", "labels"),
    [
        (0.0, ["nhạc", "path", None, 'error, "x"']),
        (0.6, ["nhạc", "path", None, 'error, "x"']),
        (0.7, ["unsure", "path", None, "unsure"]),
        (1.0, ["unsure", "unsure", None, "unsure"]),
    ],
)
def test_labels_below_the_minimum_confidence_are_unsure(min_confidence, labels):
    columns = make_table(min_confidence).columns()
    assert columns["label"] == labels
    for name in NAMES[2:6]:
        assert columns[name] == make_table().columns()[name]


@pytest.mark.parametrize("suffix", table.SUFFIXES)
def test_an_earlier_table_may_be_replaced_and_no_other_file(tmp_path, suffix):
    if suffix == ".parquet":
        pyarrow = pytest.importorskip("pyarrow")
        other = pyarrow.table({"path": ["a"], "label": ["b"]})
        pytest.importorskip("pyarrow.parquet").write_table(other, tmp_path / "other.parquet")
    (tmp_path / "other.csv").write_text("path,label,confidence,rock,error,used_s,size,mtime\na.mp3,rock,1,1,,1,1,\n")
    (tmp_path / "other.jsonl").write_text('["path", "label", "confidence", "error", "used_s", "size", "mtime"]\n')
    (tmp_path / f"song{suffix}").write_bytes(b"\xff\xfb\x90" * 500)
    (tmp_path / f"empty{suffix}").touch()
    os.mkfifo(tmp_path / f"pipe{suffix}")
    for name in ("other", "song", "empty", "pipe"):
        with pytest.raises(InputError, match=rf"{name}\{suffix}: not an earlier result of this script, which alone"):
            check_out(tmp_path / f"{name}{suffix}")
    (tmp_path / f"folder{suffix}").mkdir()
    with pytest.raises(InputError, match="a folder; name a file in it"):
        check_out(tmp_path / f"folder{suffix}")
    check_out(tmp_path / f"absent{suffix}")
    out = tmp_path / f"o{suffix.upper()}"
    for _ in range(2):
        write_table(out, make_table())
        check_out(out)
    assert len(list(tmp_path.glob(".*"))) == 0  # no temporary file is left


def test_other_formats_are_refused(tmp_path):
    for name in ("o.txt", "o", ".csv", "o.csv.gz"):
        with pytest.raises(InputError, match=r"give it the suffix of a format: \.csv, \.parquet, \.jsonl"):
            check_out(tmp_path / name)


def test_without_pyarrow_parquet_is_refused_with_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(InputError, match=r"o\.parquet: Parquet files need pyarrow: pip install 'melgpu\[parquet\]'"):
        check_out(tmp_path / "o.parquet")
    check_out(tmp_path / "o.csv")


def test_a_failed_write_leaves_the_earlier_table(tmp_path, monkeypatch):
    for suffix, function in ((".csv", "_csv_text"), (".jsonl", "_json_value")):
        out = tmp_path / f"o{suffix}"
        write_table(out, make_table())
        before = out.read_bytes()
        monkeypatch.setattr(table_writer, function, lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            write_table(out, make_table(0.7))
        assert out.read_bytes() == before


def test_tables_are_utf8_in_any_locale(tmp_path):
    code = (
        "import sys; sys.path.insert(0, '.')\n"
        "from pathlib import Path\n"
        "from tests.prediction.test_table import make_table, write_table\n"
        f"for suffix in ('csv', 'jsonl'): write_table(Path({str(tmp_path)!r}) / f'o.{{suffix}}', make_table())\n"
    )
    process = run_script("-c", code, env={"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"})
    assert process.returncode == 0, process.stderr
    for suffix in ("csv", "jsonl"):
        assert "nhạc số 1" in (tmp_path / f"o.{suffix}").read_text(encoding="utf-8")


def test_the_status_of_files(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"12345")
    os.utime(path, ns=(0, 1_700_000_000_999_999_999))
    assert file_status(str(path)) == FileStatus(5, datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC))
    for name in ("https://x.org/a.mp3", str(tmp_path / "absent"), "a\0b"):
        assert file_status(name) == FileStatus(None, None)


def test_used_seconds(tmp_path):
    path = str(write_audio(tmp_path / "a.flac", 7.5))
    assert used_seconds(path, None, 18.0) == pytest.approx(7.5, abs=0.001)
    assert used_seconds(path, None, 6.0) == 6.0
    assert used_seconds(path, AudioError(path, "cut", 3.2), 18.0) == 3.2
    assert used_seconds(path, AudioError(path, "cut", 30.0), 18.0) == 18.0
    assert used_seconds(path, AudioError(path, "empty", 0.0), 18.0) == 0.0
    for name in ("https://x.org/a.flac", str(tmp_path / "absent.flac"), str(tmp_path / "absent.m4a")):
        assert used_seconds(name, None, 18.0) is None
