"""The Triton kernels compile for GPUs that are not there, and leave room for several blocks on each multiprocessor."""

import itertools
import json
import os
import subprocess
import sys

import pytest

from tests.helpers import ROOT

LANES = {  # of a warp, along frames and samples, bands and frames, bands (four each) and pixels
    "_cut_frames_kernel": [1, 32],
    "_mel_levels_kernel": [32, 1],
    "_render_kernel": [16, 2],
}
CAPABILITIES = (80, 90, 100, 120)
MAX_SHARED_BYTES = 48 * 1024  # what a block gets without asking the driver for more
MAX_REGISTERS = 128  # of 65,536: at least 4 blocks of 128 threads run on a multiprocessor


@pytest.fixture(scope="module")
def usages(tmp_path_factory) -> list[dict]:
    """The needs of each kernel with the windows of zalo2019, by compute capability and alignment."""
    # A process of its own: in this one the kernels may be those of Triton's interpreter.
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path_factory.mktemp("cache"))
    command = [sys.executable, "-m", "tests.helpers.compile_kernels", "zalo2019"]
    process = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)


def test_the_kernels_compile_for_every_target(usages):
    compiled = {(usage["kernel"], usage["capability"], usage["aligned"]) for usage in usages}
    assert compiled == set(itertools.product(LANES, CAPABILITIES, (True, False)))


def test_nothing_spills(usages):
    assert not any(usage["local_bytes"] for usage in usages)


def test_registers_and_shared_memory_leave_room_for_other_blocks(usages):
    for usage in usages:
        print(usage)  # shown by pytest -s
        assert usage["registers"] <= MAX_REGISTERS
        assert usage["shared_bytes"] < MAX_SHARED_BYTES


def test_neighbouring_lanes_load_what_is_adjacent_in_memory(usages):
    for usage in usages:
        assert usage["lanes"] == LANES[usage["kernel"]] or not usage["aligned"]


def test_nothing_is_divided(usages):
    assert not any(usage["divisions"] for usage in usages)
