"""Compiles the Triton kernels for GPUs that are not there, and prints what each needs as a list of JSON objects.

    TRITON_CACHE_DIR=FOLDER python -m tests.helpers.compile_kernels RECIPE

Constants and divisibility are those of a launch with a recipe's windows. Triton's own ptxas compiles, its cuobjdump and
nvdisasm show the result; no GPU and no CUDA is needed.
"""

import itertools
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia import compiler as nvidia
from triton.compiler import ASTSource

from melgpu.data.windows import to_samples
from melgpu.features import triton_kernels
from melgpu.features.fused import time_resize_matrix
from melgpu.recipe import Recipe, load_recipe

CAPABILITIES = (80, 90, 100, 120)
TOOLS = Path(nvidia.__file__).parent / "bin"
DIVISOR = 16  # Triton compiles pointers and integers that 16 divides to other code


@dataclass(frozen=True)
class Usage:
    """What a compiled kernel needs: of each thread registers and bytes of local memory, of each block shared memory."""

    kernel: str
    capability: int
    aligned: bool
    registers: int
    local_bytes: int
    shared_bytes: int
    global_loads: dict[str, int]  # instructions by width in bits
    divisions: int
    lanes: tuple[int, int]  # of a warp, along bands and along frames or pixels, where the largest load is


def launches(recipe: Recipe) -> Iterator[tuple[triton.JITFunction, dict[str, object]]]:
    """The kernels with the arguments of a recipe's windows; a pointer is the name of its type."""
    mel = recipe.mel
    samples = to_samples(recipe.windows.window_s, recipe.audio.sample_rate)
    num_frames = samples // mel.hop_length + 1
    _, weights = triton_kernels.to_banded(time_resize_matrix(num_frames, mel.image_size))
    yield (
        triton_kernels._cut_frames_kernel,
        {
            **dict.fromkeys(("waves", "taper", "frames"), "*fp32"),
            "num_samples": samples,
            "num_frames": num_frames,
            "hop": mel.hop_length,
            "n_fft": mel.n_fft,
            "FRAMES": triton_kernels.BLOCK_CUT_FRAMES,
            "SAMPLES": triton_kernels.BLOCK_SAMPLES,
        },
    )
    sizes = {"num_frames": num_frames, "num_bands": mel.n_mels, "amin": 1e-10}
    yield (
        triton_kernels._mel_levels_kernel,
        {
            **dict.fromkeys(("first_bin", "num_taps", "peak"), "*i32"),
            **dict.fromkeys(("weights", "levels"), "*fp32"),
            "spectra": "*i64",
            **sizes,
            "num_bins": mel.n_fft // 2 + 1,
            "FRAMES": triton_kernels.BLOCK_FRAMES,
            "BANDS": triton_kernels.BLOCK_BANDS,
        },
    )
    yield (
        triton_kernels._render_kernel,
        {
            **dict.fromkeys(("levels", "peak", "weights", "pictures"), "*fp32"),
            "first_frame": "*i32",
            **sizes,
            "size": mel.image_size,
            "scale": 0.1,
            "TAPS": len(weights),
            "BANDS": triton_kernels.BLOCK_BANDS,
            "PIXELS": triton_kernels.BLOCK_PIXELS,
        },
    )


def compile_for(
    kernel: triton.JITFunction, arguments: dict[str, object], capability: int, aligned: bool
) -> triton.compiler.CompiledKernel:
    signature, constants, attributes = {}, {}, {}
    for position, name in enumerate(kernel.arg_names):
        value = arguments[name]
        if name.isupper():
            signature[name], constants[name] = "constexpr", value
        elif isinstance(value, str):
            signature[name] = value
        else:
            signature[name] = "fp32" if isinstance(value, float) else "i32"
        is_divisible = aligned if isinstance(value, str) else isinstance(value, int) and value % DIVISOR == 0
        if is_divisible and not name.isupper():
            attributes[(position,)] = [["tt.divisibility", DIVISOR]]
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attributes)
    return triton.compile(source, target=GPUTarget("cuda", capability, 32))


def run_tool(name: str, *arguments: str) -> str:
    return subprocess.run([TOOLS / name, *arguments], check=True, capture_output=True, text=True).stdout


def usage(compiled: triton.compiler.CompiledKernel, **launch: object) -> Usage:
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernel.cubin"
        cubin.write_bytes(compiled.asm["cubin"])
        resources = run_tool("cuobjdump", "--dump-resource-usage", str(cubin))
        sass = run_tool("nvdisasm", "--print-code", str(cubin))
    needs = dict(re.findall(r"(REG|STACK|LOCAL):(\d+)", resources))
    loads: dict[str, int] = {}
    for width in re.findall(r"\bLDG\.E(?:\.(64|128))?", sass):
        loads[width or "32"] = loads.get(width or "32", 0) + 1
    return Usage(
        **launch,
        registers=int(needs["REG"]),
        local_bytes=int(needs["STACK"]) + int(needs["LOCAL"]),
        shared_bytes=compiled.metadata.shared,
        global_loads=loads,
        divisions=len(re.findall(r"\bdiv\.", compiled.asm["ptx"])),
        lanes=load_lanes(compiled.asm["ttgir"]),
    )


def load_lanes(ttgir: str) -> tuple[int, int]:
    """How the lanes of a warp are spread over the two axes of the largest load's block."""
    loads = re.findall(r"tt\.load .*: tensor<(\d+)x(\d+)x!tt\.ptr<\w+>, (#\w+)>", ttgir)
    layout = max(loads, key=lambda load: int(load[0]) * int(load[1]))[2]
    lanes = re.search(rf"{layout} = .*threadsPerWarp = \[(\d+), (\d+)\]", ttgir)
    assert lanes
    return int(lanes[1]), int(lanes[2])


def main(recipe: Recipe) -> None:
    usages = []
    for capability, aligned in itertools.product(CAPABILITIES, (True, False)):
        for kernel, arguments in launches(recipe):
            compiled = compile_for(kernel, arguments, capability, aligned)
            usages.append(usage(compiled, kernel=kernel.__name__, capability=capability, aligned=aligned))
    print(json.dumps([asdict(needs) for needs in usages]))


if __name__ == "__main__":
    main(load_recipe([sys.argv[1]]))
