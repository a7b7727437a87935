"""Parts that were written by hand, merged: order, formats, what is missing or wrong."""

import csv
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from melgpu.audio.quarantine import AudioError
from melgpu.errors import InputError
from melgpu.prediction.parts import merge
from melgpu.prediction.parts.contract import Contract, agree
from melgpu.prediction.parts.merge import array_indices, merge_parts
from melgpu.prediction.parts.table_reader import read_rows
from melgpu.prediction.table import FileStatus, PredictionTable, RunDigests, TableMetadata, column_names, write_table

CLASSES = ("rock", 'nhạc, "x"\n')
NAMES = column_names(CLASSES)
DIGESTS = RunDigests(run="r", recipe="x", checkpoints=("a", "b"), stacks=("s",))


def contract_of(parts: int, rows: int, part_format: str = "parquet", **changes) -> Contract:
    values = {
        "parts": parts,
        "rows": rows,
        "list_path": "/lists/my list.txt",
        "list_sha256": "0" * 64,
        "run_path": "/runs/mine",
        "digests": DIGESTS,
        "class_names": CLASSES,
        "min_confidence": 0.0,
        "format": part_format,
    }
    return Contract(**(values | changes))


def make_table(rows: list[int]) -> PredictionTable:
    """Predictions of files by their position in a list: each third one with an error, each sixth one unusable."""
    rng = np.random.default_rng(rows)
    paths = [f"/music/{row}\n.mp3" for row in rows]
    errors = [AudioError(f"{row}", "cut", 1.5 if row % 6 else 0.0) if row % 3 == 0 else None for row in rows]
    times = [datetime.fromtimestamp(10**9 + row, UTC) for row in rows]
    statuses = [
        FileStatus(row, time) if row % 2 else FileStatus(None, None) for row, time in zip(rows, times, strict=True)
    ]
    used_s = [None if row % 5 == 0 else row / 8 for row in rows]
    return PredictionTable(paths, CLASSES, rng.random((len(rows), 2), np.float32), errors, used_s, statuses)


def write_parts(folder: Path, contract: Contract, skip: tuple[int, ...] = ()) -> None:
    agree(folder, contract, True)
    for index in range(contract.parts):
        if index not in skip:
            table = make_table(list(range(index, contract.rows, contract.parts)))
            write_table(contract.part_path(folder, index), table, contract.metadata(index))


def rows_of(path: Path) -> list[tuple]:
    return list(read_rows(path, NAMES, 7))


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 9), st.integers(0, 40), st.sampled_from(["parquet", "csv"]), st.sampled_from(["parquet", "csv"]))
def test_every_row_is_there_once_in_the_order_of_the_list(tmp_path_factory, parts, rows, part_format, out_format):
    folder = tmp_path_factory.mktemp("parts")
    contract = contract_of(parts, rows, part_format)
    write_parts(folder, contract)
    out = folder / f"all.{out_format}"
    assert merge_parts(folder, out) == len(range(0, rows, 3))
    merged = rows_of(out)
    assert [row[0] for row in merged] == [f"/music/{row}\n.mp3" for row in range(rows)]
    for index in range(parts):
        part = rows_of(contract.part_path(folder, index))
        if out_format == part_format:
            assert merged[index::parts] == part
        for row, expected in zip(merged[index::parts], part, strict=True):
            assert row[1] == expected[1]
            assert row[-4:] == expected[-4:]
            if expected[1]:
                assert row[2:5] == pytest.approx(expected[2:5], abs=1e-6)


def test_blocks_and_the_memory_for_rows_change_nothing(tmp_path, monkeypatch):
    write_parts(tmp_path, contract_of(3, 50))
    merge_parts(tmp_path, tmp_path / "a.csv")
    monkeypatch.setattr(merge, "BLOCK_ROWS", 7)
    monkeypatch.setattr(merge, "READ_ROWS", 1)
    merge_parts(tmp_path, tmp_path / "b.csv")
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()


