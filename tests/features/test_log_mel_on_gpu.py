"""LogMel on a GPU; imports only what a training needs, since a GPU box may have no more."""

import numpy as np
import pytest
import torch

import melgpu
from melgpu.features import engines, parity
from melgpu.features.log_mel import LogMel
from melgpu.recipe import load_recipe
from tests.helpers.signals import RATE, signals

pytestmark = pytest.mark.gpu
SPEC = load_recipe([]).mel
GPU = torch.device("cuda")


def make_front_end(**changes) -> LogMel:
    return LogMel(SPEC.changed(**changes), RATE)


@pytest.mark.parametrize("engine", engines.GPU_ENGINES)
def test_pictures_are_the_same_on_the_gpu_and_the_cpu(engine):
    waves = torch.from_numpy(np.stack(list(signals().values())))
    expected = make_front_end(engine="fft")(waves)
    actual = make_front_end(engine=engine).cuda()(waves.cuda()).cpu()
    assert (actual - expected).abs().max() <= 0.05 / 80


@pytest.mark.parametrize("engine", engines.GPU_ENGINES)
@pytest.mark.parametrize("changes", [{}, {"image_size": 224}, {"n_mels": 128, "image_size": 128}])
def test_every_engine_passes_the_gate(engine, changes):
    front_end = make_front_end(**changes).cuda()
    assert engines.force_engine(front_end, engine, RATE, GPU).max_db <= parity.MAX_ERROR_DB


@pytest.mark.parametrize("engine", engines.GPU_ENGINES)
def test_no_synchronization_with_the_gpu(engine):
    waves = torch.from_numpy(signals()["music"])[None].cuda()
    front_end = make_front_end(engine=engine).cuda()
    front_end(waves)
    torch.cuda.set_sync_debug_mode("error")
    try:
        front_end(waves)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("engine", ["fft", "fused"])
def test_a_picture_does_not_depend_on_its_batch(engine):
    waves = torch.from_numpy(np.stack(list(signals().values()))).cuda()
    front_end = make_front_end(engine=engine).cuda()
    expected = torch.cat([front_end(wave) for wave in waves.split(1)])
    # cuFFT has other algorithms for other batches: pictures differ by rounding, as those of other engines do.
    assert (front_end(waves) - expected).abs().max() <= parity.MAX_ERROR_DB / front_end.spec.top_db


def test_the_public_front_end_chooses_at_its_first_call():
    waves = torch.from_numpy(signals()["music"])[None].cuda()
    features = melgpu.LogMel().cuda()
    assert features.engine == "auto"
    features(waves)
    assert features.engine in engines.GPU_ENGINES
