"""The benchmark of exported files starts, and the newest result becomes the table of docs/export.md."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import __main__
from benchmarks.commands import readme
from benchmarks.export import command
from melgpu.export.check import TimedPredictions
from tests.helpers.runs import write_run


def test_all_forms_of_a_network_are_measured_and_compared(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "EXPORTS", command.EXPORTS[::4])
    run = write_run(tmp_path, ("test_efficientnet", "test_resnet"))
    out = tmp_path / "results" / "export.json"
    flags = ["--run", str(run.folder), "--backbone", "test_resnet", "--tracks", "3", "--out", str(out)]
    assert __main__.main(["export", *flags]) == 0
    output = capsys.readouterr().out
    result = json.loads(output.splitlines()[-1])
    assert result == json.loads(out.read_text())
    assert (result["network"], result["num_windows"]) == ("test_resnet", 3)
    assert [row["file"] for row in result["rows"]] == ["PyTorch, float32", "onnx, float32", "pt2, float16"]
    network, exported, half = result["rows"]
    assert (network["max_difference"], network["same_labels"]) == (0, 3)
    assert 0 < exported["max_difference"] < 1e-3
    assert half["bytes"] < 0.9 * exported["bytes"]
    assert all(len(row["samples_windows_per_s"]) == 3 for row in result["rows"])
    results = readme.load(out.parent)
    assert f"| onnx, float32 | {exported['bytes'] / 1e6:.1f} |" in readme.catalogue(results)
    older = {Path("older.json"): {**result, "date": "2000-01-01"}}
    page = readme.export_text(f"above {readme.BEGIN_EXPORT} by hand {readme.END} below", {**results, **older})
    assert page.startswith(f"above {readme.BEGIN_EXPORT}\n\n**A network in PyTorch")
    assert "(../benchmarks/results/export.json)" in page
    assert "older" not in page
    assert page.endswith(f"|\n\n{readme.END} below")


def test_agreement_is_that_of_each_window():
    expected = [TimedPredictions(np.array([[0.6, 0.4]]), 0.5) for _ in range(3)]
    actual = [TimedPredictions(np.array([[first, 1 - first]]), 0.25) for first in (0.6, 0.45, 0.5625)]
    summary = command._summary(actual, expected)
    assert summary["max_difference"] == pytest.approx(0.15)
    assert summary["median_difference"] == pytest.approx(0.0375)
    assert summary["same_labels"] == 2
    assert summary["windows_per_s"] == 4
