"""Which of several processes this is, and what they tell each other: torchrun starts them, this module joins them.

Without torchrun there is one process, and nothing here does anything. Collectives are synchronous; a process that dies
ends the others' next one with `RankLost`, or torchrun ends them first.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
from torch import Tensor, distributed, nn

TIMEOUT = timedelta(days=7)  # the first rank may decode a whole data set while the others wait


class RankLost(OSError):
    """Another process of the same run ended before its time."""


@contextmanager
def init_distributed(device: torch.device) -> Iterator[torch.device]:
    """Be one of torchrun's processes while the block runs; gives the device of this one."""
    if "LOCAL_RANK" not in os.environ:
        yield device
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=TIMEOUT)
    try:
        yield device
    except RuntimeError as error:
        if isinstance(error, distributed.DistError) or "onnection" in str(error):  # gloo raises plain ones
            raise RankLost(f"another process of this run ended ({str(error).splitlines()[0]})") from None
        raise
    finally:
        distributed.destroy_process_group()


def rank() -> int:
    return distributed.get_rank() if distributed.is_initialized() else 0


def world_size() -> int:
    return distributed.get_world_size() if distributed.is_initialized() else 1


def is_main_process() -> bool:
    """The first rank is the one that writes and speaks."""
    return rank() == 0


def barrier() -> None:
    """Until every rank is here."""
    if world_size() > 1:
        distributed.barrier()


def wrap_ddp(module: nn.Module) -> nn.Module:
    """The same module with gradients averaged over the ranks; its buffers are the first rank's."""
    if world_size() == 1:
        return module
    return nn.parallel.DistributedDataParallel(module)


def all_reduce_sum(value: Tensor) -> Tensor:
    """The sum over all ranks; every rank gets it."""
    if world_size() > 1:
        distributed.all_reduce(value)
    return value


def all_reduce_mean(values: Iterable[Tensor]) -> None:
    """Replace tensors by their mean over all ranks."""
    if world_size() > 1:
        for value in values:
            value.copy_(all_reduce_sum(value.clone()) / world_size())


def broadcast(values: Iterable[Tensor]) -> None:
    """Replace tensors by the first rank's."""
    if world_size() > 1:
        for value in values:
            distributed.broadcast(value, 0)


def gather_to_main(value) -> list | None:
    """What each rank gave, in order, to the first rank; None to the others."""
    if world_size() == 1:
        return [value]
    values = [None] * world_size() if is_main_process() else None
    distributed.gather_object(value, values)
    return values
