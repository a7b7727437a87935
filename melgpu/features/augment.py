"""Random views of a batch on the device; identity in eval (by not being called).

Chance is torch's global random state, which each training step seeds: a batch's views depend on its seed alone.
"""

import torch
import torchaudio.functional
from torch import Tensor

from melgpu.recipe import AugmentSpec

MASK_VALUE = 0.0


def augment(images: Tensor, spec: AugmentSpec) -> Tensor:
    """Images, shape (B, 3, S, S), each with its own random changes: mirrored in time, stripes blanked.

    Stripes are those of SpecAugment, without its warping. Source: Park et al., "SpecAugment" (2019), section 2.
    """
    draws = torch.rand(len(images), 1, 1, 1, device=images.device)
    single = _without_replicas(images)
    changed = torch.where(draws < spec.flip_probability, single.flip(-1), single)
    if spec.num_masks:
        changed = _mask_stripes(changed, spec.num_masks, round(spec.max_mask * images.shape[-1]))
    return changed.expand_as(images)


def _mask_stripes(images: Tensor, num_masks: int, max_pixels: int) -> Tensor:
    """The same stripes in all channels of an image."""
    keep = images.new_ones(len(images), 1, *images.shape[2:])
    for _ in range(num_masks):
        for axis in (2, 3):
            keep = torchaudio.functional.mask_along_axis_iid(keep, max_pixels, MASK_VALUE, axis)
    return images * keep


def mixup(images: Tensor, targets: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """Images (B, 3, S, S) on the device and targets (B, C) on the CPU, each mixed with a random other of the batch.

    Source: Zhang et al., "mixup: Beyond Empirical Risk Minimization" (2018), with a share for each pair.
    """
    shares = torch.distributions.Beta(alpha, alpha).sample((len(images), 1))
    partners = torch.randperm(len(images))
    single = _without_replicas(images)
    weights = shares[:, :, None, None].to(images.device, non_blocking=True)
    others = single[partners.to(images.device, non_blocking=True)]
    return torch.lerp(others, single, weights).expand_as(images), torch.lerp(targets[partners], targets, shares)


def flip_time(images: Tensor) -> Tensor:
    """Images, shape (B, 3, S, S), with time reversed."""
    return _without_replicas(images).flip(-1).expand_as(images)


def _without_replicas(images: Tensor) -> Tensor:
    """One channel where the three are views of one, so that replication costs nothing before the network."""
    return images[:, :1] if images.stride(1) == 0 else images
