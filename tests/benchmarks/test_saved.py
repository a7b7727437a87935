"""A suite's file: merged from several calls, written after each row, and what fails costs its row."""

import json

import pytest

from benchmarks.commands import saved, suite
from benchmarks.commands.saved import SavedSuite
from melgpu.errors import InputError

METADATA = dict.fromkeys(saved.SAME, "x") | {"git_commit": "abc", "date": "today", "schema": 2}


def row(stage: str, way: str, rate: float = 1.0) -> dict:
    return {"stage": stage, "way": way, "windows_per_s": rate}


def fail() -> list[dict]:
    raise RuntimeError("no C compiler\nfound")


def measure(path, stage: str, ways: dict, metadata: dict = METADATA) -> dict:
    result = SavedSuite(path, metadata)
    with result.stage(stage):
        for way, call in ways.items():
            result.add(stage, way, call)
    return json.loads(path.read_text())


def test_what_fails_costs_its_row(tmp_path):
    ways = {"fused": fail, "fft": lambda: [row("features", "fft", 5.0)]}
    result = measure(tmp_path / "x.json", "features", ways)
    assert [measured["way"] for measured in result["rows"]] == ["fft"]
    assert result["failed"] == [{"stage": "features", "way": "fused", "reason": "RuntimeError: no C compiler found"}]


def test_stages_of_several_calls_are_merged(tmp_path):
    path = tmp_path / "x.json"
    measure(path, "features", {"fused": fail, "fft": lambda: [row("features", "fft")]})
    measure(path, "decode", {"1 process": lambda: [row("decode", "1 process")]}, METADATA | {"git_commit": "def"})
    result = measure(path, "features", {"fft": lambda: [row("features", "fft", 7.0)]})
    rates = {(measured["stage"], measured["way"]): measured["windows_per_s"] for measured in result["rows"]}
    assert rates == {("decode", "1 process"): 1.0, ("features", "fft"): 7.0}
    assert result["failed"] == []
    assert {measured["stage"]: measured["git_commit"] for measured in result["rows"]} == {
        "decode": "def",
        "features": "abc",
    }


def test_rows_that_a_stage_has_no_more_are_dropped(tmp_path):
    path = tmp_path / "x.json"
    measure(path, "decode", {"both": lambda: [row("decode", "1 process"), row("decode", "2 processes")]})
    result = measure(path, "decode", {"one": lambda: [row("decode", "1 process", 9.0)]})
    assert [measured["windows_per_s"] for measured in result["rows"]] == [9.0]


def test_a_stage_that_is_cut_off_keeps_its_earlier_rows(tmp_path):
    path = tmp_path / "x.json"
    measure(path, "decode", {"both": lambda: [row("decode", "1 process"), row("decode", "2 processes")]})

    def interrupt():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure(path, "decode", {"one": lambda: [row("decode", "1 process", 9.0)], "two": interrupt})
    rates = {measured["way"]: measured["windows_per_s"] for measured in json.loads(path.read_text())["rows"]}
    assert rates == {"2 processes": 1.0, "1 process": 9.0}


def test_a_result_of_another_machine_is_refused(tmp_path):
    path = tmp_path / "x.json"
    measure(path, "decode", {"one": lambda: [row("decode", "1 process")]})
    with pytest.raises(InputError, match=r"x\.json: measured elsewhere \(device, recipe differ\)"):
        SavedSuite(path, METADATA | {"device": "y", "recipe": "y"})


def test_a_suite_without_any_row_is_an_error(monkeypatch, short_music, tmp_path):
    from benchmarks import __main__

    monkeypatch.setattr(suite, "STAGES", {"decode": lambda bench: iter([("1 process", fail)])})
    with pytest.raises(InputError, match="decode, 1 process: RuntimeError: no C compiler found"):
        __main__.main(["--quick", "--music", str(short_music), "--device", "cpu", "--only", "decode"])
