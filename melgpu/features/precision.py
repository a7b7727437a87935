"""In which precision CUDA's libraries compute float32 inside a block; the switches are restored as they were found.

TF32, the default of cuDNN's convolutions, keeps 10 of a float32's 23 bits.
"""

import contextlib
from collections.abc import Iterator
from typing import Any, Literal, cast

import torch

# Attributes of modules that have no annotations. A switch that is "none" has the value of the one above it.
_GENERIC = cast(Any, torch.backends)
_CUDA = cast(Any, torch.backends.cudnn)


@contextlib.contextmanager
def float32_precision(precision: Literal["ieee", "tf32"]) -> Iterator[None]:
    """cuDNN's convolutions and cuBLAS's matrix products of float32 in a precision inside the block."""
    switches = (_CUDA.conv, cast(Any, torch.backends.cuda.matmul))
    cuda_setting = _setting(_CUDA, _GENERIC, _GENERIC.fp32_precision)
    # The switches are global, and the network computes by its own: they are restored.
    settings = [_setting(switch, _CUDA, cuda_setting) for switch in switches]
    for switch in switches:
        switch.fp32_precision = precision
    try:
        yield
    finally:
        for switch, setting in zip(switches, settings, strict=True):
            switch.fp32_precision = setting


def _setting(switch: Any, parent: Any, parent_setting: str) -> str:
    """What a switch was set to; reading it gives its parent's value where it is "none"."""
    value = switch.fp32_precision
    parent.fp32_precision = "tf32" if value == "ieee" else "ieee"
    follows = switch.fp32_precision != value
    parent.fp32_precision = parent_setting
    return "none" if follows else value
