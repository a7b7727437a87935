"""A saved result of the suite or of `benchmarks gpu` -> the rates that `benchmarks cost` computes with."""

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks import bench_predict, measurement, roofline, timing
from benchmarks.commands import bottleneck
from benchmarks.commands.bench import networks
from benchmarks.gpu.claims import BATCH
from benchmarks.gpu.result import SCHEMA as GPU_SCHEMA
from melgpu.errors import InputError
from melgpu.models import classifier
from melgpu.recipe import Recipe, load_recipe, validate_recipe

SCHEMAS = {"suite": ("schema", timing.SCHEMA), "gpu": ("gpu_schema", GPU_SCHEMA)}  # key of the version, version
TABLES = ("audio", "windows", "mel")  # of the recipe, on which all rates depend
WINDOW_KEYS = ("window_s", "hop_s", "predict_hop_s")
MIN_RATIO = 10  # of operations: a network with so many times fewer is also faster, whatever its layers
MEASURE = "python -m benchmarks cost without --from measures them on this machine"


@dataclass(frozen=True)
class Rates:
    """Measured rates, in windows a second.

    `train` : training steps of each measured network, from files
    `audio` : from files to batches
    `pictures` : from waves on the device to pictures
    `views` : views (pictures or mirror images) that one network predicts, the mean of the measured networks
    `batch_size` : windows of a training step
    `shared` : whether all stages share the same cores (on a CPU); on a GPU audio overlaps with the device's work
    `bounds` : why these are lower bounds of the recipe's rates; empty where they were measured
    """

    train: dict[str, float]
    audio: float
    pictures: float
    views: float
    batch_size: int
    shared: bool
    bounds: str = ""

    def views_of(self, name: str) -> float:
        """Views a second of one network: each takes the share of the mean's time that it takes in training."""
        mean_s = statistics.fmean(1 / rate for rate in self.train.values())
        return self.views * mean_s * self.train[name]

    def stages(self, names: Sequence[str], views: int) -> dict[str, float]:
        """Windows a second of each stage alone, with `views` views a window and network; of a name for each network."""
        window_s = sum(views / self.views_of(name) for name in names)
        return {"audio": self.audio, "pictures": self.pictures, "networks": 1 / window_s}

    def from_files(self, names: Sequence[str], views: int) -> float:
        """Windows a second from files to the predictions of networks."""
        return bottleneck.combined_rate(self.stages(names, views), self.shared)


def read_result(path: Path) -> dict:
    """A saved result of the suite or of `benchmarks gpu`. Raises InputError."""
    try:
        result = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a result of a benchmark ({error})") from None
    kind = result.get("benchmark") if isinstance(result, dict) else None
    key, version = SCHEMAS.get(str(kind), ("", None))
    if not key or result.get(key) != version:
        raise InputError(f"{path}: not a result of python -m benchmarks, or python -m benchmarks gpu, of this version")
    return result


def rates_of(result: dict, recipe: Recipe, source: str) -> Rates:
    """The rates in a result; lower bounds where a GPU's are of other networks, and of larger pictures.

    Raises InputError where some are missing or of another recipe's pictures.
    """
    if result["benchmark"] == "gpu":
        measured = _measured_recipe(result, source)
        if not set(networks(recipe)) <= set(networks(measured)) and _has_no_larger_pictures(recipe, measured):
            return _lower_bounds(_gpu_rates(result, measured, source), measured, recipe)
    rates = (_gpu_rates if result["benchmark"] == "gpu" else _suite_rates)(result, recipe, source)
    for table in TABLES:
        if result["recipe"][table] != recipe.model_dump(mode="json")[table]:
            raise InputError(f"{source}: measured with another recipe ({table} differs)")
    return rates


def _measured_recipe(result: dict, source: str) -> Recipe:
    """What `benchmarks gpu` measures: the networks of zalo2019, with the result's audio, windows and pictures."""
    tables = {table: result["recipe"][table] for table in TABLES}
    return validate_recipe(json.loads(load_recipe([]).to_json()) | tables, source)


def _has_no_larger_pictures(recipe: Recipe, measured: Recipe) -> bool:
    """Whether a recipe has the same windows of the same audio as was measured, and no larger pictures of them."""
    spec = recipe.mel
    sizes = {"n_mels": measured.mel.n_mels, "image_size": measured.mel.image_size}
    is_smaller = spec.n_mels <= measured.mel.n_mels and spec.image_size <= measured.mel.image_size
    is_same = spec.model_copy(update=sizes) == measured.mel and recipe.audio == measured.audio
    has_same_windows = all(getattr(recipe.windows, key) == getattr(measured.windows, key) for key in WINDOW_KEYS)
    return is_smaller and is_same and has_same_windows


