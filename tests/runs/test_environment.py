from importlib import metadata

import torch

from melgpu.runs import environment

OPEN_DRIVER = """NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.124.06  Release Build  (builder@host)
GCC version:  gcc version 12.3.0
"""
PROPRIETARY_DRIVER = """NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC 2023
GCC version:  gcc version 11.4.0
"""


def test_describe_has_packages_device_and_commit():
    described = environment.describe(torch.device("cpu"))
    assert described.device == "cpu"
    assert described.device_name == environment.device_name(torch.device("cpu"))
    assert described.packages["torch"] == metadata.version("torch")
    assert described.git_commit is None or len(described.git_commit) == 40


def test_a_package_that_is_not_installed_has_no_version(monkeypatch):
    monkeypatch.setattr(environment, "PACKAGES", ("torch", "no-such-package"))
    assert environment.describe(torch.device("cpu")).packages == {"torch": metadata.version("torch")}


def test_the_tuning_signature_has_device_and_versions():
    device = torch.device("cpu")
    signature = environment.tuning_signature(device)
    assert signature.startswith(environment.device_name(device))
    assert f"torch {metadata.version('torch')}" in signature
    assert environment.driver_version(device) == ""


def test_settings_tuned_elsewhere_give_a_note():
    device = torch.device("cpu")
    assert environment.tuning_mismatch("", device) is None
    assert environment.tuning_mismatch(environment.tuning_signature(device), device) is None
    assert "were tuned on a GPU of last year; this is" in environment.tuning_mismatch("a GPU of last year", device)


def test_the_versions_of_both_kinds_of_driver_are_parsed():
    assert environment.parse_driver_version(OPEN_DRIVER) == "570.124.06"
    assert environment.parse_driver_version(PROPRIETARY_DRIVER) == "535.104.05"
    assert environment.parse_driver_version("GCC version:  gcc version 12.3.0\n") == ""
