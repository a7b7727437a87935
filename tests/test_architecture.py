"""Import layers, one home for each third-party package, torch-free worker processes, small folders."""

import sys

import pytest

from tests.helpers import ROOT, run_script

MAX_FILES = 14
FOLDERS = sorted({path.parent for top in ("melgpu", "benchmarks", "tests") for path in (ROOT / top).rglob("*.py")})
UNRESTRICTED = {"melgpu", "numpy", "torch"}  # may be imported everywhere


def test_the_import_contracts_hold():
    result = run_script("-c", "from importlinter.cli import lint_imports_command; lint_imports_command()", "--no-cache")
    assert result.returncode == 0, result.stdout


def test_every_third_party_package_has_a_home():
    import grimp

    graph = grimp.build_graph("melgpu", include_external_packages=True, cache_dir=None)
    packages = {name for name in graph.modules if graph.is_module_squashed(name)}
    third_party = packages - set(sys.stdlib_module_names) - UNRESTRICTED
    pyproject = (ROOT / "pyproject.toml").read_text()
    assert {name for name in third_party if f'protected_modules = ["{name}"]' not in pyproject} == set()


def test_worker_processes_do_not_import_torch():
    result = run_script("-c", "import sys, melgpu.audio.worker; sys.exit('torch' in sys.modules)")
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: str(folder.relative_to(ROOT)))
def test_folders_stay_small(folder):
    assert len(list(folder.glob("*.py"))) <= MAX_FILES
