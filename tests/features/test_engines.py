"""Which engine `auto` becomes; a GPU is imitated by candidates that run on the CPU."""

import subprocess
import sys

import pytest
import torch

from melgpu.errors import InputError
from melgpu.features import engines
from melgpu.features.log_mel import LogMel
from melgpu.recipe import load_recipe

DEMO = load_recipe(["demo"])
RATE = DEMO.audio.sample_rate
CPU = torch.device("cpu")


@pytest.fixture
def as_on_a_gpu(monkeypatch) -> None:
    monkeypatch.setattr(engines, "_candidates", lambda front_end, device: list(engines.GPU_ENGINES))


def make_front_end(**changes) -> LogMel:
    return LogMel(DEMO.mel.changed(**changes), RATE)


def fail_in(monkeypatch, failing: dict[str, Exception]) -> None:
    """Let the spectra of engines raise errors."""
    decibels = LogMel.decibels

    def failing_decibels(front_end, waves, resolution=0):
        if front_end.engine in failing:
            raise failing[front_end.engine]
        return decibels(front_end, waves, resolution)

    monkeypatch.setattr(LogMel, "decibels", failing_decibels)


def test_auto_is_fft_on_a_cpu():
    front_end = make_front_end()
    resolved = engines.resolve_engine(front_end, RATE, CPU)
    assert (front_end.engine, resolved.parity.engine, resolved.notes) == ("fft", "fft", ())


@pytest.mark.usefixtures("as_on_a_gpu")
def test_auto_is_the_first_engine_that_runs(monkeypatch):
    front_end = make_front_end()
    assert engines.resolve_engine(front_end, RATE, CPU).parity.engine == "fused"
    no_compiler = RuntimeError("Failed to find C compiler.\nPlease specify via CC environment variable")
    no_header = subprocess.CalledProcessError(1, ["gcc", "cuda_utils.c"])
    fail_in(monkeypatch, {"fused": no_compiler})
    front_end = make_front_end()
    resolved = engines.resolve_engine(front_end, RATE, CPU)
    assert (front_end.engine, resolved.parity.engine) == ("fft", "fft")
    assert resolved.notes == (
        "mel.engine fused does not run on cpu: Failed to find C compiler. Please specify via CC environment variable",
    )
    fail_in(monkeypatch, {"fused": no_header, "fft": torch.OutOfMemoryError("CUDA out of memory")})
    resolved = engines.resolve_engine(make_front_end(), RATE, CPU)
    assert resolved.parity.engine == "nnaudio"
    assert [note.split(": ")[1] for note in resolved.notes] == [
        "its launcher does not compile; a C compiler and Python.h are needed",
        "CUDA out of memory",
    ]


@pytest.mark.usefixtures("as_on_a_gpu")
def test_an_engine_that_misses_the_gate_is_passed_over(monkeypatch):
    decibels = LogMel.decibels

    def inexact(front_end, waves, resolution=0):
        return decibels(front_end, waves, resolution) + (0.2 if front_end.engine == "fused" else 0)

    monkeypatch.setattr(LogMel, "decibels", inexact)
    resolved = engines.resolve_engine(make_front_end(), RATE, CPU)
    assert resolved.parity.engine == "fft"
    assert "misses the parity gate on cpu: engine fused has an error of up to 0.200 dB" in resolved.notes[0]


@pytest.mark.usefixtures("as_on_a_gpu")
def test_no_engine_at_all_is_an_error_with_every_reason(monkeypatch):
    fail_in(monkeypatch, {engine: RuntimeError(f"no {engine}") for engine in engines.GPU_ENGINES})
    with pytest.raises(InputError) as raised:
        engines.resolve_engine(make_front_end(), RATE, CPU)
    assert [problem.rpartition(" ")[2] for problem in raised.value.problems] == ["fused", "fft", "nnaudio"]


def test_fused_is_no_candidate_for_pictures_that_it_cannot_draw():
    gpu = torch.device("cuda")
    assert engines._candidates(make_front_end(), gpu) == ["fused", "fft", "nnaudio"]
    for changes in ({"channels": "mfcc"}, {"range": "window"}):
        assert engines._candidates(make_front_end(**changes), gpu) == ["fft", "nnaudio"]


def test_a_chosen_engine_is_not_replaced(monkeypatch):
    fail_in(monkeypatch, {"nnaudio": RuntimeError("no convolution")})
    with pytest.raises(RuntimeError, match="no convolution"):
        engines.resolve_engine(make_front_end(engine="nnaudio"), RATE, CPU)


def test_a_forced_engine_runs_or_is_refused(monkeypatch):
    front_end = make_front_end()
    for engine in engines.GPU_ENGINES:
        assert engines.force_engine(front_end, engine, RATE, CPU).engine == engine
        assert front_end.engine_on(CPU) == engine
    with pytest.raises(InputError, match="grey pictures of fixed range only, not viridis"):
        engines.force_engine(make_front_end(channels="viridis"), "fused", RATE, CPU)
    monkeypatch.setattr("melgpu.features.triton_kernels.INTERPRETED", False)
    with pytest.raises(InputError, match=r"mel\.engine fused does not run on cpu$"):
        engines.force_engine(front_end, "fused", RATE, CPU)


def test_pictures_are_those_of_the_engine_in_use():
    waves = torch.randn(2, RATE, generator=torch.Generator().manual_seed(0)) / 4
    front_end = make_front_end()
    for engine in ("nnaudio", "fused", "fft"):
        front_end.use_engine(engine)
        assert torch.equal(front_end(waves), make_front_end(engine=engine)(waves))


def test_without_triton_the_reason_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "melgpu.features.fused", None)
    with pytest.raises(InputError, match=r"mel\.engine fused needs Triton"):
        make_front_end(engine="fused")
