"""Data augmentation of a batch on the device, for training only: time flip, SpecAugment masks, mixup.

Random numbers come from torch's global generators, which each training step seeds: the augmentation of a batch
depends on its seed alone.
"""

import torch
import torchaudio.functional
from torch import Tensor

from melgpu.recipe_schema import AugmentSpec

MASK_VALUE = 0.0  # as dark as silence, `top_db` below the window's maximum


def augment(pictures: Tensor, spec: AugmentSpec) -> Tensor:
    """Pictures, shape (B, 3, S, S), each randomly flipped in time, with random time and frequency masks.

    Masks are those of SpecAugment, without time warping. Source: Park et al., "SpecAugment" (2019), section 2.
    """
    flip_draws = torch.rand(len(pictures), 1, 1, 1, device=pictures.device)
    channels = _drop_replicated_channels(pictures)
    augmented = torch.where(flip_draws < spec.flip_probability, channels.flip(-1), channels)
    if spec.num_masks:
        augmented = _mask(augmented, spec.num_masks, round(spec.max_mask * pictures.shape[-1]))
    return augmented.expand_as(pictures)


def _mask(pictures: Tensor, num_masks: int, max_pixels: int) -> Tensor:
    """Time and frequency masks, the same in all channels of a picture."""
    # Ones of a single channel: torchaudio would draw other masks for each channel.
    mask = pictures.new_ones(len(pictures), 1, *pictures.shape[2:])
    for _ in range(num_masks):
        for axis in (2, 3):
            mask = torchaudio.functional.mask_along_axis_iid(mask, max_pixels, MASK_VALUE, axis)
    return pictures * mask


def mixup(pictures: Tensor, targets: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """Pictures (B, 3, S, S) on the device and targets (B, C) on the CPU, each mixed with a random other of the batch.

    Source: Zhang et al., "mixup: Beyond Empirical Risk Minimization" (2018), with a lambda for each pair.
    """
    # Drawn on the CPU, where the targets are: pictures and targets are mixed by the same numbers.
    lambdas = torch.distributions.Beta(alpha, alpha).sample((len(pictures), 1))
    partners = torch.randperm(len(pictures))
    channels = _drop_replicated_channels(pictures)
    weights = lambdas[:, :, None, None].to(pictures.device, non_blocking=True)
    partner_channels = channels[partners.to(pictures.device, non_blocking=True)]
    mixed = torch.lerp(partner_channels, channels, weights).expand_as(pictures)
    return mixed, torch.lerp(targets[partners], targets, lambdas)


def flip_time(pictures: Tensor) -> Tensor:
    """Pictures, shape (B, 3, S, S), flipped in time."""
    return _drop_replicated_channels(pictures).flip(-1).expand_as(pictures)


def _drop_replicated_channels(pictures: Tensor) -> Tensor:
    """One channel where the three are views of one, so that replication costs nothing before the network."""
    return pictures[:, :1] if pictures.stride(1) == 0 else pictures
