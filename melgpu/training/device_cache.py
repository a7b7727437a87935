"""Decoded audio in a GPU's memory, where it fits beside the networks: measured before they are trained."""

import torch

from melgpu import console, distributed
from melgpu.data.loader import WindowLoader
from melgpu.errors import InputError
from melgpu.models import classifier
from melgpu.models.classifier import use_bfloat16
from melgpu.runs import preflight
from melgpu.runs.job import Job
from melgpu.runs.run import Run
from melgpu.training.state import start_training
from melgpu.training.step import train_step

MARGIN = 0.05  # of the GPU's memory: fragmentation, and what cuDNN takes for other shapes than those measured


def load_device_cache(run: Run, jobs: list[Job], loader: WindowLoader) -> None:
    """Load the tracks of the jobs' round from the PCM cache into the device cache, by `loader.pcm_cache`.

    If that is gpu, or auto and there is a PCM cache that fits into the GPU's memory beside the networks.
    """
    rows = run.round_tracks(jobs[0].round).labelled_rows
    choice = run.recipe.loader.pcm_cache
    if choice == "auto" and run.pcm_cache and loader.device.type == "cuda":
        num_bytes = 4 * len(rows) * loader.track_samples
        choice = "gpu" if _fits_beside_networks(run, jobs, num_bytes, loader.device) else "disk"
    if choice == "gpu":
        preflight.load_to_device(loader, rows)


def _fits_beside_networks(run: Run, jobs: list[Job], num_bytes: int, device: torch.device) -> bool:
    torch.cuda.empty_cache()  # of what predicted before, as a student's teacher: else it would count as used
    free, total = torch.cuda.mem_get_info(device)
    room = free - num_bytes - MARGIN * total
    backbones = {job.backbone for job in jobs}
    # Networks are built and tried only where the audio alone would fit.
    fits = room > 0 and all(_step_memory(run, name, device) < room for name in backbones)
    result = "kept in GPU memory, too" if fits else "not kept in GPU memory: it does not fit beside the networks"
    console.say(f"Decoded audio ({num_bytes / 1e9:.1f} GB) is {result}")
    return fits


def _step_memory(run: Run, backbone: str, device: torch.device) -> float:
    """The bytes of a GPU that a network and its training step take; infinity where they do not fit."""
    recipe = run.recipe
    # Weights are random, and all of them train, as they do after the warm-up.
    recipe = recipe.model_copy(update={"backbone": recipe.backbone.model_copy(update={"pretrained": False})})
    optim = recipe.optim_for(backbone).model_copy(update={"warmup_epochs": 0})
    num_classes = len(run.class_names)
    torch.cuda.reset_peak_memory_stats(device)
    model = classifier.build(backbone, num_classes, recipe).to(device)
    training = start_training(model, optim, recipe.machine.model_copy(update={"compile": False}))
    pictures = torch.rand(optim.batch_size, 3, recipe.mel.image_size, recipe.mel.image_size, device=device)
    soft_targets = torch.full((optim.batch_size, num_classes), 1 / (optim.batch_size * num_classes), device=device)
    try:
        train_step(training, model, pictures, soft_targets, use_bfloat16(optim.precision, device), None)
    except InputError:  # out of memory even with one window
        return float("inf")
    finally:
        torch.cuda.empty_cache()  # the cache is in one piece, for which freed blocks may be too small
    if training.micro_batch < recipe.machine.micro_batch:  # the batch had to be divided
        return float("inf")
    peak_bytes = torch.cuda.max_memory_reserved(device)
    if distributed.world_size() > 1:  # DistributedDataParallel copies the gradients into buckets
        peak_bytes += sum(4 * parameter.numel() for parameter in model.parameters())
    return peak_bytes
