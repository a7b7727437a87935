"""The wheel in an environment of its own, which sees this one's packages: nothing heavy is downloaded."""

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig

import pytest

from tests.helpers import QUICK, ROOT, write_labelled_tracks

OVERRIDES = [
    *QUICK,
    "mel.n_fft=1024",
    "mel.n_mels=64",
    "mel.image_size=75",
    "optim.max_epochs=1",
    "backbone.pretrained=false",
    "rounds=[{backbones=['resnet10t'], folds=[0], blend={}}]",
]


@pytest.fixture(scope="module")
def commands(tmp_path_factory) -> str:
    """The folder of the installed commands."""
    folder = tmp_path_factory.mktemp("install")
    source = folder / "source"  # building leaves files beside the sources
    shutil.copytree(ROOT / "melgpu", source / "melgpu", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, source)
    run(sys.executable, "-m", "venv", folder / "venv")
    python = folder / "venv" / "bin" / "python"
    (wheel,) = folder.glob("melgpu-*.whl")
    run(python, "-m", "pip", "install", "--quiet", "--no-deps", wheel)
    script = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = subprocess.run([python, "-c", script], capture_output=True, text=True, check=True).stdout.strip()
    with open(os.path.join(packages, "first.pth"), "w") as file:
        file.write(sysconfig.get_path("purelib"))
    return str(folder / "venv" / "bin")


def run(*command, cwd=None, commands="") -> subprocess.CompletedProcess:
    env = {**os.environ, "PATH": f"{commands}:{os.environ['PATH']}"}
    env.pop("PYTHONPATH", None)
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True, cwd=cwd, env=env)


@pytest.mark.parametrize("name", ["train", "predict", "stack", "export"])
def test_installed_commands_have_their_own_help(commands, tmp_path, name):
    output = run(f"melgpu-{name}", "--help", cwd=tmp_path, commands=commands).stdout
    assert output.startswith(f"usage: melgpu-{name} ")
    assert f"  melgpu-{name} --run runs/mine" in output
    assert f"python {name}.py" not in output
    assert f"-- {name}.py" not in output


def test_one_network_is_trained_and_answers_by_the_commands_that_are_printed(commands, tmp_path):
    labels = write_labelled_tracks(tmp_path)
    overrides = [part for override in OVERRIDES for part in ("--set", override)]
    flags = ["--run", "my runs/a b", "--recipe", "quick", "--labels", labels, "--device", "cpu", *overrides]
    trained = run("melgpu-train", *flags, cwd=tmp_path, commands=commands)
    assert (tmp_path / "my runs" / "a b" / "report.html").exists()
    (line,) = [line for line in trained.stdout.splitlines() if line.startswith("To classify new music: ")]
    command = shlex.split(line.removeprefix("To classify new music: "))
    assert command == ["melgpu-predict", "--run", "my runs/a b", "song.mp3", "folder/"]
    predicted = run(*command[:-2], "0.wav", "--device", "cpu", cwd=tmp_path, commands=commands)
    assert "0.wav" in predicted.stdout
