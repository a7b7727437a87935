"""Batches to probabilities with flip-TTA; many models over one pass of features."""

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

from melgpu.augment import mirrored
from melgpu.batch import Batch
from melgpu.errors import InputError


@torch.inference_mode()
def window_probs(
    models: Sequence[nn.Module], features: nn.Module, batches: Iterable[Batch], flip: bool, bfloat16: bool
) -> Iterator[tuple[Batch, Tensor]]:
    """Class probabilities of each batch's windows, shape (K, B, C), float32 on the CPU, for K models in eval mode.

    Windows that were not heard (`Batch.heard`) get probabilities, too: of silence, for the caller to replace. With
    `flip`, the mean of each picture's and its mirror image's. Features are computed once for all models that share
    them.
    """
    for model in models:
        model.eval()
    for batch in batches:
        shared = features(batch.waves)
        probs = torch.stack([_views(model, _pictures(model, batch, shared), flip, bfloat16) for model in models])
        probs = probs.cpu()  # waits for the device
        if probs.isnan().any():
            broken = describe_broken(batch, shared[:, 0, 0, 0].isnan().cpu())
            raise InputError(broken or "a network answers with what is no number: its training has diverged")
        yield batch, probs


def describe_broken(batch: Batch, broken: Tensor) -> list[str]:
    """A sentence for each window of a batch that a mask, shape (B,), marks as not a number."""
    places = zip(batch.tracks[broken].tolist(), batch.starts[broken].tolist(), strict=True)
    return [f"row {row} of the manifest, window at sample {start}: its picture is no number" for row, start in places]


def _pictures(model: nn.Module, batch: Batch, shared: Tensor) -> Tensor:
    """A network's own pictures where its front end learned with it, else those that all share."""
    front_end = getattr(model, "front_end", None)
    return shared if front_end is None else front_end(batch.waves)


def _views(model: nn.Module, images: Tensor, flip: bool, bfloat16: bool) -> Tensor:
    with torch.autocast(images.device.type, torch.bfloat16, enabled=bfloat16):
        logits = [model(images), model(mirrored(images))] if flip else [model(images)]
    return torch.stack([view.float().softmax(1) for view in logits]).mean(0)
