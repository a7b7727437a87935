"""What is exported, and what the file says about it: one JSON object, `melgpu`, in the file's metadata.

Rates are in Hz, times in s.
"""

import json
from dataclasses import asdict, dataclass
from typing import Literal

import melgpu
from melgpu.data import windows
from melgpu.models import classifier
from melgpu.models.backbones import find_backbone
from melgpu.models.classifier import LoadedNetwork
from melgpu.recipe_schema import BackboneSpec

KEY = "melgpu"
Format = Literal["onnx", "pt2"]
Form = Literal["windows", "track"]
Precision = Literal["float32", "float16", "int8"]


@dataclass(frozen=True)
class ExportOptions:
    """How a network is exported.

    form : `windows`: waves (B, T) of `window_s` to probabilities (B, C); `track`: a wave (T,) of any length to (C,)
    precision : of the network; the front end is in float32
    """

    format: Format
    form: Form
    precision: Precision

    @property
    def input_name(self) -> str:
        return "waves" if self.form == "windows" else "wave"


@dataclass(frozen=True)
class FileMetadata:
    """All that a program without melgpu needs to use the file, and where the network comes from.

    hop_s, track_s : a track is repeated or cut to `track_s`; a window begins every `hop_s`
    flip : whether the probabilities are the mean over each picture and its mirror image
    pretrained : timm's name of the pretrained weights; None where training began with others, or with none
    weights_license : of the pretrained weights that the network began with, as timm names it
    git_commit : of melgpu when the network was trained
    """

    form: Form
    class_names: tuple[str, ...]
    sample_rate: int
    window_s: float
    window_samples: int
    hop_s: float
    track_s: float
    flip: bool
    precision: Precision
    backbone: str
    round: int
    fold: int
    pretrained: str | None
    weights_license: str
    recipe_digest: str
    checkpoint_digest: str
    melgpu_version: str
    git_commit: str | None

    def to_json(self) -> str:
        return json.dumps(asdict(self), ensure_ascii=False)


def describe(network: LoadedNetwork, checkpoint_digest: str, options: ExportOptions) -> FileMetadata:
    """The metadata of an exported network."""
    metadata = network.metadata
    provenance = metadata.provenance
    recipe = metadata.recipe
    return FileMetadata(
        form=options.form,
        class_names=tuple(metadata.class_names),
        sample_rate=recipe.audio.sample_rate,
        window_s=recipe.windows.window_s,
        window_samples=windows.to_samples(recipe.windows.window_s, recipe.audio.sample_rate),
        hop_s=recipe.windows.predict_hop_s,
        track_s=recipe.audio.track_s,
        flip=recipe.predict.flip,
        precision=options.precision,
        backbone=provenance.backbone,
        round=provenance.round,
        fold=provenance.fold,
        pretrained=pretrained_name(provenance.backbone, recipe.backbone),
        weights_license=weights_license(provenance.backbone, recipe.backbone),
        recipe_digest=provenance.recipe_digest,
        checkpoint_digest=checkpoint_digest,
        melgpu_version=melgpu.__version__,
        git_commit=metadata.environment.git_commit,
    )


def pretrained_name(backbone: str, spec: BackboneSpec) -> str | None:
    """A network's name with the tag of the weights that training began with, `tf_efficientnet_lite0.in1k`."""
    is_timms = spec.pretrained and not spec.weights_dir
    return find_backbone(backbone).timm_name if is_timms else None


def weights_license(backbone: str, spec: BackboneSpec) -> str:
    """The licence of the weights that training began with, as far as it is known."""
    if not spec.pretrained:
        return "none: trained from scratch"
    license_name = classifier.pretrained_license(backbone) or "unknown"
    return f"unknown: {spec.weights_dir} (timm's are {license_name})" if spec.weights_dir else license_name
