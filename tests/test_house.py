"""Third-party packages have one home, and decoding processes start without torch."""

import ast

import pytest

from tests.helpers import ROOT, call

HOMES = {
    "nnAudio": {"log_mel"},
    "torchaudio": {"augment", "log_mel"},
    "triton": {"triton_kernels"},
    "timm": {"classifier"},
    "safetensors": {"checkpoint"},
    "lightgbm": {"trees"},
    "rich": {"console", "music", "tables"},
    "jinja2": {"page"},
    "matplotlib": {"chart", "log_mel", "figures"},
    "pydantic": {"recipe", "schema"},
    "soundfile": {"decode", "corpus", "mistakes"},
    "soxr": {"decode", "corpus", "mistakes"},
    "av": {"pyav"},
    "fsspec": {"remote"},
    "sklearn": {"manifest"},
}
PATHS = sorted((ROOT / "melgpu").rglob("*.py"))


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


@pytest.mark.parametrize("package", HOMES)
def test_packages_have_one_home(package):
    users = {p.stem for p in PATHS if any(i.split(".")[0] == package for i in imports(p))}
    assert users == HOMES[package]


def test_decoding_processes_do_not_import_torch():
    result = call("-c", "import sys, melgpu.audio.worker; sys.exit('torch' in sys.modules)")
    assert result.returncode == 0, result.stderr
