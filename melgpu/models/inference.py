"""Inference: class probabilities of batches with flip-TTA; the pictures are computed once for many networks."""

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

    Windows that are not valid (`Batch.valid`) get probabilities, too: of silence, for the caller to replace. With
    `flip`, the mean over each picture and its time flip. Pictures are computed once for all models that share
    `features`, and so are flips. On a GPU the next batch is queued before the results of one are synchronized.
    """
    for model in models:
        model.eval()
    pending = None
    num_chunks = 1
    for batch in batches:
        model_probs = []
        model_nonfinite = []
        # A generator makes the views: those of several front ends are not in memory all at once.
        for model, views in zip(models, _views_by_model(models, features, batch, flip), strict=True):
            # What fits is used for later models and batches, too: running out of memory costs a pass.
            mean_probs, num_chunks = _mean_probs_that_fit(model, views, bfloat16, num_chunks)
            model_probs.append(mean_probs)
            model_nonfinite.append(views[0][:, 0, 0, 0].isnan())  # a picture is NaN throughout or not at all
        probs = torch.stack(model_probs)
        nonfinite = torch.stack(model_nonfinite).any(0)
        copies = [result.to("cpu", non_blocking=True) for result in (probs, nonfinite)]
        queued = batch, *copies, _record_event(probs.device)
        # Only now, with this batch queued, is the one before waited for: the GPU has work meanwhile.
        if pending:
            yield _wait_for_copy(*pending)
        pending = queued
        if probs.device.type == "cpu":  # nothing is queued there
            yield _wait_for_copy(*pending)
            pending = None
    if pending:
        yield _wait_for_copy(*pending)


def _record_event(device: torch.device) -> torch.cuda.Event | None:
    return torch.cuda.current_stream(device).record_event() if device.type == "cuda" else None


def _wait_for_copy(
    batch: Batch, probs: Tensor, nonfinite: Tensor, copied: torch.cuda.Event | None
) -> tuple[Batch, Tensor]:
    if copied:
        copied.synchronize()
    if probs.isnan().any():  # checked on the CPU, where it needs no synchronization
        problems = describe_nonfinite(batch, nonfinite)
        raise InputError(problems or "a network's output is NaN: its training has diverged")
    return batch, probs


def describe_nonfinite(batch: Batch, nonfinite: Tensor) -> list[str]:
    """One problem for each window of a batch that a mask, shape (B,), marks as not finite."""
    windows = zip(batch.tracks[nonfinite].tolist(), batch.starts[nonfinite].tolist(), strict=True)
    return [f"row {row} of the manifest, window at sample {start}: its picture is NaN" for row, start in windows]


def _views_by_model(
    models: Sequence[nn.Module], features: nn.Module, batch: Batch, flip: bool
) -> Iterator[list[Tensor]]:
    """Each network's views of a batch: shared by all, except of networks with their own trainable LogMel."""
    shared_views = None
    for model in models:
        front_end = getattr(model, "front_end", None) or features
        if front_end is not features:
            yield _views(front_end(batch.waves), flip)
            continue
        if shared_views is None:
            shared_views = _views(features(batch.waves), flip)
        yield shared_views


def _views(pictures: Tensor, flip: bool) -> list[Tensor]:
    return [pictures, flip_time(pictures)] if flip else [pictures]


def _mean_probs_that_fit(model: nn.Module, views: list[Tensor], bfloat16: bool, num_chunks: int) -> tuple[Tensor, int]:
    """Mean probabilities, shape (B, C), and the number of chunks in which they fit into memory: doubled until it does.

    Raises OutOfMemoryError where chunks of one window do not fit.
    """
    while True:
        mean_probs = _mean_probs(model, views, bfloat16, num_chunks)
        if mean_probs is not None:
            return mean_probs, num_chunks
        num_chunks *= 2


def _mean_probs(model: nn.Module, views: list[Tensor], bfloat16: bool, num_chunks: int) -> Tensor | None:
    """Mean probabilities, shape (B, C), of a network over views of a batch, computed in chunks.

    None where memory runs out and more chunks may do.
    """
    chunk_size = -(-len(views[0]) // num_chunks)  # rounded up
    try:
        with torch.autocast(views[0].device.type, torch.bfloat16, enabled=bfloat16):
            logits = [_logits_in_chunks(model, view, chunk_size) for view in views]
        return torch.stack([view_logits.float().softmax(1) for view_logits in logits]).mean(0)
    except torch.OutOfMemoryError:
        if chunk_size == 1:
            raise
    return None


def _logits_in_chunks(model: nn.Module, pictures: Tensor, chunk_size: int) -> Tensor:
    return torch.cat([model(chunk) for chunk in pictures.split(chunk_size)])
