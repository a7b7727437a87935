"""NVIDIA DALI's front end, where it is installed: a recipe's pictures by DALI operators, from waves on the device."""

from collections.abc import Callable

import nvidia.dali.fn as fn
import nvidia.dali.types as types
import torch
from nvidia.dali import pipeline_def
from nvidia.dali.plugin.pytorch import feed_ndarray

from melgpu.recipe import Recipe


def front_end(recipe: Recipe, device: torch.device) -> Callable[[torch.Tensor], torch.Tensor]:
    """A callable from waves (B, T) to pictures (B, 3, S, S); it builds a pipeline for each batch size."""
    on_gpu, pipelines = device.type == "cuda", {}

    def render(waves: torch.Tensor) -> torch.Tensor:
        options = {
            "batch_size": len(waves),
            "num_threads": torch.get_num_threads(),
            "prefetch_queue_depth": 1,
            "device_id": (device.index or 0) if on_gpu else None,
        }
        if len(waves) not in pipelines:
            pipelines[len(waves)] = _pictures(recipe, "gpu" if on_gpu else "cpu", **options)
            pipelines[len(waves)].build()
        pipeline = pipelines[len(waves)]
        pipeline.feed_input("waves", list(waves) if on_gpu else list(waves.numpy()))
        (output,) = pipeline.run()
        dense = output.as_tensor()
        pictures = torch.empty(dense.shape(), device=device)
        feed_ndarray(dense, pictures, cuda_stream=torch.cuda.current_stream(device) if on_gpu else None)
        return pictures.permute(0, 3, 1, 2).expand(-1, 3, -1, -1)

    return render


@pipeline_def
def _pictures(recipe: Recipe, backend: str) -> object:
    """Waves to (S, S, 1); Slaney's scale and norm, dB re each window's maximum; `backend` is "cpu" or "gpu"."""
    spec, rate = recipe.mel, recipe.audio.sample_rate
    waves = fn.external_source(name="waves", device=backend, dtype=types.FLOAT, ndim=1)
    frames = {"nfft": spec.n_fft, "window_length": spec.n_fft, "window_step": spec.hop_length}
    mels = fn.mel_filter_bank(
        fn.spectrogram(waves, reflect_padding=False, **frames), sample_rate=float(rate), nfilter=spec.n_mels
    )
    decibels = fn.to_decibels(mels, multiplier=10.0, cutoff_db=-spec.top_db)
    grey = fn.reshape(fn.expand_dims(decibels / spec.top_db + 1, axes=[2]), layout="HWC")
    return fn.resize(fn.flip(grey, horizontal=0, vertical=1), size=[spec.image_size, spec.image_size])
