"""The command melgpu-export: what it refuses, before it imports torch, and how it chooses network and format."""

import importlib.util
import os
import sys

import pytest

from melgpu.commands import export
from melgpu.errors import InputError
from melgpu.export import exporter
from melgpu.export.metadata import ExportOptions
from tests.helpers import run_script
from tests.helpers.runs import write_run


def call(monkeypatch, *arguments) -> None:
    monkeypatch.setattr(sys, "argv", ["melgpu-export", *map(str, arguments)])
    export.main()


def test_flags_that_do_not_go_together_are_listed_before_torch_is_imported():
    command = "import sys\nfrom melgpu import cli\nfrom melgpu.commands import export\ntry: cli.run(export.main)\n"
    command += "finally: assert 'torch' not in sys.modules"
    process = run_script("-c", command, "--run", "runs/none", "model.onnx", "--format", "pt2", "--int8")
    assert process.returncode == 2
    assert process.stderr == (
        "error: model.onnx: a file of --format pt2 is named *.pt2; for this one give --format onnx\n"
        "error: --int8 goes without --format pt2: only ONNX files have such weights\n2 problems\n"
    )


def test_missing_packages_are_named_with_the_extra(monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxscript" else find_spec(name))
    with pytest.raises(InputError, match=r"needs onnxscript: pip install 'melgpu\[export\]'"):
        call(monkeypatch, "--run", "runs/none", "model.onnx")


def test_the_flags_choose_network_form_and_precision(monkeypatch, tmp_path):
    run = write_run(tmp_path, ("test_efficientnet", "test_resnet"))
    calls = []
    monkeypatch.setattr(exporter, "export_network", lambda run, *others: calls.append(others))
    flags = ["--run", run.folder, "--backbone", "test_resnet", "--audio", "a.mp3", "b.mp3"]
    call(monkeypatch, *flags, "--", tmp_path / "x.onnx")
    call(monkeypatch, tmp_path / "x.pt2", *flags, "--format", "pt2", "--track", "--half")
    job = run.jobs(1)[1]
    audio = ["a.mp3", "b.mp3"]
    assert calls == [
        (job, ExportOptions("onnx", "windows", "float32"), tmp_path / "x.onnx", audio),
        (job, ExportOptions("pt2", "track", "float16"), tmp_path / "x.pt2", audio),
    ]


def test_a_file_that_cannot_be_written_is_refused_before_the_work(monkeypatch, tmp_path):
    notes = tmp_path / "notes"
    notes.touch()
    with pytest.raises(InputError, match="notes is not a folder"):
        call(monkeypatch, "--run", "runs/none", notes / "model.onnx")
    folder = tmp_path / "folder.onnx"
    folder.mkdir()
    with pytest.raises(InputError, match=r"folder\.onnx: a folder; name a file in it"):
        call(monkeypatch, "--run", "runs/none", folder)
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)  # root may write anywhere
    with pytest.raises(InputError, match=r"new/model\.onnx: .* is not writable"):
        call(monkeypatch, "--run", "runs/none", tmp_path / "new" / "model.onnx")
