"""Random views of a batch on the device; identity in eval (by not being called).

Randomness enters as a generator on the images' device, so a batch's views depend on its seed alone.
"""

import torch
from torch import Tensor

from melgpu.recipe import AugmentSpec


def augment(images: Tensor, spec: AugmentSpec, generator: torch.Generator) -> Tensor:
    """Images, shape (B, 3, S, S), each with its own random changes: mirrored in time with `flip_probability`."""
    draws = torch.rand(len(images), 1, 1, 1, generator=generator, device=images.device)
    single = _without_replicas(images)
    return torch.where(draws < spec.flip_probability, single.flip(-1), single).expand_as(images)


def mirrored(images: Tensor) -> Tensor:
    """Images, shape (B, 3, S, S), with time reversed."""
    return _without_replicas(images).flip(-1).expand_as(images)


def _without_replicas(images: Tensor) -> Tensor:
    """One channel where the three are views of one, so that replication costs nothing before the network."""
    return images[:, :1] if images.stride(1) == 0 else images
