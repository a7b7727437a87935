from dataclasses import replace

import pytest
import torch

from melgpu.errors import InputError
from melgpu.features import parity
from melgpu.features.log_mel import LogMel
from melgpu.recipe import load_recipe

DEMO = load_recipe(["demo"])
CPU = torch.device("cpu")


def parity_figures(**changes) -> parity.ParityFigures:
    front_end = LogMel(DEMO.mel.model_copy(update=changes), DEMO.audio.sample_rate)
    return parity.measure_parity(front_end, DEMO.audio.sample_rate, CPU)


@pytest.mark.parametrize("engine", ["nnaudio", "fft", "fused"])
def test_every_engine_passes_the_gate_and_gives_the_same_pictures(engine):
    figures = parity_figures(engine=engine)
    assert figures.engine == engine
    assert 0 < figures.max_db <= parity.MAX_ERROR_DB
    parity.check_parity(figures)
    parity.check_same_pictures(figures, parity_figures(), "x.safetensors")


def test_a_front_end_that_misses_the_gate_is_rejected(monkeypatch):
    front_end = LogMel(DEMO.mel, DEMO.audio.sample_rate)
    monkeypatch.setattr(front_end, "power", lambda waves, resolution=0: LogMel.power(front_end, waves.half().float()))
    figures = parity.measure_parity(front_end, DEMO.audio.sample_rate, CPU)
    with pytest.raises(InputError, match="the front end misses the parity gate on cpu: engine fft"):
        parity.check_parity(figures)
    with pytest.raises(InputError):
        parity.check_parity(replace(figures, max_db=float("nan")))


@pytest.mark.parametrize(
    "changes",
    [
        {"top_db": 60.0},
        {"hop_length": 256},
        {"fmax": 5000.0},
        {"channels": "viridis"},
        {"range": "window"},
        {"n_mels": 40},
    ],
)
def test_other_pictures_are_rejected(changes):
    with pytest.raises(InputError, match=r"x\.safetensors: trained on other pictures"):
        parity.check_same_pictures(parity_figures(**changes), parity_figures(), "x.safetensors")
