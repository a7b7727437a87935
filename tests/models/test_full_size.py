"""The zalo2019 recipe at full size: one training step and one prediction of 22 views from a two-minute mp3."""

import numpy as np
import pytest
import torch

from melgpu.data import windows
from melgpu.data.loader import WindowLoader
from melgpu.data.targets import Targets
from melgpu.demo import corpus, synthesizer
from melgpu.features.log_mel import LogMel
from melgpu.models import classifier, inference
from melgpu.recipe import load_recipe
from melgpu.training import loop
from melgpu.training.loop import StepDone
from melgpu.training.state import start_training

ZALO = load_recipe([], ["loader.workers=0", "backbone.pretrained=false"])


@pytest.fixture(scope="module")
def mp3(tmp_path_factory) -> str:
    wave = np.resize(synthesizer.compose("waltz", np.random.default_rng(0)), 120 * synthesizer.SAMPLE_RATE)
    path = tmp_path_factory.mktemp("full") / "two-minutes.mp3"
    corpus.write_audio(path, wave, 44_100, stereo=True)
    return str(path)


@pytest.mark.slow
@pytest.mark.parametrize("name", classifier.BACKBONES)
def test_one_step_and_22_views(name, mp3, tmp_path):
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    features = LogMel(ZALO.mel, ZALO.audio.sample_rate).to(device)
    model = classifier.build(name, 10, ZALO).to(device)
    optim = ZALO.optim_for(name)
    bfloat16 = classifier.use_bfloat16(optim.precision, device)
    index = windows.prediction_windows(np.array([0]), np.array([False]), ZALO.audio, ZALO.windows)
    window_samples = windows.to_samples(ZALO.windows.window_s, ZALO.audio.sample_rate)
    assert (len(index), window_samples) == (11, 441_000)
    with WindowLoader([mp3], ZALO.audio, ZALO.loader, device) as loader:
        before = {key: value.clone() for key, value in model.state_dict().items()}
        training = start_training(model, optim.model_copy(update={"warmup_epochs": 0}), ZALO.machine)
        batches = loader.batches(index[:2], window_samples, 2)
        targets = Targets(torch.tensor([3]), torch.ones(10))
        steps = loop.train_epoch(training, features, batches, targets, optim, ZALO.augment, seed=0)
        assert list(steps) == [StepDone(2)]
        assert torch.isfinite(training.metric_sums[0])
        assert training.metric_sums[0] > 0
        changed = [key for key, value in model.state_dict().items() if not torch.equal(value, before[key])]
        assert len(changed) > 0.6 * len(before)  # timm starts the residual branches of resnet50 at zero
        batches = loader.batches(index, window_samples, 4)
        results = list(inference.window_probs([model], features, batches, flip=True, bfloat16=bfloat16))
    probs = torch.cat([probs for _, probs in results], dim=1)
    assert probs.shape == (1, 11, 10)
    assert torch.allclose(probs.sum(-1), torch.ones(1, 11), atol=1e-4)
