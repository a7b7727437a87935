"""Steps `checks` and `tests`: what the kernels need here, the limits of the card, and the tests marked gpu."""

import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from functools import partial
from importlib import metadata
from pathlib import Path

import torch

from benchmarks import bench_features, measurement, roofline
from benchmarks.gpu.setting import Measurement, Setting
from melgpu.errors import InputError
from melgpu.features import parity
from melgpu.machine import num_usable_cores

ROOT = Path(__file__).parents[2]
TEST_TIMEOUT_S = 60  # of one test
TESTS_TIMEOUT_S = 95
OPTIONAL = ("av", "librosa", "lightgbm", "pyarrow", "torchlibrosa", "triton")


def measurements(setting: Setting) -> Iterator[Measurement]:
    """What Triton needs to compile, whether it does, what `auto` is here, and the limits of the card."""
    yield Measurement("driver", partial(_driver, setting.device))
    yield Measurement("C compiler", _c_compiler)
    yield Measurement("load", partial(_load, setting))
    yield Measurement("packages", _missing_packages)
    for engine in bench_features.engines(setting.recipe, setting.device):
        yield Measurement(f"gate, {engine}", partial(_gate, setting, engine))
    yield Measurement("gate, auto", partial(_gate, setting, "auto"))
    yield Measurement("memory bandwidth", partial(_bandwidth, setting))
    yield Measurement("matrix products", partial(_matmul, setting))


def _driver(device: torch.device) -> dict:
    if device.type != "cuda":
        return {"text": f"no GPU; {platform.processor() or platform.machine()}, torch {torch.__version__}"}
    properties = torch.cuda.get_device_properties(device)
    capability = f"sm_{properties.major}{properties.minor}"
    memory = f"{properties.total_memory / 2**30:.0f} GiB"
    versions = f"CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"
    text = f"{properties.name}, {capability}, {memory}, {versions}"
    return {"text": text, "capability": capability, "memory_bytes": properties.total_memory}


def _c_compiler() -> dict:
    """What Triton builds its launcher with."""
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang") or shutil.which("cc")
    header = Path(sysconfig.get_paths()["include"]) / "Python.h"
    if not compiler or not header.exists():
        raise InputError(f"compiler: {compiler or 'none'}; {header}: {'found' if header.exists() else 'missing'}")
    return {"text": f"{Path(compiler).name}, {header.name}"}


def _load(setting: Setting) -> dict:
    load, cores = os.getloadavg()[0], num_usable_cores()
    return {"text": f"{load:.1f} on {cores} cores", "load_average": load, "cores": cores}


def _missing_packages() -> dict:
    installed = {name.lower() for name in metadata.packages_distributions()}
    missing = [name for name in OPTIONAL if name not in installed]
    return {"text": f"not installed: {', '.join(missing) or 'none'}", "missing": missing}


def _gate(setting: Setting, engine: str) -> dict:
    """An engine's errors on the probe; the first call compiles."""
    recipe = measurement.with_value(setting.recipe, "mel.engine", engine)
    started = time.perf_counter()
    front_end = measurement.front_end(recipe, setting.device)
    figures = parity.measure_parity(front_end, recipe.audio.sample_rate, setting.device)
    seconds = time.perf_counter() - started
    parity.check_parity(figures)
    text = f"{figures.engine}: {figures.max_db:.4f} dB, mean {figures.mean_db:.6f} dB; first call after {seconds:.1f} s"
    return {"text": text, "engine": figures.engine, "max_db": figures.max_db, "mean_db": figures.mean_db}


def _bandwidth(setting: Setting) -> dict:
    rate = roofline.copy_bandwidth(setting.device, setting.seconds)
    return {"text": f"{rate / 1e12:.3f} TB/s, read and written", "bytes_per_s": rate}


def _matmul(setting: Setting) -> dict:
    rate = roofline.matmul_flops(setting.device, torch.bfloat16, setting.seconds)
    return {"text": f"{rate / 1e12:.1f} TFLOP/s in bfloat16", "flops": rate}


def gpu_tests(setting: Setting) -> Iterator[Measurement]:
    """The tests marked gpu, in a process of their own."""
    yield Measurement("pytest -m gpu", _run_tests)


def _run_tests() -> dict:
    marked = [path for path in sorted((ROOT / "tests").rglob("test_*.py")) if "mark.gpu" in path.read_text()]
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-rfE", "-p", "no:cacheprovider"]
    command += ["--continue-on-collection-errors"]  # a package that one file imports costs its tests
    command += [f"--timeout={TEST_TIMEOUT_S}", "--tb=short", *(str(path.relative_to(ROOT)) for path in marked)]
    completed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TESTS_TIMEOUT_S)
    *_, summary = completed.stdout.strip().splitlines() or [completed.stderr.strip()[-200:]]
    counts = {word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|skipped|errors?)", summary)}
    failed = re.findall(r"^(?:FAILED|ERROR) (.+)$", completed.stdout, re.MULTILINE)
    print(completed.stdout, completed.stderr, file=sys.stderr, flush=True)  # in the worker's log
    text = "; ".join([summary.strip("= "), *failed])
    return {"text": text, "counts": counts, "failed": failed, "exit_code": completed.returncode}
