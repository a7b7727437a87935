"""One machine at work: what is measured, on which files, for how long, and the limits that stages are held against."""

import itertools
import math
import os
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
from melgpu.data import windows
from melgpu.data.pcm_cache import PcmCache
from melgpu.models import classifier
from melgpu.recipe import Recipe

TABLES = ("audio", "windows", "mel", "loader", "machine", "rounds")
TRIES = 4  # of a limit that a figure passes: it may have been taken in a bad moment


class Limit:
    """What a machine can do of something in a second, as far as it is known; measured when first asked for."""

    def __init__(self, name: str, measure: Callable[[], float]):
        self.name, self.best, self._measure = name, 0.0, measure

    def over(self, rate: float) -> float:
        """The best measurement so far, after some more where `rate` passes it."""
        for _ in range(TRIES):
            if rate < timing.TOLERANCE * self.best:
                break
            self.best = max(self.best, self._measure())
        return self.best


@dataclass(frozen=True)
class Effort:
    """How long to measure: windows of a training step, steps a sample, samples, seconds of a short measurement.

    `sizes` are the batch sizes of curves; `judged` is how many tracks the ensemble judges.
    """

    batch_size: int
    sizes: tuple[int, ...]
    steps: int
    repeats: int
    seconds: float
    judged: int


QUICK = ["rounds=[{backbones=['resnet50', 'inception_v3'], folds=[0], blend={cnn=1.0}}]"]


def effort(device: torch.device, quick: bool) -> Effort:
    """What a device needs for steady figures, or (`quick`) for a first look."""
    if device.type == "cuda":
        return Effort(32, (8, 32), 5, 2, 0.2, 8) if quick else Effort(32, (1, 2, 4, 8, 16, 32, 64), 10, 5, 2.0, 64)
    return Effort(4, (4, 8), 1, 2, 0.1, 1) if quick else Effort(4, (1, 2, 4, 8), 1, 3, 1.0, 1)


