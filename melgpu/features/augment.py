"""Data augmentation of a batch on the device, for training only: speed, time flip, SpecAugment masks, mixup.

Random numbers come from torch's global generators, which each training step seeds: the augmentation of a batch
depends on its seed alone. What is off draws none.
"""

import functools
from collections.abc import Callable, Sequence

import torch
import torchaudio.functional
import torchaudio.transforms
from torch import Tensor

from melgpu.features.precision import float32_precision
from melgpu.recipe_schema import AugmentSpec

MASK_VALUE = 0.0  # as dark as silence, `top_db` below the window's maximum


def augmented_pictures(
    features: Callable[[Tensor], Tensor], waves: Tensor, targets: Tensor, spec: AugmentSpec
) -> tuple[Tensor, Tensor]:
    """Pictures (B, 3, S, S) of waves (B, T), and the targets (B, C) that belong to them.

    Waves and pictures are on the device, targets on the CPU.
    """
    if spec.speeds != (1.0,):
        waves = change_speed(waves, spec.speeds)
    pictures = augment(features(waves), spec)
    if spec.mixup_alpha:
        pictures, targets = mix_pictures(pictures, targets, spec.mixup_alpha)
    return pictures, targets


def change_speed(waves: Tensor, speeds: Sequence[float]) -> Tensor:
    """Waves (B, T), each played at one of several speeds: resampled, so that tempo and pitch change together.

    Every speed gets the same number of waves, or one more, drawn at random. A wave that became longer is cut, one that
    became shorter goes on with its own beginning, as short tracks do.
    """
    # Dealt out instead of drawn for each wave: groups have two sizes at most, for which cuDNN measures its algorithms.
    order = torch.randperm(len(waves)).to(waves.device, non_blocking=True)
    groups = order.tensor_split(len(speeds))
    changed = torch.empty_like(waves)
    for group, index in zip(groups, torch.randperm(len(speeds)).tolist(), strict=True):
        changed[group] = _at_speed(waves[group], speeds[index])
    return changed


def _at_speed(waves: Tensor, speed: float) -> Tensor:
    num_samples = waves.shape[1]
    if speed == 1 or not len(waves):
        return waves
    with float32_precision("ieee"):  # it is a convolution
        resampled: Tensor = _resampler(round(100 * speed), waves.device)(waves)
    num_repeats = -(-num_samples // resampled.shape[1])  # rounded up
    return resampled.repeat(1, num_repeats)[:, :num_samples]


@functools.cache  # it holds a kernel on the device
def _resampler(percent: int, device: torch.device) -> torchaudio.transforms.Resample:
    return torchaudio.transforms.Resample(percent, 100).to(device)


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


def mix_pictures(pictures: Tensor, targets: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
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
