"""The classifier over one of six backbones or any other of timm's: pretrained weights, head, parameter groups.

A classifier is: batch norm of the picture -> timm network without its own classifier, global max pooling -> linear
layer with ReLU -> dropout -> one logit per class. Pictures are (B, 3, S, S); logits (B, C).
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import timm
import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from melgpu.errors import InputError, one_line
from melgpu.models import checkpoint, weights
from melgpu.models.backbones import BACKBONES, find_backbone
from melgpu.models.metadata import NetworkMetadata
from melgpu.recipe import Recipe

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # of natural images, red, green and blue in [0, 1]
IMAGENET_STD = (0.229, 0.224, 0.225)
NEW_LAYERS = ("fc_norm.",)  # which a ViT has for pooling, in place of the norm in its file


def pretrained_license(name: str) -> str | None:
    """The licence of a network's pretrained weights, `apache-2.0`; None where timm does not know it."""
    return timm.get_pretrained_cfg_value(find_backbone(name).timm_name, "license")


def check_forward(name: str, recipe: Recipe) -> None:
    """Run one forward pass of a network that is not in BACKBONES. Raises InputError where it fails."""
    if find_backbone(name) is BACKBONES.get(name):
        return
    size = recipe.mel.image_size
    try:
        with torch.inference_mode():
            model = Classifier(name, 2, recipe).eval()
            model(torch.zeros(1, 3, size, size))
    except Exception as error:  # each network fails in its own way
        raise InputError(f"{name}: this network cannot be used here ({one_line(error)})") from None


class Classifier(nn.Module):
    """A backbone with input norm and head."""

    body: Any  # an nn.Module with further attributes, for which timm has no type

    def __init__(self, name: str, num_classes: int, recipe: Recipe, pretrained_options: dict | None = None):
        """`pretrained_options` are timm's keyword arguments for pretrained weights; None initializes at random."""
        super().__init__()
        backbone = find_backbone(name)
        options = pretrained_options or {}
        if timm.get_pretrained_cfg_value(backbone.timm_name, "fixed_input_size"):  # of a ViT, for example
            options = {**options, "img_size": recipe.mel.image_size}
        # The order of the modules is that of the random numbers that initialize them, and of their parameters.
        self.body = timm.create_model(backbone.timm_name, num_classes=0, global_pool="max", **options)
        self.input_norm = nn.BatchNorm2d(3)
        self.head = nn.Sequential(
            nn.Linear(self.body.head_hidden_size, backbone.hidden),
            nn.ReLU(),
            nn.Dropout(recipe.backbone.dropout),
            nn.Linear(backbone.hidden, num_classes),
        )
        if pretrained_options:
            _match_pretrained_statistics(self.input_norm, self.body.pretrained_cfg)
        self.set_memory_format(recipe.machine.channels_last)

    def set_memory_format(self, channels_last: bool) -> "Classifier":
        """Memory format of weights and pictures, channels last or contiguous: the same numbers at another speed."""
        self._memory_format = torch.channels_last if channels_last else torch.contiguous_format
        return cast(Any, self).to(memory_format=self._memory_format)  # torch's annotations lack the argument

    def forward(self, pictures: Tensor) -> Tensor:
        """Logits (B, C) of pictures (B, 3, S, S)."""
        # The copy has no name, so that its memory is free again when the body runs.
        normalized = self.input_norm(pictures.contiguous(memory_format=self._memory_format))
        return self.head(self.body(normalized))

    def freeze_body(self, frozen: bool) -> None:
        """Train the head alone (running statistics of the input norm are still updated), or everything."""
        for module in (self.body, self.input_norm):
            module.requires_grad_(not frozen)
        self._body_frozen = frozen

    _body_frozen = False

    def train(self, mode: bool = True) -> "Classifier":
        super().train(mode)
        if self._body_frozen:
            self.body.eval()  # a frozen body's running statistics shall not change either
        return self


def _match_pretrained_statistics(norm: nn.BatchNorm2d, pretrained_cfg: dict) -> None:
    """Give the norm's output the mean and standard deviation of the network's inputs in pretraining.

    Those were natural images after the network's own preprocessing, (image - mean) / std.
    """
    imagenet = torch.tensor([IMAGENET_MEAN, IMAGENET_STD])
    preprocessing = torch.tensor([pretrained_cfg["mean"], pretrained_cfg["std"]])
    with torch.no_grad():
        norm.weight.copy_(imagenet[1] / preprocessing[1])
        norm.bias.copy_((imagenet[0] - preprocessing[0]) / preprocessing[1])


