"""Six networks as one table: timm name, statistics, head.

A classifier is: batch norm on the picture -> timm network without its own classifier, global max pooling -> dense with
ReLU -> dropout -> one logit per class. Pictures are (B, 3, S, S); logits (B, C).
"""

import logging
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
from torch import Tensor, nn

from melgpu import checkpoint, claims, recipe
from melgpu.errors import InputError, brief
from melgpu.features import LogMel
from melgpu.recipe import BackboneSpec, Recipe

NATURAL_MEAN, NATURAL_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's pictures
WEIGHT_FILES = ("{}.safetensors", "{}/model.safetensors", "{}.pth", "{}/pytorch_model.bin")


@dataclass(frozen=True)
class Backbone:
    """`timm_name` is model.weights; `hidden` the width of the head."""

    timm_name: str
    hidden: int


BACKBONES = {
    "densenet169": Backbone("densenet169.tv_in1k", 256),
    "densenet201": Backbone("densenet201.tv_in1k", 256),
    "inception_resnet_v2": Backbone("inception_resnet_v2.tf_in1k", 512),
    "inception_v3": Backbone("inception_v3.tf_in1k", 256),
    "resnet50": Backbone("resnet50.tv_in1k", 256),
    "xception": Backbone("legacy_xception.tf_in1k", 512),
}


class Classifier(nn.Module):
    """One of the six networks with its head."""

    def __init__(
        self, name: str, num_classes: int, dropout: float, weights: dict | None = None, front_end: LogMel | None = None
    ):
        """`weights` are timm's keyword arguments for pretrained weights; None trains from scratch.

        A `front_end` that learns belongs to its network: it is trained and saved with it.
        """
        super().__init__()
        self.front_end = front_end
        backbone = BACKBONES[name]
        self.body = timm.create_model(backbone.timm_name, num_classes=0, global_pool="max", **(weights or {}))
        self.input_norm = nn.BatchNorm2d(3)
        self.head = nn.Sequential(
            nn.Linear(self.body.num_features, backbone.hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(backbone.hidden, num_classes),
        )
        if weights:
            _match_statistics(self.input_norm, self.body.pretrained_cfg)
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, C) of images (B, 3, S, S)."""
        return self.head(self.body(self.input_norm(images.contiguous(memory_format=torch.channels_last))))

    def freeze_body(self, frozen: bool) -> None:
        """Train the head alone (the input norm still learns its running statistics), or everything."""
        for module in (self.body, self.input_norm):
            module.requires_grad_(not frozen)
        self._body_frozen = frozen

    _body_frozen = False

    def train(self, mode: bool = True) -> "Classifier":
        super().train(mode)
        if self._body_frozen:
            self.body.eval()
        return self


def _match_statistics(norm: nn.BatchNorm2d, pretrained: dict) -> None:
    """Let a standardized picture look to the network as a standardized natural picture did in its pretraining."""
    natural = torch.tensor([NATURAL_MEAN, NATURAL_STD])
    own = torch.tensor([pretrained["mean"], pretrained["std"]])
    with torch.no_grad():
        norm.weight.copy_(natural[1] / own[1])
        norm.bias.copy_((natural[0] - own[0]) / own[1])


def build(name: str, num_classes: int, spec: BackboneSpec, front_end: LogMel | None = None) -> Classifier:
    """A network ready to train, with the weights that the recipe asks for.

    Raises InputError where ImageNet weights cannot be had, saying how to go on.
    """
    if not spec.pretrained:
        return Classifier(name, num_classes, spec.dropout, front_end=front_end)
    file = find_weights(name, Path(spec.weights_dir)) if spec.weights_dir else None
    overlay = {"pretrained_cfg_overlay": {"file": str(file)}} if file else {}
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # its retries; what matters is said below
    try:
        given = timm.models.load_state_dict(str(file), weights_only=True) if file else None  # older timm would unpickle
        model = Classifier(name, num_classes, spec.dropout, {"pretrained": True, **overlay}, front_end)
        missing = [key for key in model.body.state_dict() if key not in given] if file else []  # timm may not mind
    except Exception as error:  # timm, the hub and the network each have their own
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        problem = f"{file}: not weights of {name} ({reason})" if file else _no_download(name, reason)
        raise InputError(problem) from None
    if missing:
        raise InputError(f"{file}: not weights of {name}, it lacks {len(missing)} tensors ({missing[0]}, ...)")
    return model


def own_front_end(settings: Recipe) -> LogMel | None:
    """A front end for one network alone, where the recipe lets it learn; None where all share one."""
    return LogMel(settings.mel, settings.audio.sample_rate) if settings.mel.trainable != "none" else None


def _no_download(name: str, reason: str) -> str:
    return (
        f"{name}: ImageNet weights could not be downloaded ({reason}). Either fetch "
        f"timm/{BACKBONES[name].timm_name} from the Hugging Face hub elsewhere, put it into a folder as "
        f"{BACKBONES[name].timm_name}.safetensors and add --set backbone.weights_dir=FOLDER, "
        "or train from scratch: add --recipe scratch (backbone.pretrained = false and learning rates that suit it)."
    )


def find_weights(name: str, folder: Path) -> Path:
    """The file of ImageNet weights of a network. Raises InputError with the names that were looked for."""
    timm_name = BACKBONES[name].timm_name
    stems = (timm_name, timm_name.split(".")[0], name)
    candidates = [folder / pattern.format(stem) for stem in stems for pattern in WEIGHT_FILES]
    for path in candidates:
        if path.is_file():
            return path
    raise InputError(f"{folder}: no weights of {name}; a file named {candidates[0].name} is expected there")


def load(path: Path) -> tuple[Classifier, dict]:
    """A trained network from its checkpoint, and what the checkpoint says of it. Raises CheckpointError."""
    tensors, about = checkpoint.load(path)
    claims.check(claims.Network, about, path)
    settings = recipe.validate(about["recipe"], f"of {path}")
    try:
        own = own_front_end(settings)
        model = Classifier(about["backbone"], len(about["class_names"]), dropout=0.0, front_end=own)
    except (InputError, RuntimeError) as error:
        raise checkpoint.CheckpointError(f"{path}: no such network can be built ({brief(error)})") from None
    checkpoint.load_into(model, tensors, path)
    return model, about


def use_bfloat16(precision: str, device: torch.device) -> bool:
    """Whether the network runs in bfloat16; `auto` says yes where the device has matrix units for it."""
    if precision != "auto":
        return precision == "bfloat16"
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return torch.cpu._is_amx_tile_supported()
