"""What a result was made on: versions, device, commit."""

import platform
import subprocess
from importlib import metadata
from pathlib import Path

PACKAGES = ("torch", "torchaudio", "nnAudio", "timm", "numpy", "lightgbm", "soundfile", "soxr", "scikit-learn")


def describe(device_name: str) -> dict:
    """The interpreter, the machine, the packages, the commit; JSON data."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": device_name,
        "packages": {name: metadata.version(name) for name in PACKAGES},
        "git_commit": _git_commit(),
    }


def _git_commit() -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
