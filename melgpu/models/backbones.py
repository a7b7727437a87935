"""Names of backbones: the six of 2019 and all of timm's."""

import difflib
from dataclasses import dataclass

import timm

from melgpu.errors import InputError


@dataclass(frozen=True)
class TimmBackbone:
    """`timm_name` is model.weights; `hidden` the width of the head's hidden layer."""

    timm_name: str
    hidden: int


# The networks of the original solution, with its widths of the hidden layer.
BACKBONES = {
    "densenet169": TimmBackbone("densenet169.tv_in1k", 256),
    "densenet201": TimmBackbone("densenet201.tv_in1k", 256),
    "inception_resnet_v2": TimmBackbone("inception_resnet_v2.tf_in1k", 512),
    "inception_v3": TimmBackbone("inception_v3.tf_in1k", 256),
    "resnet50": TimmBackbone("resnet50.tv_in1k", 256),
    # timm's `xception` is a deprecated alias.
    "xception": TimmBackbone("legacy_xception.tf_in1k", 512),
}


def find_backbone(name: str) -> TimmBackbone:
    """One of BACKBONES, or timm's network of that name, with its default weights where the name has none.

    Raises InputError where timm has no such network.
    """
    if name in BACKBONES:
        return BACKBONES[name]
    try:
        config = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    except RuntimeError:  # timm has no such pretrained tag
        config = None
    if config:
        is_default = config.tag and "." not in name
        timm_name = f"{name}.{config.tag}" if is_default else name
        return TimmBackbone(timm_name, 256)  # the width of most of BACKBONES
    known_names = dict.fromkeys([*BACKBONES, *timm.list_models(), *timm.list_pretrained()])  # some are in two
    suggestions = difflib.get_close_matches(name, known_names)
    hint = f"; did you mean {', '.join(suggestions)}?" if suggestions else ""
    raise InputError(f"there is no network {name}{hint}")


def find_repository(name: str) -> str | None:
    """The repository of the Hugging Face hub with a network's weights; None for the few that are elsewhere."""
    return timm.get_pretrained_cfg_value(find_backbone(name).timm_name, "hf_hub_id")
