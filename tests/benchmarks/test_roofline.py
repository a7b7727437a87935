"""FLOPs and bytes of the roofline model, against values computed by hand."""

import pytest
import torch
from torch import nn

from benchmarks import roofline, timing
from melgpu.recipe import load_recipe

CPU = torch.device("cpu")


class TwoLayers(nn.Module):
    """A 3 x 3 convolution from 3 to 4 channels at the same size, global mean, and a linear layer from 4 to 2."""

    def __init__(self):
        super().__init__()
        self.convolution, self.linear = nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.Linear(4, 2, bias=False)

    def forward(self, images):
        return self.linear(self.convolution(images).mean((2, 3)))


def test_flops_of_a_network_by_hand():
    convolution, linear = 2 * 8 * 8 * 4 * 27, 2 * 4 * 2
    assert roofline.network_flops(TwoLayers(), 8, training=False) == convolution + linear
    weight_gradients, input_gradients = convolution + linear, linear  # the picture needs no gradient
    assert (
        roofline.network_flops(TwoLayers(), 8, training=True)
        == convolution + linear + weight_gradients + input_gradients
    )


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_flops_of_a_grouped_convolution_by_hand(groups):
    first = nn.Conv2d(3, 8, 1, bias=False)
    grouped = nn.Conv2d(8, 16, 3, padding=1, stride=2, groups=groups, bias=False)
    network = nn.Sequential(first, grouped, nn.AdaptiveAvgPool2d(1))
    first_flops = 2 * 10 * 10 * 8 * 3
    grouped_flops = 2 * 5 * 5 * 16 * 9 * (8 // groups)  # each output channel sees the inputs of its group
    assert roofline.network_flops(network, 10, training=False) == first_flops + grouped_flops
    # Backward: the gradients of both weights, and of the input of the second layer.
    assert roofline.network_flops(network, 10, training=True) == 2 * first_flops + 3 * grouped_flops


def test_flops_of_a_depthwise_transposed_convolution_by_hand():
    first = nn.Conv2d(3, 4, 1, bias=False)
    transposed = nn.ConvTranspose2d(4, 4, 2, stride=2, groups=4, bias=False)
    network = nn.Sequential(first, transposed, nn.AdaptiveAvgPool2d(1))
    first_flops = 2 * 6 * 6 * 4 * 3
    transposed_flops = 2 * 6 * 6 * 4 * 4  # each input value times the 2 x 2 weights of its channel
    assert roofline.network_flops(network, 6, training=True) == 2 * first_flops + 3 * transposed_flops


def test_bytes_of_a_network_by_hand():
    forward = (3 * 64 + 4 * 64 + 108 / 4) + (4 + 2 + 8 / 4)  # inputs, outputs, weights shared by 4 pictures
    assert roofline.network_bytes(TwoLayers(), 8, 2, training=False, batch_size=4) == 2 * forward
    assert roofline.network_bytes(TwoLayers(), 8, 2, training=True, batch_size=4) == 6 * forward


def test_flops_and_bytes_of_a_front_end():
    zalo = load_recipe([])
    frames = 862
    convolution = frames * 2 * 2048 * 1025 * 2
    assert roofline.front_end_flops("nnaudio", zalo) > convolution
    assert roofline.front_end_flops("fft", zalo) == pytest.approx(frames * 2.5 * 2048 * 11, rel=0.25)
    assert roofline.front_end_bytes(zalo) == 4 * 441_000 + 4 * 512 * 512


def test_peaks_are_measured(quick_roofline):
    assert roofline.matmul_flops(CPU, torch.float32, 0.01) > 1e8
    assert roofline.copy_bandwidth(CPU, 0.01) > 1e8


def test_a_rate_beyond_the_tolerance_exceeds_its_limit():
    assert timing.exceeds_limit({"windows_per_s": 11.0, "limit_windows_per_s": 10.0})
    assert not timing.exceeds_limit({"windows_per_s": 10.2, "limit_windows_per_s": 10.0})
    assert not timing.exceeds_limit({"windows_per_s": 1e9, "limit_windows_per_s": None})
