"""Imports go down, third-party packages have one home, decoding starts without torch, folders stay small."""

import pytest

from tests.helpers import ROOT, call

MAX_FILES = 14
FOLDERS = sorted({path.parent for top in ("melgpu", "benchmarks", "tests") for path in (ROOT / top).rglob("*.py")})
FREE = {"melgpu", "numpy", "torch"}  # at home everywhere


def test_the_contracts_of_imports_hold():
    result = call("-c", "from importlinter.cli import lint_imports_command; lint_imports_command()", "--no-cache")
    assert result.returncode == 0, result.stdout


def test_every_third_party_package_has_a_home():
    import grimp

    graph = grimp.build_graph("melgpu", include_external_packages=True, cache_dir=None)
    packages = {name for name in graph.modules if graph.is_module_squashed(name)}
    standard = set(__import__("sys").stdlib_module_names)
    homes = (ROOT / "pyproject.toml").read_text()
    assert {name for name in packages - standard - FREE if f'protected_modules = ["{name}"]' not in homes} == set()


def test_decoding_processes_do_not_import_torch():
    result = call("-c", "import sys, melgpu.audio.worker; sys.exit('torch' in sys.modules)")
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: str(folder.relative_to(ROOT)))
def test_folders_stay_small(folder):
    assert len(list(folder.glob("*.py"))) <= MAX_FILES
