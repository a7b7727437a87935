"""README's table of results is that of the results."""

import json

import pytest
from conftest import ROOT

from benchmarks import __main__, readme
from melgpu.errors import InputError

KEPT = sorted(readme.RESULTS.glob("*.json"))
ABOUT = {"device": "a GPU", "driver": "570.1", "packages": {"torch": "2.11.0"}, "date": "2026-01-02T03:04:05+00:00"}


def test_readme_and_results_are_in_step():
    text = (ROOT / "README.md").read_text()
    assert readme.written_anew(text, readme.block()) == text, "python -m benchmarks readme"


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.stem)
def test_every_kept_result_says_what_it_was_taken_on(path):
    result = json.loads(path.read_text())
    assert {"benchmark", "schema", "device", "packages", "git_commit", "date"} <= result.keys()
    assert "samples" in json.dumps(result) or result["benchmark"] == "cost"  # which counts with a suite's


def test_a_block_by_hand(tmp_path):
    suite = {
        "benchmark": "suite",
        "git_commit": "0123456789",
        "rows": [
            {
                "stage": "decode",
                "way": "2 processes",
                "windows_per_s": 50.0,
                "limit": "x",
                "limit_windows_per_s": 100.0,
            },
            {"stage": "decode", "way": "1", "windows_per_s": 9.0, "curve": True},
        ],
    }
    tune = {"benchmark": "tune", "git_commit": None, "versus": {"backbone": "resnet50"}}
    tune["versus"] |= {what: {"tuned": [2.0, 6.0], "default": [1.0, 2.0]} for what in ("training", "prediction")}
    for name, result in (("a", suite), ("b", tune)):
        (tmp_path / f"{name}.json").write_text(json.dumps({**ABOUT, **result}))
    made = readme.block(tmp_path)
    assert "[`a`](benchmarks/results/a.json): a GPU, driver 570.1; torch 2.11.0, 2026-01-02, commit 0123456" in made
    assert "| decode: 2 processes | 50 windows/s | 50 % of x |" in made
    assert "| decode: 1 |" not in made
    assert "| training resnet50 from files, tuned against default | 2.50 times as fast (2.00-3.00) |  |" in made
    assert readme.written_anew(f"above {readme.BEGIN} old {readme.END} below", made) == f"above {made} below"


def test_what_is_no_result_is_refused(tmp_path):
    (tmp_path / "x.json").write_text('{"benchmark": "no such"}')
    with pytest.raises(InputError, match=r"x\.json"):
        readme.block(tmp_path)
    with pytest.raises(InputError, match="are missing"):
        readme.written_anew("no comments", "")


def test_readme_is_written_where_it_lies(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(readme, "ROOT", tmp_path)
    (tmp_path / "README.md").write_text(f"{readme.BEGIN}{readme.END}\n")
    assert __main__.main(["readme"]) == 0
    assert (tmp_path / "README.md").read_text() == readme.block() + "\n"
