"""The arithmetic of the machine's limits, against figures by hand."""

import pytest
import torch
from torch import nn

from benchmarks import roofline, timing
from melgpu.recipe import load_recipe

CPU = torch.device("cpu")


class Two(nn.Module):
    """A convolution of 3 x 3 x 3 to 4 channels that keeps the size, the mean, and 4 to 2."""

    def __init__(self):
        super().__init__()
        self.convolution, self.linear = nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.Linear(4, 2, bias=False)

    def forward(self, images):
        return self.linear(self.convolution(images).mean((2, 3)))


def test_flops_of_a_network_by_hand():
    convolution, linear = 2 * 8 * 8 * 4 * 27, 2 * 4 * 2
    assert roofline.network_flops(Two(), 8, training=False) == convolution + linear
    of_weights, of_inputs = convolution + linear, linear  # nobody wants the picture's gradient
    assert roofline.network_flops(Two(), 8, training=True) == convolution + linear + of_weights + of_inputs


def test_bytes_of_a_network_by_hand():
    forward = (3 * 64 + 4 * 64 + 108 / 4) + (4 + 2 + 8 / 4)  # what goes in, what comes out, the weights of 4 pictures
    assert roofline.network_bytes(Two(), 8, 2, training=False, batch_size=4) == 2 * forward
    assert roofline.network_bytes(Two(), 8, 2, training=True, batch_size=4) == 6 * forward


def test_work_of_a_front_end():
    zalo = load_recipe([])
    frames = 862
    convolution = frames * 2 * 2048 * 1025 * 2
    assert roofline.front_end_flops("nnaudio", zalo) > convolution
    assert roofline.front_end_flops("fft", zalo) == pytest.approx(frames * 2.5 * 2048 * 11, rel=0.25)
    assert roofline.front_end_bytes(zalo) == 4 * 441_000 + 4 * 512 * 512


def test_peaks_are_measured(quick_limits):
    assert roofline.matmul_flops(CPU, torch.float32, 0.01) > 1e8
    assert roofline.copy_bandwidth(CPU, 0.01) > 1e8


def test_what_passes_its_limit_is_told():
    assert timing.is_beyond({"windows_per_s": 11.0, "limit_windows_per_s": 10.0})
    assert not timing.is_beyond({"windows_per_s": 10.2, "limit_windows_per_s": 10.0})
    assert not timing.is_beyond({"windows_per_s": 1e9, "limit_windows_per_s": None})
