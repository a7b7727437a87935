"""The example that needs neither melgpu nor torch, in an environment of its own, against predict.py on mp3 files."""

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from melgpu.export import exporter
from melgpu.export.metadata import ExportOptions
from melgpu.runs.run import Run
from tests.helpers import ROOT, run_script, write_audio
from tests.helpers.runs import write_run

PACKAGES = ("onnxruntime", "soundfile", "soxr")


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory) -> Path:
    """Python of an environment with the example's packages alone."""
    folder = tmp_path_factory.mktemp("bare")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin" / "python"
    installed = subprocess.run([python, "-m", "pip", "install", "--quiet", *PACKAGES], capture_output=True, text=True)
    if installed.returncode:
        pytest.skip(f"pip cannot install {', '.join(PACKAGES)}: {installed.stderr.strip()[-300:]}")
    assert subprocess.run([python, "-c", "import torch"], capture_output=True).returncode != 0
    return python


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    return write_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def expected(run, tmp_path_factory) -> dict[Path, dict[str, float]]:
    """Probabilities by predict.py of two mp3 files: one that is repeated, one that is cut."""
    folder = tmp_path_factory.mktemp("music")
    write_audio(folder / "short.mp3", 3.3, 44_100, 2, seed=1)
    write_audio(folder / "long.mp3", 9, 48_000, 1, seed=2)
    out = folder / "genres.csv"
    process = run_script("predict.py", "--run", run.folder, folder, "--out", out, "--device", "cpu")
    assert process.returncode == 0, process.stderr
    with open(out, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {Path(row["path"]): {name: float(row[f"p:{name}"]) for name in run.class_names} for row in rows}


@pytest.fixture(scope="module", params=["windows", "track"])
def model(request, run, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("model") / "model.onnx"
    exporter.export_network(run, run.jobs(1)[0], ExportOptions("onnx", request.param, "float32"), out, [])
    return out


def test_the_example_gives_the_probabilities_of_predict(bare_python, model, expected):
    assert len(expected) == 2
    for path, probabilities in expected.items():
        command = [bare_python, "-I", ROOT / "examples" / "onnx_predict.py", model, path]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        lines = [line.split("  ", 1) for line in output.splitlines()]
        assert {name: float(probability) for probability, name in lines} == pytest.approx(probabilities, abs=1e-3)
        assert lines[0][1] == max(probabilities, key=probabilities.get)


def test_a_call_without_both_files_is_explained(bare_python):
    command = [bare_python, "-I", ROOT / "examples" / "onnx_predict.py", "model.onnx"]
    process = subprocess.run(command, capture_output=True, text=True)
    assert (process.returncode, process.stdout) == (1, "")
    assert "python onnx_predict.py model.onnx song.mp3" in process.stderr


def test_a_file_without_audio_gets_no_class(bare_python, model, tmp_path):
    empty = tmp_path / "empty.wav"
    soundfile.write(empty, np.zeros(0), 44_100)
    command = [bare_python, "-I", ROOT / "examples" / "onnx_predict.py", model, empty]
    process = subprocess.run(command, capture_output=True, text=True)
    assert (process.returncode, process.stdout, process.stderr) == (1, "", f"{empty} contains no audio\n")
