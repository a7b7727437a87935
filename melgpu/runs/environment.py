"""The environment of a result: versions, device, driver, commit."""

import contextlib
import platform
import re
import subprocess
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from melgpu.machine import num_usable_cores
from melgpu.models.metadata import Environment

if TYPE_CHECKING:
    import torch

PACKAGES = ("torch", "torchaudio", "nnAudio", "timm", "numpy", "lightgbm", "soundfile", "soxr", "scikit-learn")
# Those that decide how fast decoding, features and networks are.
SPEED_PACKAGES = ("torch", "nnAudio", "timm", "soundfile", "soxr")


def describe(device: "torch.device") -> Environment:
    """The environment of this process, which computes on a device."""
    return Environment(
        python=platform.python_version(),
        platform=platform.platform(),
        device=str(device),
        device_name=device_name(device),
        packages=_installed(PACKAGES),
        git_commit=_git_commit(),
    )


def _installed(names: Iterable[str]) -> dict[str, str]:
    """The versions of those packages that are installed: a training needs no lightgbm."""
    versions = {}
    for name in names:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


def device_name(device: "torch.device") -> str:
    """The product name of a torch device."""
    if device.type == "cuda":
        import torch

        return torch.cuda.get_device_name(device)
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = (line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    return next(names, "unknown CPU")  # one line a core, all the same


def driver_version(device: "torch.device") -> str:
    """The version of a GPU's driver; empty for a CPU and where it is unknown."""
    path = Path("/proc/driver/nvidia/version")
    if device.type != "cuda" or not path.exists():
        return ""
    return parse_driver_version(path.read_text())


def parse_driver_version(text: str) -> str:
    """The version in the text of /proc/driver/nvidia/version; empty if there is none."""
    match = re.search(r"Kernel Module.*?\s(\d+\.\d[\d.]*)", text)  # "for x86_64" may precede it
    return match.group(1) if match else ""


def tuning_signature(device: "torch.device") -> str:
    """One line that identifies what measured speeds depend on: device, cores, driver, versions of packages."""
    parts = [device_name(device), f"{num_usable_cores()} cores"]
    driver = driver_version(device)
    if driver:
        parts.append(f"driver {driver}")
    parts += [f"{name} {version}" for name, version in _installed(SPEED_PACKAGES).items()]
    return ", ".join(parts)


def tuning_mismatch(tuned_on: str, device: "torch.device") -> str | None:
    """A note if settings were tuned on another device or with other versions; None if the signature matches."""
    current = tuning_signature(device)
    if tuned_on in ("", current):  # empty: never tuned
        return None
    return f"machine settings were tuned on {tuned_on}; this is {current}: python -m benchmarks tune measures again"


def _git_commit() -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):  # no git, or not a checkout
        return None
