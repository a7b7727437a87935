"""What an exported file says about the weights that training began with."""

import pytest

from melgpu.export import metadata
from melgpu.recipe import load_recipe


@pytest.mark.parametrize(
    ("backbone", "overrides", "name"),
    [
        ("tf_efficientnet_lite0", [], "tf_efficientnet_lite0.in1k"),
        ("xception", [], "legacy_xception.tf_in1k"),
        ("resnet50.a1_in1k", [], "resnet50.a1_in1k"),
        ("resnet50", ["backbone.pretrained=false"], None),
        ("resnet50", ["backbone.weights_dir='weights'"], None),
    ],
)
def test_pretrained_weights_have_the_name_that_timm_gives(backbone, overrides, name):
    assert metadata.pretrained_name(backbone, load_recipe([], overrides).backbone) == name
