"""Inference: class probabilities of batches with flip-TTA; the pictures are computed once for many networks."""

import contextlib
from collections.abc import Generator, Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from melgpu.data.batch import Batch, Item
from melgpu.errors import InputError, is_out_of_memory
from melgpu.features.augment import flip_time


@torch.inference_mode()
def window_probs(
    models: Sequence[nn.Module],
    features: nn.Module,
    batches: Iterable[Batch],
    flip: bool,
    bfloat16: bool,
    min_batch: int = 0,
) -> Generator[tuple[Batch, Tensor]]:
    """Class probabilities of each batch's windows, shape (K, B, C), float32 on the CPU, for K models in eval mode.

    Windows that are not valid (`Batch.valid`) get probabilities, too: of silence, for the caller to replace. With
    `flip`, the mean over each picture and its time flip. Pictures and flips are computed once for all models. On a GPU
    the next batch is queued before the results of one are synchronized. Batches of fewer than `min_batch` windows are
    computed with silence behind them: results of kernels depend on the size of a batch, by rounding.
    """
    for model in models:
        model.eval()
    on_cpu = all(parameter.device.type == "cpu" for parameter in models[0].parameters())
    queued = _queue_batches(models, features, batches, flip, bfloat16, min_batch)
    with contextlib.closing(queued if on_cpu else delay_by_one(queued)) as results:
        for batch, probs, nonfinite, copied in results:
            if copied:
                copied.synchronize()
            if probs.isnan().any():  # checked on the CPU, where it needs no synchronization
                problems = describe_nonfinite(batch, nonfinite)
                raise InputError(problems or "a network's output is NaN: its training has diverged")
            yield batch, probs


def _queue_batches(
    models: Sequence[nn.Module],
    features: nn.Module,
    batches: Iterable[Batch],
    flip: bool,
    bfloat16: bool,
    min_batch: int,
) -> Generator[tuple[Batch, Tensor, Tensor, torch.cuda.Event | None]]:
    """Each batch, its probabilities and a mask of pictures that are not finite, (B,), and the event of their copies.

    On a GPU the two copies are complete only after the event; on a CPU there is none.
    """
    num_chunks = 1
    for batch in batches:
        count = len(batch.starts)
        waves = F.pad(batch.waves, (0, 0, 0, min_batch - count)) if count < min_batch else batch.waves
        pictures = features(waves)
        views = [pictures, flip_time(pictures)] if flip else [pictures]
        model_probs = []
        for model in models:
            # What fits is used for later models and batches, too: running out of memory costs a pass.
            mean_probs, num_chunks = _mean_probs_that_fit(model, views, bfloat16, num_chunks)
            model_probs.append(mean_probs)
        probs = torch.stack(model_probs)[:, :count].to("cpu", non_blocking=True)
        nonfinite = pictures[:count, 0, 0, 0].isnan()  # a picture is NaN throughout or not at all
        nonfinite = nonfinite.to("cpu", non_blocking=True)
        copied = torch.cuda.current_stream(pictures.device).record_event() if pictures.is_cuda else None
        yield batch, probs, nonfinite, copied


def delay_by_one(queued: Generator[Item]) -> Generator[Item]:
    """Each item after the following one has been queued: the device has work while the consumer waits for an item."""
    pending = []
    with contextlib.closing(queued):
        for item in queued:
            pending.append(item)
            if len(pending) == 2:
                yield pending.pop(0)
        yield from pending


def describe_nonfinite(batch: Batch, nonfinite: Tensor) -> list[str]:
    """One problem for each window of a batch that a mask, shape (B,), marks as not finite."""
    windows = zip(batch.tracks[nonfinite].tolist(), batch.starts[nonfinite].tolist(), strict=True)
    return [f"row {row} of the manifest, window at sample {start}: its picture is NaN" for row, start in windows]


def _mean_probs_that_fit(model: nn.Module, views: list[Tensor], bfloat16: bool, num_chunks: int) -> tuple[Tensor, int]:
    """Mean probabilities, shape (B, C), and the number of chunks in which they fit into memory: doubled until it does.

    Raises torch's RuntimeError where chunks of one window do not fit.
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
    except RuntimeError as error:
        if chunk_size == 1 or not is_out_of_memory(error):
            raise
    return None


def _logits_in_chunks(model: nn.Module, pictures: Tensor, chunk_size: int) -> Tensor:
    return torch.cat([model(chunk) for chunk in pictures.split(chunk_size)])
