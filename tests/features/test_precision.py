import itertools

import pytest
import torch

from melgpu.features.precision import float32_precision

GENERIC, CUDA = torch.backends, torch.backends.cudnn
CONVOLUTION, PRODUCT = torch.backends.cudnn.conv, torch.backends.cuda.matmul


@pytest.fixture(autouse=True)
def switches():
    """Restores torch's own settings: TF32 for convolutions alone."""
    yield
    for switch, setting in ((GENERIC, "none"), (CUDA, "none"), (CONVOLUTION, "tf32"), (PRODUCT, "none")):
        switch.fp32_precision = setting


def test_the_precision_holds_inside_the_block():
    for precision in ("ieee", "tf32"):
        with float32_precision(precision):
            assert CONVOLUTION.fp32_precision == PRODUCT.fp32_precision == precision


@pytest.mark.parametrize("settings", list(itertools.product(("none", "ieee", "tf32"), repeat=4)))
def test_switches_are_restored_as_they_were_found(settings):
    switches = (GENERIC, CUDA, CONVOLUTION, PRODUCT)
    for switch, setting in zip(switches, settings, strict=True):
        switch.fp32_precision = setting
    values = [switch.fp32_precision for switch in switches]
    with float32_precision("ieee"), pytest.raises(RuntimeError), float32_precision("tf32"):
        raise RuntimeError
    assert [switch.fp32_precision for switch in switches] == values
    # A switch that followed those above it follows them again.
    for parent, value in itertools.product((GENERIC, CUDA), ("ieee", "tf32")):
        parent.fp32_precision = value
        cuda_value = value if parent is CUDA or settings[1] == "none" else settings[1]
        for switch, setting in zip(switches[2:], settings[2:], strict=True):
            assert switch.fp32_precision == (cuda_value if setting == "none" else setting)