def test_a_merged_table_says_what_it_was_made_from(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    contract = contract_of(2, 5)
    write_parts(tmp_path, contract)
    merge_parts(tmp_path, tmp_path / "a.parquet")
    metadata = TableMetadata.model_validate_json(parquet.read_schema(tmp_path / "a.parquet").metadata[b"melgpu"])
    assert metadata == TableMetadata(digests=DIGESTS, list_sha256="0" * 64, parts=2)


def test_missing_parts_are_named_with_their_commands(tmp_path):
    write_parts(tmp_path, contract_of(40, 50, min_confidence=0.25), skip=(0, 3, 4, 5, *range(10, 35)))
    with pytest.raises(InputError) as error:
        merge_parts(tmp_path, tmp_path / "a.csv")
    first, *_, more, array = error.value.problems
    assert first == (
        "part 0 of 40 is missing: python predict.py --run /runs/mine --list '/lists/my list.txt' --part 0/40 "
        f"--out {tmp_path} --min-confidence 0.25"
    )
    assert more == "9 more parts are missing"
    assert array == "the missing parts as indices of an array: --array=0,3-5,10-34"
    assert len(error.value.problems) == merge.MAX_NAMED + 2
    assert not (tmp_path / "a.csv").exists()


def test_indices_of_an_array():
    assert array_indices([0, 1, 2, 5, 7, 8]) == "0-2,5,7-8"
    assert array_indices([9]) == "9"


@pytest.mark.parametrize("part_format", ["parquet", "csv"])
def test_parts_of_another_length_are_refused(tmp_path, part_format):
    contract = contract_of(3, 9, part_format)
    write_parts(tmp_path, contract)
    for rows in ([1, 4], [1, 4, 7, 10]):
        write_table(contract.part_path(tmp_path, 1), make_table(rows), contract.metadata(1))
        with pytest.raises(InputError, match=r"part-00001\.\w+: not 3 rows: delete it, and make it again by python"):
            merge_parts(tmp_path, tmp_path / "a.csv")
        assert not (tmp_path / "a.csv").exists()


def test_parts_of_something_else_are_refused(tmp_path):
    contract = contract_of(3, 9)
    write_parts(tmp_path, contract)
    part = contract.part_path(tmp_path, 1)
    write_table(part, make_table([1, 4, 7]), contract.metadata(2))
    with pytest.raises(InputError, match=r"part-00001\.parquet: not a part of .*parts\.json: delete it"):
        merge_parts(tmp_path, tmp_path / "a.csv")
    part.write_bytes(b"PAR1")
    with pytest.raises(InputError, match=r"part-00001\.parquet: not a table of predictions"):
        merge_parts(tmp_path, tmp_path / "a.csv")
    with pytest.raises(InputError, match=r"no parts\.json there: not a folder of parts"):
        merge_parts(tmp_path / "none", tmp_path / "a.csv")


def test_a_damaged_csv_is_refused(tmp_path):
    contract = contract_of(2, 4, "csv")
    write_parts(tmp_path, contract)
    text = contract.part_path(tmp_path, 0).read_text()
    for damaged in (text.replace("used_s", "used"), text.replace('.mp3"', '.mp3",x'), text[:-30]):
        contract.part_path(tmp_path, 0).write_text(damaged)
        with pytest.raises(InputError, match=r"part-00000\.csv: not (a table of these predictions|2 rows)"):
            merge_parts(tmp_path, tmp_path / "a.csv")


def test_lines_of_json(tmp_path):
    write_parts(tmp_path, contract_of(2, 4))
    merge_parts(tmp_path, tmp_path / "a.jsonl")
    assert len((tmp_path / "a.jsonl").read_text().splitlines()) == 4


def test_another_contract_is_refused(tmp_path):
    agree(tmp_path, contract_of(3, 9), True)
    assert agree(tmp_path, contract_of(3, 9, "csv"), format_given=False).format == "parquet"
    other_digests = DIGESTS.model_copy(update={"checkpoints": ("a", "c")})
    for other, reason in (
        (contract_of(4, 9), "has 3 parts, not 4: name another --out"),
        (contract_of(3, 9, list_sha256="1" * 64), r"has parts of another list \(/lists/my list.txt, 9 rows\)"),
        (contract_of(3, 9, digests=other_digests), "has parts by another run, or by networks that have changed since"),
        (contract_of(3, 9, min_confidence=0.5), "has parts with --min-confidence 0"),
        (contract_of(3, 9, "csv"), "has parts in the format parquet: leave --format out"),
    ):
        with pytest.raises(InputError, match=reason):
            agree(tmp_path, other, True)
    assert agree(tmp_path, contract_of(3, 9, run_path="/moved"), True).run_path == "/runs/mine"
    assert [path.name for path in tmp_path.iterdir()] == ["parts.json"]


def test_csv_parts_have_the_cells_of_the_table(tmp_path):
    contract = contract_of(1, 6, "csv")
    write_parts(tmp_path, contract)
    with open(contract.part_path(tmp_path, 0), newline="", encoding="utf-8") as file:
        assert next(csv.reader(file)) == NAMES
