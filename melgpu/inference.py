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
    them. A GPU has the next batch to do before the answers of one are waited for.
    """
    for model in models:
        model.eval()
    waiting = None
    for batch in batches:
        pictures = features(batch.waves)
        probs = torch.stack([_views(model, _own(model, batch, pictures), flip, bfloat16) for model in models])
        broken = pictures[:, 0, 0, 0].isnan()
        answer = batch, *(found.to("cpu", non_blocking=True) for found in (probs, broken)), _now_on(probs.device)
        if waiting:
            yield _arrived(*waiting)
        waiting = answer
        if probs.device.type == "cpu":
            yield _arrived(*waiting)
            waiting = None
    if waiting:
        yield _arrived(*waiting)


def _now_on(device: torch.device) -> torch.cuda.Event | None:
    return torch.cuda.current_stream(device).record_event() if device.type == "cuda" else None


def _arrived(batch: Batch, probs: Tensor, broken: Tensor, copied: torch.cuda.Event | None) -> tuple[Batch, Tensor]:
    if copied:
        copied.synchronize()
    if probs.isnan().any():
        problems = describe_broken(batch, broken)
        raise InputError(problems or "a network answers with what is no number: its training has diverged")
    return batch, probs


def describe_broken(batch: Batch, broken: Tensor) -> list[str]:
    """A sentence for each window of a batch that a mask, shape (B,), marks as not a number."""
    places = zip(batch.tracks[broken].tolist(), batch.starts[broken].tolist(), strict=True)
    return [f"row {row} of the manifest, window at sample {start}: its picture is no number" for row, start in places]


def _own(model: nn.Module, batch: Batch, shared: Tensor) -> Tensor:
    """A network's own pictures where its front end learned with it, else those that all share."""
    front_end = getattr(model, "front_end", None)
    return shared if front_end is None else front_end(batch.waves)


def _views(model: nn.Module, images: Tensor, flip: bool, bfloat16: bool) -> Tensor:
    """Mean probabilities, shape (B, C), of a network's views of images; in parts where memory runs out."""
    try:
        with torch.autocast(images.device.type, torch.bfloat16, enabled=bfloat16):
            logits = [model(images), model(mirrored(images))] if flip else [model(images)]
        return torch.stack([view.float().softmax(1) for view in logits]).mean(0)
    except torch.OutOfMemoryError:
        if len(images) == 1:
            raise
    return torch.cat([_views(model, part, flip, bfloat16) for part in images.split(-(-len(images) // 2))])
