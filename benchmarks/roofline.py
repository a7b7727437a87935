"""Physical limits of the machine (matrix products, memory copies), and FLOPs and bytes of the pipeline's stages.

A limit is the best of its samples; a rate that is compared with it is the median of its samples.
"""

import contextlib
import copy

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

from benchmarks import timing
from melgpu.data.windows import to_samples
from melgpu.features.precision import float32_precision
from melgpu.recipe import Recipe

MATRIX_SIZES = {"cpu": (512, 1024, 2048, 4096), "cuda": (4096, 8192, 16384)}  # of square matrices
COPY_BYTES = {"cpu": 2**28, "cuda": 2**30}  # beyond any cache


def matmul_flops(device: torch.device, dtype: torch.dtype, seconds: float = 1.0) -> float:
    """FLOP/s of the best of several large matrix products; float32 as convolutions compute it here (TF32 on a GPU)."""
    with contextlib.nullcontext() if device.type == "cpu" else float32_precision("tf32"):
        return max(_matmul(device, dtype, size, seconds / 4) for size in MATRIX_SIZES[device.type])


def _matmul(device: torch.device, dtype: torch.dtype, size: int, seconds: float) -> float:
    left = torch.randn(size, size, device=device).to(dtype)
    right, out = left.t().contiguous(), torch.empty_like(left)
    return 2 * size**3 / min(timing.measure(lambda: torch.mm(left, right, out=out), device, seconds, min_calls=2))


def copy_bandwidth(device: torch.device, seconds: float = 1.0) -> float:
    """Bytes a second, read and written, by a large copy inside a device's memory."""
    source = torch.ones(COPY_BYTES[device.type], dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * source.numel() / min(timing.measure(lambda: target.copy_(source), device, seconds, min_calls=3))


def host_to_device(device: torch.device, seconds: float = 1.0) -> float:
    """Bytes a second from pinned memory of the host into a GPU's."""
    source = torch.ones(2**28, dtype=torch.uint8).pin_memory()
    target = torch.empty(2**28, dtype=torch.uint8, device=device)
    return source.numel() / min(timing.measure(lambda: target.copy_(source, non_blocking=True), device, seconds))


def _convolution_backward_flops(
    grad_shape: list[int],
    x_shape: list[int],
    weight_shape: list[int],
    _bias: object,
    _stride: object,
    _padding: object,
    _dilation: object,
    transposed: bool,
    _output_padding: object,
    _groups: int,
    output_mask: list[bool],
    out_shape: object = None,
) -> int:
    """FLOPs of a convolution's backward: each of the two gradients that is asked for takes as many as forward.

    torch's own count ignores `groups`: a depthwise convolution of C channels would count C times over. A weight's shape
    has the channels of one group, so that its forward count is right for groups too.
    """
    gradients = sum(bool(wanted) for wanted in output_mask[:2])  # of input and weights; that of the bias only adds
    return gradients * conv_flop_count(x_shape, weight_shape, grad_shape, transposed)


def network_flops(model: nn.Module, image_size: int, training: bool) -> float:
    """FLOPs of a network for one picture: forward, or (`training`) forward and backward."""
    meta_model = copy.deepcopy(model).to("meta").train(training)
    images = torch.zeros(2, 3, image_size, image_size, device="meta")
    formulas = {torch.ops.aten.convolution_backward: _convolution_backward_flops}
    counter = FlopCounterMode(display=False, custom_mapping=formulas)
    with torch.set_grad_enabled(training), counter:
        logits = meta_model(images)
        if training:
            logits.sum().backward()
    return counter.get_total_flops() / len(images)


def network_bytes(model: nn.Module, image_size: int, element_bytes: int, training: bool, batch_size: int) -> float:
    """Bytes that a network moves for one picture where each layer reads its input and weights and writes its output.

    Backward reads and writes about twice as much as forward.
    """
    meta_model = copy.deepcopy(model).to("meta").eval()
    elements = 0.0

    def count(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal elements
        num_weights = sum(parameter.numel() for parameter in module.parameters())
        elements += inputs[0].numel() + output.numel() + num_weights / batch_size

    for module in meta_model.modules():
        if not list(module.children()):
            module.register_forward_hook(count)
    with torch.no_grad():
        meta_model(torch.zeros(1, 3, image_size, image_size, device="meta"))
    return elements * element_bytes * (3 if training else 1)


def front_end_flops(engine: str, recipe: Recipe) -> float:
    """FLOPs of log-mel power for one window: 2.5 n log2 n for a real FFT, or a convolution with n cosines and sines.

    The FFT engines multiply each bin into the two mel bands that contain it, nnAudio by the full filterbank.
    """
    spec, bins = recipe.mel, recipe.mel.n_fft // 2 + 1
    frames = to_samples(recipe.windows.window_s, recipe.audio.sample_rate) // spec.hop_length + 1
    if engine == "nnaudio":
        return frames * (2 * 2 * spec.n_fft * bins + 3 * bins + 2 * bins * spec.n_mels)
    log2 = (spec.n_fft - 1).bit_length()
    return frames * (2.5 * spec.n_fft * log2 + spec.n_fft + 3 * bins + 2 * 2 * bins)


def front_end_bytes(recipe: Recipe) -> float:
    """Bytes that any front end must move for one window: its samples in, one grey picture out."""
    length = to_samples(recipe.windows.window_s, recipe.audio.sample_rate)
    return 4 * length + 4 * recipe.mel.image_size**2
