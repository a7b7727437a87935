"""What a machine with PyTorch, timm and the scientific packages still needs, in the versions of constraints.txt."""

from pathlib import Path

from melgpu.errors import InputError

CONSTRAINTS = Path(__file__).parents[2] / "constraints.txt"
# What an image for deep learning lacks: melgpu's own dependencies, each with what it depends on in turn.
WHEELS = (
    "nnaudio",
    "soundfile",
    "cffi",
    "pycparser",
    "soxr",
    "lightgbm",
    "pydantic",
    "pydantic_core",
    "annotated-types",
    "typing-inspection",
    "typing_extensions",
    "tomli_w",
)


def pinned(constraints: Path = CONSTRAINTS) -> list[str]:
    """`name==version` of each. Raises InputError for one that has no version."""
    lines = [line.strip() for line in constraints.read_text(encoding="utf-8").splitlines()]
    versions = {_normalized(line.split("==")[0]): line for line in lines if "==" in line}
    missing = [name for name in WHEELS if _normalized(name) not in versions]
    if missing:
        raise InputError(f"{constraints}: no version of {', '.join(missing)}")
    return [versions[_normalized(name)] for name in WHEELS]


def _normalized(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")
