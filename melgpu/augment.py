"""Random views of a batch on the device; identity in eval (by not being called).

Randomness enters as a generator on the images' device, so a batch's views depend on its seed alone.
"""

import torch
from torch import Tensor

from melgpu.recipe import AugmentSpec


def augment(images: Tensor, spec: AugmentSpec, generator: torch.Generator) -> Tensor:
    """Images, shape (B, 3, S, S), each with its own random changes: mirrored in time with `flip_probability`."""
    draws = torch.rand(len(images), 1, 1, 1, generator=generator, device=images.device)
    return torch.where(draws < spec.flip_probability, images.flip(-1), images)
