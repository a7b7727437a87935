"""Import layers, one home for each third-party package, torch-free worker processes, small folders."""

import itertools
import re
import sys
import tomllib

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


def test_tests_for_a_gpu_import_only_what_trainings_need_at_the_top():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    optional = itertools.chain(*project["optional-dependencies"].values())
    lacking = {re.match(r"[\w-]+", requirement)[0] for requirement in optional} - {"melgpu", "pytest", "hypothesis"}
    for path in (ROOT / "tests").rglob("test_*.py"):
        text = path.read_text()
        if "pytest.mark.gpu" not in text or path.samefile(__file__):
            continue
        imported = set(re.findall(r"^(?:import|from) (\w+)", text, re.MULTILINE))
        assert not imported & lacking, path


def test_worker_processes_do_not_import_torch():
    result = run_script("-c", "import sys, melgpu.audio.worker; sys.exit('torch' in sys.modules)")
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: str(folder.relative_to(ROOT)))
def test_folders_stay_small(folder):
    assert len(list(folder.glob("*.py"))) <= MAX_FILES
