"""README's table of results is that of the results."""

import json
import re

import pytest

from benchmarks import __main__
from benchmarks.commands import readme
from melgpu.errors import InputError
from tests.helpers import ROOT

KEPT = sorted(readme.RESULTS.glob("*.json"))
ABOUT = {"device": "a GPU", "driver": "570.1", "packages": {"torch": "2.11.0"}, "date": "2026-01-02T03:04:05+00:00"}


def test_readme_and_results_are_in_step():
    text, results = (ROOT / "README.md").read_text(), readme.load()
    assert readme.written_anew(text, readme.block(results)) == text, "python -m benchmarks readme"
    assert readme.catalogue(results) == (readme.RESULTS / "README.md").read_text(), "python -m benchmarks readme"


def test_links_lead_to_files_that_are_there():
    for path in (ROOT / "README.md", readme.RESULTS / "README.md"):
        for link in re.findall(r"\]\(([^)#:]+)\)", path.read_text()):
            assert (path.parent / link).exists(), f"{path}: {link}"


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
    other = {"benchmark": "cost", "git_commit": None, "whole_s": [3600.0, 7200.0], "libraries_s": {"1000": 360000.0}}
    for name, result in (("a", tune), ("b", suite), ("c", other)):
        (tmp_path / f"{name}.json").write_text(json.dumps({**ABOUT, **result}))
    results = readme.load(tmp_path)
    made = readme.block(results)
    assert "[b.json](benchmarks/results/b.json): a GPU, driver 570.1; torch 2.11.0, 2026-01-02, commit 0123456" in made
    assert "| decode: 2 processes | 50 | 50 % of x |" in made
    assert "| decode: 1 |" not in made
    assert "| training | 1.5 | 4 | 2.50 (2.00-3.00) |" in made
    assert made.index("b.json") < made.index("a.json")
    assert "c.json" not in made
    assert "| judging 1,000 tracks | 100 |" in readme.catalogue(results)
    assert readme.written_anew(f"above {readme.BEGIN} old {readme.END} below", made) == f"above {made} below"


def test_what_is_no_result_is_refused(tmp_path):
    (tmp_path / "x.json").write_text('{"benchmark": "no such"}')
    with pytest.raises(InputError, match=r"x\.json"):
        readme.load(tmp_path)
    (tmp_path / "x.json").write_text('{"benchmark": "tune", "quick": true}')
    with pytest.raises(InputError, match=r"x\.json: a first look"):
        readme.load(tmp_path)
    with pytest.raises(InputError, match="are missing"):
        readme.written_anew("no comments", "")


def test_readme_is_written_where_it_lies(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(readme, "ROOT", tmp_path)
    monkeypatch.setattr(readme, "RESULTS", tmp_path / "results")
    (tmp_path / "results").mkdir()
    (tmp_path / "README.md").write_text(f"{readme.BEGIN}{readme.END}\n")
    assert __main__.main(["readme"]) == 0
    assert (tmp_path / "README.md").read_text() == readme.block({}) + "\n"
    assert (tmp_path / "results" / "README.md").read_text() == readme.catalogue({})