def _lower_bounds(rates: Rates, measured: Recipe, recipe: Recipe) -> Rates:
    """Rates of networks that were not measured: those of the slowest one that was.

    Raises InputError for networks with more than a tenth of its operations.
    """
    slowest = min(rates.train, key=rates.train.__getitem__)
    slowest_flops = _flops(slowest, measured)
    flops = {name: _flops(name, recipe) for name in networks(recipe)}
    heaviest = max(flops, key=flops.__getitem__)
    size, measured_size = recipe.mel.image_size, measured.mel.image_size
    unmeasured = f"{heaviest} on {size} x {size} pixels"
    known = f"{slowest} on {measured_size} x {measured_size}"
    if flops[heaviest] * MIN_RATIO > slowest_flops:
        reason = f"which has more than 1/{MIN_RATIO} of the operations of {known}"
        raise InputError(f"no rates of {unmeasured}, {reason}; {MEASURE}")
    times = slowest_flops / flops[heaviest]
    bounds = (
        f"{unmeasured} was not measured: it is taken to be as fast as {known}, which has {times:.0f} times its "
        "operations, and its pictures as those are: all durations are upper limits"
    )
    return replace(
        rates,
        train=dict.fromkeys(flops, rates.train[slowest]),
        views=rates.views_of(slowest),
        bounds=bounds,
    )


def _flops(name: str, recipe: Recipe) -> float:
    """Operations of a network for one picture."""
    random_weights = measurement.with_value(recipe, "backbone.pretrained", False)
    model = classifier.build(name, bench_predict.NUM_CLASSES, random_weights)
    return roofline.network_flops(model, recipe.mel.image_size, training=False)


def _suite_rates(result: dict, recipe: Recipe, source: str) -> Rates:
    rows = {(row["stage"], row["way"]): row for row in result.get("rows", [])}
    train = {
        way.removesuffix(", from files"): row["windows_per_s"]
        for (stage, way), row in rows.items()
        if stage == "train" and way.endswith(", from files")
    }
    ensemble = [row for (stage, way), row in rows.items() if stage == "predict" and way.endswith("networks alone")]
    alone = bottleneck.before_networks(result)
    missing = [name for name in networks(recipe) if name not in train]
    missing += [] if ensemble else ["predict"]
    missing += [stage for stage, rate in (("loader", "audio"), ("features", "pictures")) if rate not in alone]
    if missing:
        reason = " (a preview, --quick)" if result.get("quick") else ""
        remedy = f"python -m benchmarks --out {source} measures them"
        raise InputError(f"{source}: no rates of {', '.join(missing)}{reason}; {remedy}")
    views = ensemble[0]["windows_per_s"] * ensemble[0]["models"] * (2 if recipe.predict.flip else 1)
    audio, pictures = alone["audio"], alone["pictures"]
    return Rates(train, audio, pictures, views, result["batch_size"], shared=not result["on_gpu"])


def _gpu_rates(result: dict, recipe: Recipe, source: str) -> Rates:
    if result["small"]:
        raise InputError(f"{source}: measured on a CPU, where everything is small: it says nothing about a GPU")
    train = {
        name: row["windows_per_s"] * row["step_s"]["pictures ready"] / row["step_s"]["from files"]
        for name, row in _rows(result, "training").items()
    }
    ensemble = list(_rows(result, "prediction").values())
    audio = _rows(result, "loader").get("decoded")
    pictures = _rows(result, "features").get(f"{recipe.mel.engine}, batch of {BATCH}")
    missing = [name for name in networks(recipe) if name not in train]
    rows = (("prediction", ensemble), ("loader", audio), ("features", pictures))
    missing += [step for step, row in rows if not row]
    if missing or not audio or not pictures:
        of_others = [name for name in networks(recipe) if name not in result["networks"]]
        remedy = MEASURE if of_others else f"python -m benchmarks gpu --out {source} measures them"
        raise InputError(f"{source}: no rates of {', '.join(missing)}; {remedy}")
    views = ensemble[0]["windows_per_s"]["networks alone"] * ensemble[0]["views"]
    return Rates(train, audio["windows_per_s"], pictures["windows_per_s"], views, BATCH, shared=False)


def _rows(result: dict, step: str) -> dict[str, dict]:
    """The rows of a step that were measured."""
    rows = result["steps"].get(step, {}).get("rows", {})
    return {name: row for name, row in rows.items() if "error" not in row}
