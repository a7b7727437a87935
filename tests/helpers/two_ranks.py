"""One of two processes that train and validate together; torchrun runs it with the folder for the results."""

import sys
from pathlib import Path

import torch
from torch import nn

from melgpu import distributed
from melgpu.training import loop
from melgpu.training.loop import TrainingData
from melgpu.training.state import Training, start_training
from tests.helpers.training import AUGMENT, MACHINE, OPTIM, TARGETS, Pictures, batches, results


class Linear(nn.Module):
    """A network without batch norm and dropout, so that the mean gradient of two half batches is that of the batch."""

    def __init__(self):
        super().__init__()
        self.body = nn.Conv2d(3, 4, 5, 16)
        self.head = nn.Linear(4, 2)

    def forward(self, pictures):
        return self.head(self.body(pictures).amax((2, 3)))

    def freeze_body(self, frozen):
        self.body.requires_grad_(not frozen)


SPEC = OPTIM.model_copy(update={"max_epochs": 2, "warmup_epochs": 1, "batch_norm_batches": 0})
NO_FLIPS = AUGMENT.model_copy(update={"flip_probability": 0.0})


def train(rank: int, count: int) -> Training:
    """Train on every `count`-th of six batches an epoch."""

    def train_batches(epoch, first_step):
        return list(batches(epoch, count=6))[rank::count][first_step:]

    def valid_batches():
        return list(batches(99, count=5))[rank::count]

    torch.manual_seed(0)
    training = start_training(Linear(), SPEC, MACHINE)
    data = TrainingData(train_batches, valid_batches, TARGETS)
    for _ in loop.fit(training, Pictures(), data, SPEC, NO_FLIPS, seed=0):
        pass
    return training


def main() -> None:
    with distributed.init_distributed(torch.device("cpu")):
        training = train(distributed.rank(), distributed.world_size())
        output = {"weights": training.model.state_dict(), "log": results(training.log)}
        output["gathered"] = distributed.gather_to_main(distributed.rank())
        output["broadcast"] = distributed.broadcast_from_main(f"rank {distributed.rank()}")
        torch.save(output, Path(sys.argv[1]) / f"{distributed.rank()}.pt")


if __name__ == "__main__":
    main()
