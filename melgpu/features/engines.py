"""The engine of a front end on a device: `auto` becomes one that has proven itself there.

`auto` is `fft` on a CPU. On a GPU it is the first of `fused`, `fft` and `nnaudio` that compiles, runs and passes the
parity gate on this device. The order is fixed: a choice by measured times would change from run to run.
"""

import subprocess
from dataclasses import dataclass

import torch

from melgpu.errors import InputError, one_line
from melgpu.features.log_mel import LogMel
from melgpu.features.parity import ParityFigures, check_parity, measure_parity
from melgpu.recipe_schema import EngineName

GPU_ENGINES: tuple[EngineName, ...] = ("fused", "fft", "nnaudio")


@dataclass(frozen=True)
class ResolvedEngine:
    """The parity figures of the engine that a front end computes with, and a note for each that failed before it."""

    parity: ParityFigures
    notes: tuple[str, ...] = ()


def resolve_engine(front_end: LogMel, sample_rate: int, device: torch.device) -> ResolvedEngine:
    """Replace a front end's `auto` by the engine for a device. Raises InputError where none passes the parity gate."""
    if front_end.engine != "auto":
        return ResolvedEngine(measure_parity(front_end, sample_rate, device))
    notes: list[str] = []
    for engine in _candidates(front_end, device):
        try:
            return ResolvedEngine(force_engine(front_end, engine, sample_rate, device), tuple(notes))
        except InputError as error:
            notes.append(str(error))
    raise InputError(notes)


def _candidates(front_end: LogMel, device: torch.device) -> list[EngineName]:
    if device.type == "cpu":
        return ["fft"]
    return [engine for engine in GPU_ENGINES if engine != "fused" or front_end.spec.fits_fused]


def force_engine(front_end: LogMel, engine: EngineName, sample_rate: int, device: torch.device) -> ParityFigures:
    """Let a front end compute with an engine. Raises InputError where it does not run or misses the parity gate."""
    front_end.use_engine(engine)
    if front_end.engine_on(device) != engine:
        raise InputError(f"mel.engine {engine} does not run on {device}")
    try:
        figures = measure_parity(front_end, sample_rate, device)
    except Exception as error:  # of Triton, of its compilers, of CUDA: each has its own
        raise InputError(f"mel.engine {engine} does not run on {device}: {_reason(error)}") from error
    check_parity(figures)
    return figures


def _reason(error: Exception) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        return "its launcher does not compile; a C compiler and Python.h are needed"
    return one_line(error)
