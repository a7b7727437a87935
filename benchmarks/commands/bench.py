"""What a command measures: recipe, files, device and effort, and the physical limits of the stages."""

import argparse
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from benchmarks import bench_decode, bench_features, bench_loader, bench_train, measurement, roofline, timing
from benchmarks.cli import paths_of, recipe_of
from benchmarks.references import baselines
from melgpu import cli
from melgpu.audio import worker
from melgpu.audio.pool import num_processes
from melgpu.data import windows
from melgpu.data.pcm_cache import PcmCache
from melgpu.machine import num_usable_cores
from melgpu.models import classifier
from melgpu.recipe import Recipe

TABLES = ("audio", "windows", "mel", "loader", "machine", "rounds")
MAX_MEASUREMENTS = 4  # of a limit that a rate exceeds: the machine may have been slow for a moment


class Limit:
    """A physical limit, a rate: the best of its measurements, the first of which is made on demand."""

    def __init__(self, name: str, measure: Callable[[], float]):
        self.name, self.best, self._measure = name, 0.0, measure

    def best_for(self, rate: float) -> float:
        """The best measurement so far; where `rate` exceeds it, measures again first."""
        for _ in range(MAX_MEASUREMENTS):
            if rate < timing.TOLERANCE * self.best:
                break
            self.best = max(self.best, self._measure())
        return self.best


@dataclass(frozen=True)
class Effort:
    """How long to measure: windows of a training step, steps a sample, samples, seconds of a short measurement.

    `sizes` are the batch sizes of curves; `predict_tracks` is how many tracks the ensemble predicts.
    """

    batch_size: int
    sizes: tuple[int, ...]
    steps: int
    repeats: int
    seconds: float
    predict_tracks: int


QUICK = ["rounds=[{backbones=['resnet50', 'inception_v3'], folds=[0], blend={}}]"]


def effort(device: torch.device, quick: bool) -> Effort:
    """The effort for stable results on a device, or (`quick`) for a preview."""
    if device.type == "cuda":
        return Effort(32, (8, 32), 5, 2, 0.2, 8) if quick else Effort(32, (1, 2, 4, 8, 16, 32, 64), 10, 5, 2.0, 64)
    return Effort(4, (4, 8), 1, 2, 0.1, 1) if quick else Effort(4, (1, 2, 4, 8), 1, 3, 1.0, 1)