@dataclass(frozen=True)
class Bench:
    """What all stages of a suite share; limits are measured when they are first asked for."""

    recipe: Recipe
    paths: list[str]
    device: torch.device
    folder: Path
    effort: Effort

    @property
    def cores(self) -> int:
        return os.cpu_count() or 1

    @property
    def workers(self) -> int:
        """Decoding processes that the recipe's number gives on this machine; 0 is the process itself."""
        return min(self.recipe.loader.workers, self.cores)

    def from_files(self, recipe: Recipe) -> Recipe:
        """How steps from files are timed: on a CPU, where they are slow, with less ahead, which is sooner used up."""
        if self.device.type == "cuda":
            return recipe
        ahead = recipe.loader.model_copy(update={"prefetch_tracks": 1})
        return recipe.model_copy(update={"loader": ahead})

    @property
    def track_windows(self) -> int:
        spec = self.recipe.windows
        return windows.num_windows(self.recipe.audio.track_s, spec.window_s, spec.hop_s)

    def about(self) -> dict:
        """What a result says of what it was taken on: the machine, the files, the recipe's tables that matter."""
        found = {**timing.machine(self.device), "tracks": len(self.paths)}
        found |= {"recipe": {table: self.recipe.model_dump(mode="json")[table] for table in TABLES}}
        found |= {"workers": self.workers, "batch_size": self.effort.batch_size, "precision": self.precision}
        return found | {"quick": self.effort.seconds < 0.5, "on_gpu": self.device.type == "cuda"}

    @property
    def job(self) -> tuple[int, float]:
        """What rivals want to know: rate and seconds of a track."""
        return self.recipe.audio.sample_rate, self.recipe.audio.track_s

    def some_paths(self, count: int) -> list[str]:
        """So many files, some of them again where there are fewer."""
        return list(itertools.islice(itertools.cycle(self.paths), count))

    def in_processes(self, call, more: tuple, workers: int | None = None) -> list[float]:
        """Windows a second of a function called for files in decoding processes."""
        count = self.workers if workers is None else workers
        some = self.some_paths(max(8, 4 * count))  # several turns for each process
        times = bench_decode.measure(call, more, some, count, self.effort.repeats)
        return [len(some) * self.track_windows / own for own in times]

    def decode_rates(self, workers: int) -> list[float]:
        """Windows a second from files to samples at the recipe's rate."""
        target = self.folder / "pcm"
        target.touch()
        rate, track_s = self.job
        return self.in_processes(
            worker.decode_to_file, (rate, windows.to_samples(track_s, rate), str(target), 0), workers
        )

    @cached_property
    def limits(self) -> dict[str, Limit]:
        """By name; in windows, FLOPs or bytes a second."""
        cpu, seconds = torch.device("cpu"), self.effort.seconds
        found = [
            Limit("soxr within the cache", lambda: max(self.in_processes(baselines.resample_limit, self.job))),
            Limit("one core's copy", lambda: bench_loader.copy_limit(self.recipe, self.pcm_cache, cpu)),
            Limit("host to device", lambda: roofline.host_to_device(self.device, seconds)),
            Limit("memory bandwidth", lambda: roofline.copy_bandwidth(self.device, seconds)),
            Limit("matmul in float32", lambda: roofline.matmul_flops(self.device, torch.float32, seconds)),
            Limit("matmul in bfloat16", lambda: roofline.matmul_flops(self.device, torch.bfloat16, seconds)),
        ]
        return {limit.name: limit for limit in found}

    @cached_property
    def picture_limit(self) -> Limit:
        """Of the front end, in windows a second: see bench_features."""
        waves = measurement.noise(self.recipe, self.effort.batch_size, self.device)
        name = "bare FFT" if self.device.type == "cpu" else "memory bandwidth"
        return Limit(name, lambda: bench_features.limit(self.recipe.mel, waves)[1])

    @property
    def network_limit(self) -> Limit:
        """Of the networks, in FLOP/s."""
        return self.limits[f"matmul in {self.precision}"]

    def decode_limit(self, workers: int | None = None) -> Limit:
        """Of decoding, in windows a second, in so many processes (default: the recipe's)."""
        count = self.workers if workers is None else workers
        limit = Limit("bare libsndfile, soxr", lambda: max(self.in_processes(baselines.limit, self.job, count)))
        return self.limits.setdefault(f"decoding in {count} processes", limit)

    @property
    def peaks(self) -> dict[str, float]:
        """FLOP/s of matrix products by precision."""
        return {name: self.limits[f"matmul in {name}"].over(0.0) for name in ("float32", "bfloat16")}

    @cached_property
    def precision(self) -> str:
        """What the networks run in."""
        bfloat16 = classifier.use_bfloat16(self.recipe.optim.precision, self.device)
        return "bfloat16" if bfloat16 else "float32"

    @cached_property
    def _flops(self) -> dict[tuple[str, bool], float]:
        return {}

    def flops(self, name: str, training: bool) -> float:
        """Of a network, for one window."""
        if (name, training) not in self._flops:
            size = self.recipe.mel.image_size
            self._flops[name, training] = roofline.network_flops(self._network(name), size, training)
        return self._flops[name, training]

    def bytes_moved(self, name: str) -> float:
        """By a training step of a network, for one window."""
        size, element_bytes = self.recipe.mel.image_size, 2 if self.precision == "bfloat16" else 4
        model, batch_size = self._network(name), self.effort.batch_size
        return roofline.network_bytes(model, size, element_bytes, True, batch_size)

    def _network(self, name: str) -> classifier.Classifier:
        return classifier.build(name, bench_train.NUM_CLASSES, self.recipe)

    @cached_property
    def pcm_cache(self) -> PcmCache:
        return bench_loader.fill_cache(self.paths, bench_loader.with_cache(self.recipe, "disk"), self.folder)[0]


def networks(recipe: Recipe) -> list[str]:
    """Those of all rounds, each once, in the order of first mention."""
    return list(dict.fromkeys(name for spec in recipe.rounds for name in spec.backbones))


def powers(most: int) -> list[int]:
    """1, 2, 4, ... up to and with `most`."""
    return sorted({2**number for number in range(int(math.log2(most)) + 1)} | {most})


def prepare(args, folder: Path, *own: str) -> Bench:
    """The bench that a command's flags name; `--quick` takes the demo's small pictures and two networks.

    `own` are settings that stay as the recipe has them: see `flags.settings_of`.
    A CPU measures the ensemble with the networks of one fold: those of the others take as long. Raises InputError, of
    networks that cannot be used, too, before anything is measured.
    """
    device = cli.select_device(args.device)
    args.tracks = args.tracks or (16 if device.type == "cpu" or args.quick else 128)
    if args.quick:
        args.recipe, args.overrides = args.recipe or ["demo"], [*QUICK, *args.overrides]
    recipe = recipe_of(args, *own)
    for name in networks(recipe):
        classifier.check_forward(name, recipe)
    paths = paths_of(args, folder, 1 if args.quick else 4, recipe.audio.track_s)
    if device.type == "cpu":
        *others, last = recipe.rounds
        recipe = recipe.model_copy(update={"rounds": (*others, last.model_copy(update={"folds": last.folds[:1]}))})
    return Bench(recipe, paths, device, folder, effort(device, args.quick))
