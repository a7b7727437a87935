"""The house: modules import from lower floors only, and third-party packages have one home."""

import ast

import pytest

from tests.helpers import ROOT, call

FLOORS = [
    {"clock", "environment", "errors", "files", "kernels"},
    {"tables", "records"},
    {"recipe", "metrics", "arrays", "checkpoint", "quarantine", "times", "container", "ranks", "remote", "cli"},
    {
        "predictions",
        "judged",
        "pseudo",
        "cnns",
        "trees",
        "journal",
        "listing",
        "claims",
        "windows",
        "features",
        "augment",
        "decode",
        "fingerprint",
        "song",
    },
    {"manifest", "backbone", "worker", "parity"},
    {"pool"},
    {"bank", "survey"},
    {"batch"},
    {"stream"},
    {"inference", "optimizer", "targets", "timeline"},
    {"training", "stacking"},
    {"report", "chart", "run"},
    {"preflight", "ensemble", "jury", "keeping", "demo", "plan", "figures", "findings"},
    {"listening", "mistakes", "spent"},
    {"verdicts"},
    {"page"},
]
HOMES = {
    "nnAudio": {"features"},
    "torchaudio": {"augment", "features"},
    "triton": {"kernels"},
    "timm": {"backbone"},
    "safetensors": {"checkpoint"},
    "lightgbm": {"trees"},
    "rich": {"report"},
    "jinja2": {"page"},
    "matplotlib": {"chart", "features", "figures"},
    "pydantic": {"recipe", "claims"},
    "soundfile": {"decode", "demo", "mistakes"},
    "soxr": {"decode", "demo", "mistakes"},
    "av": {"container"},
    "fsspec": {"remote"},
    "sklearn": {"manifest"},
}
MODULES = sorted(path.stem for path in (ROOT / "melgpu").glob("*.py") if path.stem != "__init__")


def imports(path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "melgpu":
            found |= {f"melgpu.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module)
    return found


def floor(module: str) -> int:
    return next(number for number, modules in enumerate(FLOORS) if module in modules)


def test_every_module_has_a_floor():
    assert sorted(set().union(*FLOORS)) == MODULES


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down(module):
    own = {name.split(".")[1] for name in imports(ROOT / "melgpu" / f"{module}.py") if name.startswith("melgpu.")}
    upward = {other for other in own if floor(other) >= floor(module)}
    assert not upward


@pytest.mark.parametrize("package", HOMES)
def test_packages_have_one_home(package):
    users = {m for m in MODULES if any(i.split(".")[0] == package for i in imports(ROOT / "melgpu" / f"{m}.py"))}
    assert users == HOMES[package]


def test_decoding_processes_do_not_import_torch():
    result = call("-c", "import sys, melgpu.worker; sys.exit('torch' in sys.modules)")
    assert result.returncode == 0, result.stderr