def build(name: str, num_classes: int, recipe: Recipe) -> Classifier:
    """A network before training, with pretrained weights where the recipe has `backbone.pretrained`.

    Raises InputError where ImageNet weights are missing, with the alternatives.
    """
    spec = recipe.backbone
    if not spec.pretrained:
        return Classifier(name, num_classes, recipe)
    file = weights.find_local(name, spec)
    if file is None:
        return _build_by_download(name, num_classes, recipe)
    overlay = {"file": str(file), "custom_load": False}  # else timm takes the files of some networks for those of JAX
    try:
        # Read here first, without pickle: an older timm would unpickle the file.
        file_state = timm.models.load_state_dict(str(file), weights_only=True)
        model = Classifier(name, num_classes, recipe, {"pretrained": True, "pretrained_cfg_overlay": overlay})
    except Exception as error:  # timm and the network raise different ones
        raise InputError(f"{file}: not weights of {name} ({_first_line(error)})") from None
    expected = [key for key in model.body.state_dict() if not key.startswith(NEW_LAYERS)]
    missing = [key for key in expected if key not in file_state]  # timm ignores some of these
    if missing and spec.weights_dir:  # the hub's own files may have other names, which timm knows
        raise InputError(f"{file}: not weights of {name}, {len(missing)} tensors are missing ({missing[0]}, ...)")
    return model


def _build_by_download(name: str, num_classes: int, recipe: Recipe) -> Classifier:
    """A network whose weights timm downloads, into the hub's cache. Raises InputError."""
    if problem := weights.find_download_problem([name], recipe.backbone):
        raise InputError(problem)
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # hides its retries; the error is raised below
    try:
        return Classifier(name, num_classes, recipe, {"pretrained": True})
    except Exception as error:  # timm, the hub and the network raise different ones
        raise InputError(weights.download_problem([name], _first_line(error), recipe.backbone)) from None


def _first_line(error: Exception) -> str:
    message = str(error).strip() or type(error).__name__
    return message.splitlines()[0]


@dataclass(frozen=True)
class LoadedNetwork:
    """A trained network, on the CPU, and what its checkpoint says about it."""

    model: Classifier
    metadata: NetworkMetadata


def load(path: Path) -> LoadedNetwork:
    """A trained network from a checkpoint. Raises CheckpointError."""
    tensors, metadata = checkpoint.load(path, NetworkMetadata)
    try:
        model = Classifier(metadata.provenance.backbone, len(metadata.class_names), metadata.recipe)
    except (InputError, RuntimeError, AssertionError) as error:
        raise checkpoint.CheckpointError(f"{path}: no such network can be built ({one_line(error)})") from None
    checkpoint.load_into(model, tensors, path)
    return LoadedNetwork(model, metadata)


def parameter_groups(model: Classifier, head_only: bool, weight_decay: float) -> list[dict]:
    """Parameter groups for AdamW; biases and norms do not decay."""
    by_decay: dict[float, list[nn.Parameter]] = {}
    for parameter in model.head.parameters() if head_only else model.parameters():
        decay = weight_decay if parameter.ndim > 1 else 0.0  # biases and norms have one axis
        by_decay.setdefault(decay, []).append(parameter)
    return [{"params": group, "weight_decay": decay} for decay, group in by_decay.items()]


MovingAverage = ModelEmaV3  # exponential, of a network's weights; its `module` is a network with the averages


def make_ema(model: Classifier, decay: float) -> MovingAverage:
    """The moving average of a network's weights from now on; the decay warms up to `decay`."""
    return MovingAverage(model, decay, use_warmup=True)


def use_bfloat16(precision: str, device: torch.device) -> bool:
    """Whether the network runs in bfloat16; `auto`: where the device has matrix units for it."""
    if precision != "auto":
        return precision == "bfloat16"
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)  # Ampere, the first with such units
    return torch.cpu._is_amx_tile_supported()  # torch has no public function for it
