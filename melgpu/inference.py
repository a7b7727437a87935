"""Batches to probabilities with flip-TTA; many models over one pass of features."""

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

from melgpu.errors import InputError
from melgpu.stream import Batch


@torch.inference_mode()
def window_probs(
    models: Sequence[nn.Module], features: nn.Module, batches: Iterable[Batch], flip: bool, bfloat16: bool
) -> Iterator[tuple[Batch, Tensor]]:
    """Class probabilities of each batch's windows, shape (K, B, C), float32 on the CPU, for K models in eval mode.

    With `flip`, the mean of each picture's and its mirror image's. Features are computed once for all models that share
    them.
    """
    for model in models:
        model.eval()
    for batch in batches:
        shared = features(batch.waves)
        probs = torch.stack([_views(model, _pictures(model, batch, shared), flip, bfloat16) for model in models])
        yield batch, _refuse_nan(probs.cpu(), batch)


def _refuse_nan(probs: Tensor, batch: Batch) -> Tensor:
    """Raise InputError that names the windows whose probabilities are not numbers."""
    broken = probs.isnan().any(2).any(0)
    if broken.any():
        places = zip(batch.tracks[broken].tolist(), batch.starts[broken].tolist(), strict=True)
        raise InputError(
            f"track {track}, window at sample {start}: its picture is not a number" for track, start in places
        )
    return probs


def _pictures(model: nn.Module, batch: Batch, shared: Tensor) -> Tensor:
    """A network's own pictures where its front end learned with it, else those that all share."""
    front_end = getattr(model, "front_end", None)
    return shared if front_end is None else front_end(batch.waves)


def _views(model: nn.Module, images: Tensor, flip: bool, bfloat16: bool) -> Tensor:
    with torch.autocast(images.device.type, torch.bfloat16, enabled=bfloat16):
        logits = [model(images), model(images.flip(-1))] if flip else [model(images)]
    return torch.stack([view.float().softmax(1) for view in logits]).mean(0)
