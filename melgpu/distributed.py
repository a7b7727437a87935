"""Rank, world size and collectives of the processes that torchrun starts.

Without torchrun there is one process, and the functions are no-ops. Collectives are synchronous; after the death of a
process the next collective of the others raises `RankLostError`, unless torchrun ends them first. Tensors on a GPU go
through NCCL, tensors and objects on the CPU through gloo.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

Value = TypeVar("Value")
TIMEOUT = timedelta(days=7)  # the main process may decode a whole data set before a barrier


class RankLostError(OSError):
    """Another process of the same run ended early."""


@contextmanager
def init_distributed(device: torch.device) -> Iterator[torch.device]:
    """Join torchrun's process group while the block runs; yields the device of this process."""
    if "LOCAL_RANK" not in os.environ:  # not started by torchrun
        yield device
        return
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=TIMEOUT)
    try:
        yield device
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or "onnection" in str(error):  # gloo raises plain RuntimeErrors
            reason = str(error).splitlines()[0]
            raise RankLostError(f"another process of this run ended ({reason})") from None
        raise
    finally:
        dist.destroy_process_group()


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main_process() -> bool:
    """Whether this is rank 0, which alone writes files and prints."""
    return rank() == 0


def barrier() -> None:
    """Block until every rank has called this."""
    if world_size() > 1:
        # Of a tensor on the CPU, so through gloo, which sleeps: NCCL would keep a core and the GPU busy for minutes.
        dist.all_reduce(torch.zeros(1))


def wrap_ddp(module: nn.Module) -> nn.Module:
    """The module in DistributedDataParallel: gradients are averaged over the ranks, buffers come from rank 0."""
    if world_size() == 1:
        return module
    return nn.parallel.DistributedDataParallel(module)


def skip_gradient_sync(module: nn.Module) -> AbstractContextManager:
    """While the block runs, gradients of a wrapped module add up on this rank, and are not averaged yet."""
    if isinstance(module, nn.parallel.DistributedDataParallel):
        return module.no_sync()
    return nullcontext()


def all_reduce_sum(value: Tensor) -> Tensor:
    """The sum of a tensor over all ranks, in place, on every rank."""
    if world_size() > 1:
        dist.all_reduce(value)
    return value


def all_reduce_mean(values: Iterable[Tensor]) -> None:
    """Replace tensors by their mean over all ranks, in place."""
    if world_size() > 1:
        for value in values:
            value.copy_(all_reduce_sum(value.clone()) / world_size())


def broadcast(values: Iterable[Tensor]) -> None:
    """Replace tensors by those of rank 0, in place."""
    if world_size() > 1:
        for value in values:
            dist.broadcast(value, 0)


def broadcast_from_main(value: Value) -> Value:
    """On every rank the value of the main process."""
    if world_size() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, 0)
    return values[0]


def gather_to_main(value: Value) -> list[Value] | None:
    """On the main process the values of all ranks, by rank; on the others None."""
    if world_size() == 1:
        return [value]
    # gather_object refuses a list on other ranks.
    values: list[Any] | None = [None] * world_size() if is_main_process() else None
    dist.gather_object(value, values)
    return values
