"""Networks, batches and settings small enough to train in a test."""

import torch
from torch import nn

from melgpu.data.batch import Batch
from melgpu.data.targets import Targets
from melgpu.recipe import load_recipe
from melgpu.training import loop

PARITY = {"engine": "fft", "device": "cpu", "max_db": 0.0, "mean_db": 0.0, "picture": [0.5] * 432}

DEMO = load_recipe(["demo"], ["optim.precision='float32'", "optim.max_epochs=4", "optim.batch_size=4"])


OPTIM = DEMO.optim


AUGMENT, MACHINE = load_recipe([]).augment, load_recipe([]).machine


class Pictures(nn.Module):
    """A front end of two lines: waves (B, 3 * 75 * 75) are the pictures."""

    def forward(self, waves):
        return waves.view(-1, 3, 75, 75)


def batches(epoch: int = 0, first_step: int = 0, count: int = 3):
    """Pictures whose brightness tells the class."""
    for step in range(first_step, count):
        generator = torch.Generator().manual_seed(1000 * epoch + step)
        tracks = torch.randint(2, (4,), generator=generator)
        waves = torch.rand(4, 3 * 75 * 75, generator=generator) * 0.2 + 0.6 * tracks[:, None]
        yield Batch(waves, tracks, tracks * 0, tracks >= 0)


TARGETS = Targets(torch.tensor([0, 1]), torch.ones(2))


class Tiny(nn.Module):
    """All that a network has that a resumed training could miss: batch norm, dropout, a body that freezes."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 5, 8), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveMaxPool2d(1))
        self.head = nn.Sequential(nn.Flatten(), nn.Dropout(0.25), nn.Linear(8, 2))

    def forward(self, images):
        return self.head(self.body(images))

    def freeze_body(self, frozen):
        self.body.requires_grad_(not frozen)


def fresh_tiny(spec=OPTIM) -> loop.Training:
    torch.manual_seed(0)
    return loop.start(Tiny(), spec, MACHINE)


def fit(state, spec=OPTIM, augment=AUGMENT):
    return loop.fit(state, Pictures(), batches, lambda: batches(99), TARGETS, spec, augment, seed=3)


def run(state, spec=OPTIM, epochs=None):
    records = []
    for record in fit(state, spec):
        if isinstance(record, dict):
            records.append(record)
        if epochs and len(records) == epochs:
            break
    return records


def results(log):
    """What a log says but how fast it went."""
    return [{key: value for key, value in record.items() if not key.endswith("_s")} for record in log]


def same_weights(one, other) -> bool:
    theirs = other.state_dict()
    return all(torch.equal(value, theirs[key]) for key, value in one.state_dict().items())


class Corner(nn.Module):
    """Logits that depend on the picture's left edge, and a count of calls."""

    def __init__(self):
        super().__init__()
        self.calls = 0
        self.dropout = nn.Dropout(0.9)

    def forward(self, images):
        self.calls += 1
        return self.dropout(images[:, 0, :3, 0])
