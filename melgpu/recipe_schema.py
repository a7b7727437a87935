"""The tables of a recipe: names, types and bounds of its settings.

Their meaning and defaults are in `recipes/zalo2019.toml`. Rates are in Hz, times in s, `*_length` and `n_*` in samples
and bins as in librosa.
"""

from typing import Annotated, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, FailFast, Field, ValidationError, model_validator

from melgpu.errors import InputError

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Hop = Annotated[float, Field(ge=0.01, le=36_000)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
BackboneName = Annotated[str, Field(pattern=r"^[a-z0-9_]+(\.[a-z0-9_]+)?$", max_length=100)]  # built in, or of timm
EngineName = Literal["auto", "nnaudio", "fft", "fused"]
StackCNNName = Literal["cnn", "skip_cnn"]
NUM_STACK_CNNS = len(get_args(StackCNNName))
Stacker = Literal["cnn", "skip_cnn", "lightgbm", "multinomial"]
MIN_SUBFOLDS = 3  # of a stack's validation tracks: to fit, to stop early, to evaluate


class Spec(BaseModel):
    """A frozen table of settings; rejects unknown keys and never converts types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    def changed(self, **changes: object) -> Self:
        """A copy with other values, validated, which `model_copy` is not. Raises InputError."""
        try:
            return self.model_validate(self.model_dump() | changes)
        except ValidationError as error:
            details = error.errors(include_url=False)
            raise InputError(".".join([*map(str, each["loc"]), each["msg"]]) for each in details) from None


class AudioSpec(Spec):
    sample_rate: Annotated[int, Field(ge=1000, le=768_000)]
    track_s: Annotated[float, Field(gt=0, le=36_000)]
    min_s: Annotated[float, Field(ge=0, le=36_000)]


class WindowSpec(Spec):
    window_s: Positive
    hop_s: Hop
    dense_hop_s: Hop
    dense_classes: Annotated[tuple[str, ...], FailFast()]
    random_starts: bool
    predict_hop_s: Hop
    public_hop_s: Hop


class FoldSpec(Spec):
    num_folds: Annotated[int, Field(ge=2, le=1000)]
    small_classes: Literal["refuse", "train"]
    seed: Seed
    column: Annotated[str, Field(min_length=1, max_length=100)] | None = None


class MelSpec(Spec):
    engine: EngineName
    channels: Literal["grey", "viridis", "mfcc", "resolutions"]
    range: Literal["fixed", "window"]
    n_fft: Annotated[int, Field(ge=1, le=2**14)]  # nnAudio allocates 4 n_fft^2 bytes: 1 GB
    hop_length: Count
    n_mels: Annotated[int, Field(ge=1, le=4096)]
    fmin: Annotated[float, Field(ge=0)]
    fmax: Annotated[float, Field(ge=0)]  # 0 means the Nyquist frequency
    top_db: Positive
    image_size: Annotated[int, Field(ge=75, le=4096)]  # the minimum input size of the Inception family

    @property
    def fits_fused(self) -> bool:
        """Whether the engine `fused` draws such pictures."""
        return (self.channels, self.range) == ("grey", "fixed")

    @model_validator(mode="after")
    def _check_engine(self) -> Self:
        if self.engine == "fused" and not self.fits_fused:
            raise ValueError(f"mel.engine fused renders grey pictures of fixed range only, not {self.channels}")
        return self


class LoaderSpec(Spec):
    workers: Literal["auto"] | Annotated[int, Field(ge=0, le=1024)]
    prefetch_tracks: Count
    predict_batch_size: Count
    pcm_cache: Literal["auto", "off", "disk", "gpu"]
    on_error: Literal["raise", "quarantine"]
    max_error_fraction: Fraction
    timeout_s: Annotated[float, Field(gt=0, le=86_400)]


class MachineSpec(Spec):
    compile: bool
    channels_last: bool
    feature_batch: Annotated[int, Field(ge=0)]
    micro_batch: Count
    save_minutes: Annotated[float, Field(ge=0, le=10_000)]
    tensorboard: bool
    tuned_on: Annotated[str, Field(max_length=500)]


class BackboneSpec(Spec):
    pretrained: bool | Literal["auto"]
    weights_dir: str
    dropout: Annotated[float, Field(ge=0, lt=1)]


class OptimSpec(Spec):
    lr: Positive
    warmup_lr: Positive
    warmup_epochs: Annotated[int, Field(ge=0)]
    max_epochs: Count
    batch_size: Annotated[int, Field(ge=2)]
    shuffle_tracks: Literal["all"] | Count
    weight_decay: Annotated[float, Field(ge=0, lt=1)]
    balance: Literal["none", "sampling", "weights"]
    label_smoothing: Annotated[float, Field(ge=0, lt=1)]
    ema_decay: Annotated[float, Field(ge=0, lt=1)]
    schedule: Literal["plateau", "cosine"]
    plateau_factor: Annotated[float, Field(gt=0, lt=1)]
    plateau_patience: Count
    stop_patience: Count
    batch_norm_batches: Annotated[int, Field(ge=0)]
    precision: Literal["auto", "float32", "bfloat16"]

    @property
    def total_epochs(self) -> int:
        """The most epochs that a training takes: the warm-up, and `max_epochs` after it."""
        return self.warmup_epochs + self.max_epochs


class OptimOverride(Spec):
    lr: Positive | None = None
    warmup_lr: Positive | None = None
    max_epochs: Count | None = None
    batch_size: Annotated[int, Field(ge=2)] | None = None


class AugmentSpec(Spec):
    flip_probability: Fraction
    num_masks: Annotated[int, Field(ge=0)]
    max_mask: Fraction
    mixup_alpha: Annotated[float, Field(ge=0)]
    speeds: Annotated[tuple[Annotated[float, Field(ge=0.5, le=2)], ...], FailFast(), Field(min_length=1)]

    @model_validator(mode="after")
    def _check_speeds(self) -> Self:
        # A ratio of small whole numbers takes a short kernel to resample by.
        for speed in self.speeds:
            if round(speed, 2) != speed:
                raise ValueError(f"augment.speeds: {speed} has more than two decimals")
        return self


class PredictSpec(Spec):
    flip: bool


class RoundSpec(Spec):
    backbones: Annotated[tuple[BackboneName, ...], Field(min_length=1)]
    folds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)]
    blend: dict[Stacker, Positive]


class PseudoSpec(Spec):
    kind: Literal["hard", "soft"]
    power: Annotated[float, Field(ge=1, le=10)]
    threshold: Fraction
    agreement: Fraction
    max_per_class: Annotated[int, Field(ge=0)]


class StackCNNTrainingSpec(Spec):
    """A training of the stacking CNNs: early stopping, and a cyclic learning rate from `lr` to `max_lr` and back."""

    lr: Positive
    max_lr: Annotated[dict[StackCNNName, Positive], Field(min_length=NUM_STACK_CNNS)]
    half_cycle: Count | Literal["auto"]
    gamma: Annotated[float, Field(gt=0, le=1)]
    patience: Annotated[dict[StackCNNName, Count], Field(min_length=NUM_STACK_CNNS)]

    @model_validator(mode="after")
    def _check(self) -> Self:
        if any(self.lr > max_lr for max_lr in self.max_lr.values()):
            raise ValueError(f"the lr of a training of the stacking CNNs, {self.lr}, exceeds its max_lr, {self.max_lr}")
        return self


class DistilSpec(Spec):
    temperature: Annotated[float, Field(ge=1, le=100)]
    label_weight: Fraction
    teacher: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")] | None = None


class StackingSpec(Spec):
    protocol: Literal["original", "oof"]
    final_predictor: Literal["auto", "blend", "fitted blend", "mean"]
    num_subfolds: Annotated[int, Field(ge=MIN_SUBFOLDS, le=1000)]
    seed: Seed
    max_epochs: Count
    batch_size: Annotated[int, Field(ge=2)]
    dropout: Annotated[float, Field(ge=0, lt=1)]
    num_trees: Count
    min_child_samples: Count
    min_child_weight: Annotated[float, Field(ge=0)]
    pretrain: StackCNNTrainingSpec
    finetune: StackCNNTrainingSpec


class StackSettings(Spec):
    """The settings by which a round's networks are stacked; those of the last round may change after training."""

    stacking: StackingSpec
    blend: dict[Stacker, Positive]
