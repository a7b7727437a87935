"""Shared fixtures: a small corpus, audio files, a small recipe, an untrained run, a console."""

import io
import os
from pathlib import Path

import numpy as np
import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # before any kernel is defined

from hypothesis import settings
from rich.console import Console

from melgpu import console
from melgpu.data import manifest_builder
from melgpu.data.lists.sources import SourceList
from melgpu.data.manifest import Split
from melgpu.demo import synthesizer
from melgpu.demo.corpus import FORMATS
from melgpu.demo.corpus import write_audio as write_track
from melgpu.recipe import Recipe, load_recipe
from melgpu.runs import run
from melgpu.runs.folder import create_run
from tests.helpers import SMALL, run_script, write_audio, write_list
from tests.helpers.training import write_imagenet_weights

# No test asserts a time: an example may take long on a busy machine.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")

CPU = torch.device("cpu")


def pytest_collection_modifyitems(items):
    for item in items:
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(scope="session")
def corpus(tmp_path_factory) -> Path:
    """Three classes of the demo corpus: 18 training tracks, 6 public and 3 private test tracks, all labelled."""
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "audio").mkdir()
    for split, per_class in (("train", 6), ("test", 2), ("private", 1)):
        rows = [("filename", "label")]
        for i in range(3 * per_class):
            label = ("aria", "breakbeat", "waltz")[i % 3]
            name = f"{split}{i}.{FORMATS[i % len(FORMATS)]}"
            wave = synthesizer.compose(label, np.random.default_rng([len(split), i]))
            write_track(folder / "audio" / name, wave, 22_050, stereo=bool(i % 2))
            rows.append((name, label))
        write_list(folder / f"{split}.csv", rows)
    return folder


@pytest.fixture(scope="session")
def imagenet_weights(tmp_path_factory) -> Path:
    """A folder for `backbone.weights_dir`, with tf_efficientnet_lite0's weights as timm publishes them."""
    folder = tmp_path_factory.mktemp("weights")
    write_imagenet_weights(folder / "tf_efficientnet_lite0.in1k.safetensors")
    return folder


@pytest.fixture(scope="session")
def small_recipe() -> Recipe:
    """The demo recipe with the overrides of SMALL."""
    return load_recipe(["demo"], SMALL)


@pytest.fixture(scope="session")
def short_music(tmp_path_factory) -> Path:
    """A folder of three files of 18 s, the track length of the demo recipe."""
    folder = tmp_path_factory.mktemp("music")
    for i in range(3):
        write_audio(folder / f"{i}.ogg", 18, 44_100, 2, seed=i)
    return folder


@pytest.fixture(scope="session")
def trained_run(corpus, tmp_path_factory) -> Path:
    """The folder of a run of one round: two small networks, trained for an epoch, and stacked."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    rounds = "rounds=[{backbones=['resnet10t', 'test_efficientnet'], folds=[0], blend={cnn=1.0}}]"
    # So many epochs that the stackers' probabilities differ from file to file.
    rates = "{lr=0.01, max_lr={cnn=0.04, skip_cnn=0.04}}"
    stacking = ["stacking.max_epochs=40", f"stacking.pretrain={rates}", f"stacking.finetune={rates}"]
    overrides = [*SMALL, rounds, *stacking, "optim.precision='float32'"]
    flags = [part for override in overrides for part in ("--set", override)]
    sources = ["--data", corpus, "--labels", corpus / "train.csv"]
    calls = [run_script("train.py", "--run", folder, "--recipe", "demo", *flags, *sources)]
    calls += [run_script(script, "--run", folder) for script in ("predict.py", "stack.py")]
    for process in calls:
        assert process.returncode == 0, process.stderr + process.stdout
    return folder


@pytest.fixture
def quick_roofline(monkeypatch) -> None:
    """Roofline measurements with sizes so small that they take no time (their results are meaningless)."""
    from benchmarks import roofline

    monkeypatch.setitem(roofline.MATRIX_SIZES, "cpu", (256,))
    monkeypatch.setitem(roofline.COPY_BYTES, "cpu", 2**20)


@pytest.fixture
def made(tmp_path, small_recipe) -> run.Run:
    """A new run: 12 training tracks of two classes, 2 public test tracks, all files empty."""
    labels = ["a", "b"] * 6
    train = SourceList(
        [f"{i}.wav" for i in range(12)], [str(tmp_path / f"{i}.wav") for i in range(12)], labels, [""] * 12, [""] * 12
    )
    test_paths = [str(tmp_path / "x.wav"), str(tmp_path / "y.wav")]
    tests = SourceList(["x.wav", "y.wav"], test_paths, ["", ""], ["", ""], ["", ""])
    for path in (*train.paths, *tests.paths):
        Path(path).touch()
    return create_run(
        tmp_path / "run", small_recipe, manifest_builder.build({Split.TRAIN: train, Split.PUBLIC: tests}, 3, 8), CPU
    )


@pytest.fixture
def console_output(monkeypatch):
    """Replaces the console by one of 100 columns, a terminal or not; returns its output."""

    def make(terminal: bool) -> io.StringIO:
        output = io.StringIO()
        monkeypatch.setattr(console, "console", Console(file=output, force_terminal=terminal, width=100))
        return output

    return make
