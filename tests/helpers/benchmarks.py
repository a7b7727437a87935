"""Calls of benchmarks that take seconds."""

import json

from benchmarks import __main__

TINY = "rounds=[{backbones=['resnet10t', 'test_efficientnet'], folds=[0], blend={cnn=1.0}}]"


def run(capsys, *given) -> dict:
    """The result that a command ends with; 1 says that a figure of so short a time passed its limit."""
    assert __main__.main([*map(str, given)]) in (0, 1)
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def flags(folder) -> list:
    """Of a command that takes seconds."""
    return ["--quick", "--music", folder, "--set", TINY, "--set", "loader.workers=1", "--device", "cpu"]
