"""Calls of benchmarks that take seconds."""

import json

from benchmarks import __main__

TINY = "rounds=[{backbones=['resnet10t', 'test_efficientnet'], folds=[0], blend={cnn=1.0}}]"


def run(capsys, *arguments) -> dict:
    """A command's result; its exit code may be 1, as rates of so short a time may exceed their limits."""
    assert __main__.main([*map(str, arguments)]) in (0, 1)
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def flags(folder) -> list:
    """Flags with which a command takes seconds."""
    return ["--quick", "--music", folder, "--set", TINY, "--set", "loader.workers=1", "--device", "cpu"]
