from importlib import metadata

import torch

from melgpu.runs import environment

OPEN = """NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.124.06  Release Build  (builder@host)
GCC version:  gcc version 12.3.0
"""
CLOSED = """NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC 2023
GCC version:  gcc version 11.4.0
"""


def test_it_names_the_packages_the_device_and_the_commit():
    found = environment.describe("cuda:1")
    assert found["device"] == "cuda:1"
    assert found["packages"]["torch"] == metadata.version("torch")
    assert found["git_commit"] is None or len(found["git_commit"]) == 40


def test_a_stamp_names_what_speeds_depend_on():
    device = torch.device("cpu")
    stamp = environment.tuning_signature(device)
    assert stamp.startswith(environment.device_name(device))
    assert f"torch {metadata.version('torch')}" in stamp
    assert environment.driver_version(device) == ""


def test_settings_tuned_elsewhere_are_told():
    device = torch.device("cpu")
    assert environment.tuning_mismatch("", device) is None
    assert environment.tuning_mismatch(environment.tuning_signature(device), device) is None
    assert "were tuned on a GPU of last year; this is" in environment.tuning_mismatch("a GPU of last year", device)


def test_both_kinds_of_driver_tell_their_version():
    assert environment.parse_driver_version(OPEN) == "570.124.06"
    assert environment.parse_driver_version(CLOSED) == "535.104.05"
    assert environment.parse_driver_version("GCC version:  gcc version 12.3.0\n") == ""
