"""The environment of a result: versions, device, driver, commit."""

import os
import platform
import re
import subprocess
from importlib import metadata
from pathlib import Path

PACKAGES = ("torch", "torchaudio", "nnAudio", "timm", "numpy", "lightgbm", "soundfile", "soxr", "scikit-learn")
SPEED_PACKAGES = ("torch", "nnAudio", "timm", "soundfile", "soxr")


def describe(device_name: str) -> dict:
    """The interpreter, the machine, the packages, the commit; JSON data."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": device_name,
        "packages": {name: metadata.version(name) for name in PACKAGES},
        "git_commit": _git_commit(),
    }


def device_name(device) -> str:
    """The product name of a torch device."""
    if device.type == "cuda":
        import torch

        return torch.cuda.get_device_name(device)
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown CPU")


def driver_version(device) -> str:
    """The version of a GPU's driver; empty for a CPU and where it is unknown."""
    path = Path("/proc/driver/nvidia/version")
    return parse_driver_version(path.read_text()) if device.type == "cuda" and path.exists() else ""


def parse_driver_version(text: str) -> str:
    """The version in the text of /proc/driver/nvidia/version; empty if there is none."""
    match = re.search(r"Kernel Module.*?\s(\d+\.\d[\d.]*)", text)  # "for x86_64" may precede it
    return match.group(1) if match else ""


def tuning_signature(device) -> str:
    """One line that identifies what measured speeds depend on: device, cores, driver, versions of packages."""
    parts = [device_name(device), f"{os.cpu_count()} cores"]
    parts += [f"driver {driver_version(device)}"] if driver_version(device) else []
    return ", ".join([*parts, *(f"{name} {metadata.version(name)}" for name in SPEED_PACKAGES)])


def tuning_mismatch(tuned_on: str, device) -> str | None:
    """A note if settings were tuned on another device or with other versions; None if the signature matches."""
    if tuned_on in ("", current := tuning_signature(device)):
        return None
    return f"machine settings were tuned on {tuned_on}; this is {current}: python -m benchmarks tune measures again"


def _git_commit() -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
