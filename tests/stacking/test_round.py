"""Rounds are stacked, with predictions of networks that there are not."""

import csv
from pathlib import Path

import numpy as np
import pytest

from melgpu.commands import stack
from melgpu.data import manifest
from melgpu.data.sources import SourceList
from melgpu.errors import InputError
from melgpu.runs import run
from melgpu.runs.folder import create_run
from melgpu.stacking import evaluation
from melgpu.stacking.round import stack_round
from tests.helpers.runs import predict


def listing(folder: Path, names: list[str], labels: list[str]) -> SourceList:
    blank = [""] * len(names)
    return SourceList(names, [str(folder / name) for name in names], labels, blank, blank)


@pytest.fixture
def twins(tmp_path, small, monkeypatch) -> run.Run:
    """A run in its first round whose test sets name different files by the same names."""
    names = [f"{number}.wav" for number in range(4)]
    train = listing(tmp_path / "train", [f"t{number}.wav" for number in range(18)], ["a", "b"] * 9)
    tests = {split: listing(tmp_path / split, names, [""] * 4) for split in ("public", "private")}
    for one in (train, *tests.values()):
        for path in map(Path, one.paths):
            path.parent.mkdir(exist_ok=True)
            path.touch()
    made = create_run(tmp_path / "run", small, manifest.build({"train": train, **tests}, 3, 8), "cpu")
    predict(made, 1, monkeypatch)
    return made


def test_test_sets_may_share_names(twins, monkeypatch):
    stack_round(twins, 1)
    predict(twins, 2, monkeypatch)
    stack_round(twins, 2)
    told = evaluation.load(twins.evaluation_path(2))
    for split, path in twins.submissions.items():
        rows = np.flatnonzero(np.array(told.splits) == split)
        expected = [["Id", "Genre"], *([told.ids[row], "ab"[told.final_probs[row].argmax()]] for row in rows)]
        assert list(csv.reader(path.open())) == expected
    first = evaluation.load(twins.evaluation_path(1))
    public = {first.ids[row]: first.final_probs[row].max() for row, s in enumerate(first.splits) if s == "public"}
    chosen = list(csv.DictReader(twins.pseudo_path(1).open()))
    assert chosen
    for one in chosen:
        assert float(one["confidence"]) == pytest.approx(public[one["id"]], abs=1e-6)


def test_what_is_wrong_with_times_or_report_costs_no_result(twins, capsys):
    twins.timings_path.write_text("x")
    stack_round(twins, 1)
    assert twins.is_stacked(1)
    log = twins.job_folder(twins.jobs(1)[0]) / "log.csv"
    log.parent.mkdir(parents=True)
    log.write_text("no log")
    stack.write_report(twins)
    assert "No report" in capsys.readouterr().out
    log.unlink()
    stack.write_report(twins)
    assert twins.report_path.exists()


def test_a_round_that_cannot_be_stacked_yet_shows_the_one_before(twins):
    stack_round(twins, 1)
    with pytest.raises(InputError, match="round 2: no predictions"):
        stack.stack_current_round(twins)
    assert twins.report_path.exists()