@dataclass(frozen=True)
class Bench:
    """What all stages share; limits are measured when they are first needed."""

    recipe: Recipe
    paths: list[str]
    device: torch.device
    folder: Path
    effort: Effort

    @property
    def cores(self) -> int:
        return num_usable_cores()

    @property
    def workers(self) -> int:
        """Worker processes: the recipe's number, at most one for each core; 0 decodes in the main process."""
        return num_processes(self.recipe.loader.workers)

    def with_short_prefetch(self, recipe: Recipe) -> Recipe:
        """The recipe for timing steps from files: on a CPU, whose steps are slow, with one prefetched track."""
        if self.device.type == "cuda":
            return recipe
        return measurement.with_value(recipe, "loader.prefetch_tracks", 1)

    @property
    def track_windows(self) -> int:
        spec = self.recipe.windows
        return windows.num_windows(self.recipe.audio.track_s, spec.window_s, spec.hop_s)

    def metadata(self) -> dict:
        """What a result was measured on: the machine, the number of files, the recipe's relevant tables."""
        data = {**timing.describe_machine(self.device), "tracks": len(self.paths)}
        data |= {"recipe": {table: self.recipe.model_dump(mode="json")[table] for table in TABLES}}
        data |= {"workers": self.workers, "batch_size": self.effort.batch_size, "precision": self.precision}
        return data | {"quick": self.effort.seconds < 0.5, "on_gpu": self.device.type == "cuda"}

    @property
    def track_args(self) -> tuple[int, float]:
        """Arguments of the baselines: sample rate and seconds of a track."""
        return self.recipe.audio.sample_rate, self.recipe.audio.track_s

    def cycled_paths(self, count: int) -> list[str]:
        """`count` files, repeated where there are fewer."""
        return list(itertools.islice(itertools.cycle(self.paths), count))

    def rates_in_processes(self, call: Callable, args: tuple, workers: int | None = None) -> list[float]:
        """Windows a second of a function that worker processes call with (path, *args)."""
        count = self.workers if workers is None else workers
        paths = self.cycled_paths(max(8, 4 * count))  # several files for each process
        pass_s = bench_decode.measure(call, args, paths, count, self.effort.repeats)
        return [len(paths) * self.track_windows / seconds for seconds in pass_s]

    def decode_rates(self, workers: int) -> list[float]:
        """Windows a second from files to samples at the recipe's rate."""
        target = self.folder / "pcm"
        target.touch()
        rate, track_s = self.track_args
        return self.rates_in_processes(
            worker.decode_to_file, (rate, windows.to_samples(track_s, rate), str(target), 0), workers
        )

    @cached_property
    def limits(self) -> dict[str, Limit]:
        """By name; in windows, FLOPs or bytes a second."""
        cpu, seconds = torch.device("cpu"), self.effort.seconds
        limits = [
            Limit(
                "soxr within the cache", lambda: max(self.rates_in_processes(baselines.resample_limit, self.track_args))
            ),
            Limit("one core's copy", lambda: bench_loader.copy_limit(self.recipe, self.pcm_cache, cpu)),
            Limit("host to device", lambda: roofline.host_to_device(self.device, seconds)),
            Limit("memory bandwidth", lambda: roofline.copy_bandwidth(self.device, seconds)),
            Limit("matmul in float32", lambda: roofline.matmul_flops(self.device, torch.float32, seconds)),
            Limit("matmul in bfloat16", lambda: roofline.matmul_flops(self.device, torch.bfloat16, seconds)),
        ]
        return {limit.name: limit for limit in limits}

    @cached_property
    def picture_limit(self) -> Limit:
        """Of the front end, in windows a second; see bench_features."""
        waves = measurement.noise(self.recipe, self.effort.batch_size, self.device)
        name = "bare FFT" if self.device.type == "cpu" else "memory bandwidth"
        return Limit(name, lambda: bench_features.limit(self.recipe.mel, waves)[1])

    @property
    def network_limit(self) -> Limit:
        """Of the networks, in FLOP/s."""
        return self.limits[f"matmul in {self.precision}"]

    def decode_limit(self, workers: int | None = None) -> Limit:
        """Of decoding in `workers` processes (default: the recipe's), in windows a second."""
        count = self.workers if workers is None else workers
        limit = Limit(
            "bare libsndfile, soxr",
            lambda: max(self.rates_in_processes(baselines.decode_limit, self.track_args, count)),
        )
        return self.limits.setdefault(f"decoding in {count} processes", limit)

    @property
    def peaks(self) -> dict[str, float]:
        """FLOP/s of matrix products by precision."""
        return {name: self.limits[f"matmul in {name}"].best_for(0.0) for name in ("float32", "bfloat16")}

    @cached_property
    def precision(self) -> str:
        """The networks' precision on this device: "bfloat16" or "float32"."""
        bfloat16 = classifier.use_bfloat16(self.recipe.optim.precision, self.device)
        return "bfloat16" if bfloat16 else "float32"

    @cached_property
    def _flops(self) -> dict[tuple[str, bool], float]:
        return {}

    def flops(self, name: str, training: bool) -> float:
        """FLOPs of a network for one window."""
        if (name, training) not in self._flops:
            size = self.recipe.mel.image_size
            self._flops[name, training] = roofline.network_flops(self._network(name), size, training)
        return self._flops[name, training]

    def bytes_moved(self, name: str) -> float:
        """Bytes that a training step of a network moves for one window."""
        size, element_bytes = self.recipe.mel.image_size, 2 if self.precision == "bfloat16" else 4
        model, batch_size = self._network(name), self.effort.batch_size
        return roofline.network_bytes(model, size, element_bytes, True, batch_size)

    def _network(self, name: str) -> classifier.Classifier:
        return classifier.build(name, bench_train.NUM_CLASSES, self.recipe)

    @cached_property
    def pcm_cache(self) -> PcmCache:
        return bench_loader.fill_cache(self.paths, bench_loader.with_cache(self.recipe, "disk"), self.folder)[0]


def networks(recipe: Recipe) -> list[str]:
    """The distinct networks of all rounds, in the order of their first round."""
    return list(dict.fromkeys(name for spec in recipe.rounds for name in spec.backbones))


def powers_of_two(maximum: int) -> list[int]:
    """1, 2, 4, ... up to and including `maximum`."""
    return sorted({2**exponent for exponent in range(int(math.log2(maximum)) + 1)} | {maximum})


def prepare(args: argparse.Namespace, folder: Path, *unchanged: str) -> Bench:
    """The bench that a command's flags select; `--quick` takes the demo's small pictures and two networks.

    `unchanged` are settings that stay as the recipe has them: see `cli.recipe_of`.
    A CPU measures the ensemble with the networks of one fold: those of the others take as long. Raises InputError,
    also for networks that cannot be used, before anything is measured.
    """
    device = cli.select_device(args.device)
    args.tracks = args.tracks or (16 if device.type == "cpu" or args.quick else 128)
    if args.quick:
        args.recipe, args.overrides = args.recipe or ["demo"], [*QUICK, *args.overrides]
    recipe = recipe_of(args, *unchanged)
    for name in networks(recipe):
        classifier.check_forward(name, recipe)
    paths = paths_of(args, folder, 1 if args.quick else 4, recipe.audio.track_s)
    if device.type == "cpu":
        *earlier, last = recipe.rounds
        recipe = recipe.model_copy(update={"rounds": (*earlier, last.model_copy(update={"folds": last.folds[:1]}))})
    return Bench(recipe, paths, device, folder, effort(device, args.quick))
