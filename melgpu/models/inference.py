"""Batches to probabilities with flip-TTA; many models over one pass of features."""

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

from melgpu.data.batch import Batch
from melgpu.errors import InputError
from melgpu.features.augment import flip_time


@torch.inference_mode()
def window_probs(
    models: Sequence[nn.Module], features: nn.Module, batches: Iterable[Batch], flip: bool, bfloat16: bool
) -> Iterator[tuple[Batch, Tensor]]:
    """Class probabilities of each batch's windows, shape (K, B, C), float32 on the CPU, for K models in eval mode.

    Windows that were not heard (`Batch.heard`) get probabilities, too: of silence, for the caller to replace. With
    `flip`, the mean of each picture's and its mirror image's. Features are computed once for all models that share
    them, and so are flips. A GPU has the next batch to do before the answers of one are waited for.
    """
    for model in models:
        model.eval()
    waiting, parts = None, 1
    for batch in batches:
        answers, broken = [], []
        for model, views in zip(models, _views_of(models, features, batch, flip), strict=True):
            while (own := _probs(model, views, bfloat16, parts)) is None:
                parts *= 2  # for later batches, too
            answers.append(own)
            broken.append(views[0][:, 0, 0, 0].isnan())
        probs, broken = torch.stack(answers), torch.stack(broken).any(0)
        answer = batch, *(found.to("cpu", non_blocking=True) for found in (probs, broken)), _record_event(probs.device)
        if waiting:
            yield _wait_for_copy(*waiting)
        waiting = answer
        if probs.device.type == "cpu":
            yield _wait_for_copy(*waiting)
            waiting = None
    if waiting:
        yield _wait_for_copy(*waiting)


def _record_event(device: torch.device) -> torch.cuda.Event | None:
    return torch.cuda.current_stream(device).record_event() if device.type == "cuda" else None


def _wait_for_copy(
    batch: Batch, probs: Tensor, broken: Tensor, copied: torch.cuda.Event | None
) -> tuple[Batch, Tensor]:
    if copied:
        copied.synchronize()
    if probs.isnan().any():
        problems = describe_nonfinite(batch, broken)
        raise InputError(problems or "a network answers with what is no number: its training has diverged")
    return batch, probs


def describe_nonfinite(batch: Batch, broken: Tensor) -> list[str]:
    """A sentence for each window of a batch that a mask, shape (B,), marks as not a number."""
    places = zip(batch.tracks[broken].tolist(), batch.starts[broken].tolist(), strict=True)
    return [f"row {row} of the manifest, window at sample {start}: its picture is no number" for row, start in places]


def _views_of(models: Sequence[nn.Module], features: nn.Module, batch: Batch, flip: bool) -> Iterator[list[Tensor]]:
    """For each network its views of a batch: those that all share, or its own where its front end learned with it."""
    shared = None
    for model in models:
        front_end = getattr(model, "front_end", None) or features
        if front_end is not features:
            yield _views(front_end(batch.waves), flip)
            continue
        shared = shared or _views(features(batch.waves), flip)
        yield shared


def _views(pictures: Tensor, flip: bool) -> list[Tensor]:
    return [pictures, flip_time(pictures)] if flip else [pictures]


def _probs(model: nn.Module, views: list[Tensor], bfloat16: bool, parts: int) -> Tensor | None:
    """Mean probabilities, shape (B, C), of a network's views of pictures, taken in parts.

    None where memory runs out and more parts may do.
    """
    size = -(-len(views[0]) // parts)
    try:
        with torch.autocast(views[0].device.type, torch.bfloat16, enabled=bfloat16):
            logits = [torch.cat([model(part) for part in view.split(size)]) for view in views]
        return torch.stack([own.float().softmax(1) for own in logits]).mean(0)
    except torch.OutOfMemoryError:
        if size == 1:
            raise
    return None
