from importlib import metadata

import torch

from melgpu import environment


def test_it_names_the_packages_the_device_and_the_commit():
    found = environment.describe("cuda:1")
    assert found["device"] == "cuda:1"
    assert found["packages"]["torch"] == metadata.version("torch")
    assert found["git_commit"] is None or len(found["git_commit"]) == 40


def test_a_stamp_names_what_speeds_depend_on():
    device = torch.device("cpu")
    stamp = environment.stamp(device)
    assert stamp.startswith(environment.device_name(device))
    assert f"torch {metadata.version('torch')}" in stamp
    assert environment.driver(device) == ""


def test_settings_tuned_elsewhere_are_told():
    device = torch.device("cpu")
    assert environment.moved("", device) is None
    assert environment.moved(environment.stamp(device), device) is None
    assert "were tuned on a GPU of last year; this is" in environment.moved("a GPU of last year", device)
