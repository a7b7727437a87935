"""A batch to its result in as many parts as a device's memory needs."""

from collections.abc import Callable

import torch
from torch import Tensor

from melgpu.errors import is_out_of_memory


def in_parts_that_fit(function: Callable[[Tensor], Tensor], batch: Tensor) -> Tensor:
    """`function(batch)`, whose rows do not depend on one another; the batch is halved until its parts fit into memory.

    Raises torch's RuntimeError where a single row does not fit.
    """
    try:
        return function(batch)
    except RuntimeError as error:
        if len(batch) == 1 or not is_out_of_memory(error):
            raise
    # Not in the handler, where the exception still holds the memory.
    return torch.cat([in_parts_that_fit(function, half) for half in batch.chunk(2)])
