"""Steps `resume` and `memory`: a training that is killed, or that runs out of memory, goes on."""

import csv
import itertools
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import soundfile
import torch
from safetensors.torch import load_file

from benchmarks import bench_predict, bench_train, measurement
from benchmarks.gpu.setting import Measurement, Setting
from melgpu.errors import InputError
from melgpu.models import classifier, inference
from melgpu.runs.folder import is_run
from melgpu.runs.job import Job
from melgpu.runs.paths import RunPaths

ROOT = Path(__file__).parents[2]
RATE, TRACK_S, TRACKS = 11_025, 6, 12  # of each of two classes
EPOCHS = 6
RECIPE = [
    f"audio.sample_rate={RATE}",
    f"audio.track_s={TRACK_S}.0",
    "windows.window_s=3.0",
    "windows.hop_s=1.0",
    "folds.num_folds=2",
    "mel.image_size=96",
    "mel.n_mels=64",
    "backbone.pretrained=false",
    "loader.workers=0",
    "optim.batch_size=4",
    "optim.shuffle_tracks=8",
    f"optim.max_epochs={EPOCHS}",
    "rounds=[{backbones=['resnet10t'], folds=[0], blend={cnn=1.0}}]",
]
JOB = Job(1, "resnet10t", 0)
COMPARED = ("epoch", "lr", "loss", "accuracy", "window_accuracy")  # columns of the log that are no times
LIMIT_S = 70.0
MEMORY_NETWORK = "resnet50"


def resume(setting: Setting) -> Iterator[Measurement]:
    """Three trainings at the same time: two to their end, one killed after its first epoch and resumed."""
    yield Measurement("killed and resumed", partial(_resume, setting))


def _resume(setting: Setting) -> dict:
    deadline = time.monotonic() + LIMIT_S * (5 if setting.small else 1)
    with tempfile.TemporaryDirectory(dir=setting.folder) as temporary:
        folder = Path(temporary)
        _write_corpus(folder / "music")
        names = ("killed", "first", "second")
        trainings = [Training(folder / name, folder / "music", setting.device) for name in names]
        killed, first, second = trainings
        try:
            for training in trainings:
                training.start()
            epochs = killed.kill_after_an_epoch(deadline)
            killed.start()
            for training in trainings:
                training.wait(deadline)
        finally:
            for training in trainings:
                training.kill()
        same = killed.result() == first.result()
        deterministic = first.result() == second.result()
    text = f"killed after {epochs} of {EPOCHS} epochs: {'the same bits' if same else 'other bits'} as without"
    text += "" if deterministic else "; two trainings that were not killed differ as well"
    return {"same": same, "deterministic": deterministic, "epochs_before": epochs, "text": text}


@dataclass
class Training:
    """A call of train.py on a run folder."""

    run: Path
    labels: Path
    device: torch.device
    process: subprocess.Popen | None = None

    def start(self) -> None:
        """Start, or resume."""
        flags = [part for override in RECIPE for part in ("--set", override)]
        new = [] if is_run(self.run) else ["--recipe", "quick", *flags, "--labels", str(self.labels)]
        command = [sys.executable, "train.py", "--run", str(self.run), "--device", str(self.device), *new]
        with open(self.run.with_suffix(".log"), "ab") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)

    def log(self) -> list[tuple[str, ...]]:
        """The rows of the training log so far, without times."""
        path = RunPaths(self.run).training_log(JOB)
        if not path.exists():
            return []
        with open(path, newline="") as file:
            return [tuple(row[column] for column in COMPARED) for row in csv.DictReader(file)]

    def kill_after_an_epoch(self, deadline: float) -> int:
        """Kill the process once an epoch is in its log; the number of epochs. Raises InputError where it has ended."""
        while not self.log() and self._is_running(deadline):
            time.sleep(0.01)
        self.kill()
        epochs = len(self.log())
        if not 0 < epochs < EPOCHS:
            raise InputError(f"a training had {epochs} of {EPOCHS} epochs when it was killed: {self._last_line()}")
        return epochs

    def wait(self, deadline: float) -> None:
        """Wait for the end. Raises InputError where it fails or takes too long."""
        while self._is_running(deadline):
            time.sleep(0.05)
        if self.process is None or self.process.returncode:
            raise InputError(f"a training failed: {self._last_line()}")

    def kill(self) -> None:
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()

    def result(self) -> tuple[list[tuple[str, ...]], dict[str, bytes]]:
        """The log without times, and the bytes of the best weights."""
        weights = load_file(RunPaths(self.run).checkpoint(JOB))
        return self.log(), {name: tensor.cpu().numpy().tobytes() for name, tensor in weights.items()}

    def _is_running(self, deadline: float) -> bool:
        if time.monotonic() > deadline:
            raise InputError(f"a training took too long: {self._last_line()}")
        return self.process is not None and self.process.poll() is None

    def _last_line(self) -> str:
        lines = self.run.with_suffix(".log").read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "no output"


def _write_corpus(folder: Path) -> None:
    """Two classes of tones in noise."""
    t = np.arange(RATE * TRACK_S) / RATE
    for label, octave in (("low", 1), ("high", 8)):
        (folder / label).mkdir(parents=True)
        for i in range(TRACKS):
            rng = np.random.default_rng([octave, i])
            wave = 0.2 * np.sin(2 * np.pi * octave * rng.uniform(100, 200) * t) + 0.02 * rng.standard_normal(len(t))
            soundfile.write(folder / label / f"{i}.wav", wave, RATE)


def memory(setting: Setting) -> Iterator[Measurement]:
    """A training step, a prediction and the front end in a part of the GPU's memory that is too small for them."""
    if setting.device.type != "cuda":
        yield Measurement("limited", _needs_a_gpu)
        return
    yield Measurement("training step", partial(_limited_training, setting))
    yield Measurement("prediction", partial(_limited_prediction, setting))
    yield Measurement("front end", partial(_limited_front_end, setting))


def _needs_a_gpu() -> dict:
    return {"text": "only a GPU's memory can be limited", "skipped": True}


class LimitedMemory:
    """Limits this process to `gib` of the GPU's memory inside the block."""

    def __init__(self, device: torch.device, gib: float):
        self.device = device
        self.gib = gib

    def __enter__(self) -> None:
        torch.cuda.empty_cache()
        total = torch.cuda.get_device_properties(self.device).total_memory
        torch.cuda.set_per_process_memory_fraction(self.gib * 2**30 / total)

    def __exit__(self, *exc: object) -> None:
        torch.cuda.set_per_process_memory_fraction(1.0)


def _limited_training(setting: Setting) -> dict:
    recipe, device, size, gib = setting.recipe, setting.device, setting.batch_size, 4.0
    pictures = measurement.front_end(recipe, device)(measurement.noise(recipe, size, device))
    state = bench_train.new_training(MEMORY_NETWORK, recipe, device)
    before = state.micro_batch
    batches = measurement.repeat_batch(pictures)
    with LimitedMemory(device, gib):
        loop = bench_train.training_loop(state, MEMORY_NETWORK, recipe, measurement.PrecomputedPictures(), batches)
        done = len(list(itertools.islice(loop, 2)))
        loop.close()
    halved = state.micro_batch < min(before, size)
    text = f"{done} steps of {size} windows in {gib:g} GiB, in micro-batches of {min(state.micro_batch, size)}"
    return {"passed": halved and done == 2, "micro_batch": state.micro_batch, "gib": gib, "text": text}


def _limited_prediction(setting: Setting) -> dict:
    recipe, device, gib = setting.recipe, setting.device, 1.5
    pictures = measurement.front_end(recipe, device)(measurement.noise(recipe, 128, device))
    models = [bench_predict.build(MEMORY_NETWORK, recipe, device)]
    bfloat16 = classifier.use_bfloat16(recipe.optim.precision, device)

    def probs() -> torch.Tensor:
        ready = [next(measurement.repeat_batch(pictures))]
        ((_, result),) = inference.window_probs(models, measurement.PrecomputedPictures(), ready, True, bfloat16)
        return result

    expected = probs()
    with LimitedMemory(device, gib):
        actual = probs()
    error = float((actual - expected).abs().max())
    text = f"128 windows in {gib:g} GiB: probabilities differ by up to {error:.1e} from those in all memory"
    return {"passed": error < 0.02, "max_difference": error, "gib": gib, "text": text}


def _limited_front_end(setting: Setting) -> dict:
    """More windows than fit at once through the loop that trains, as nnAudio's convolution, which needs the most."""
    recipe = measurement.with_value(setting.recipe, "mel.engine", "nnaudio")
    device, gib, size = setting.device, 1.5, 128
    state = bench_train.new_training(MEMORY_NETWORK, recipe, device)
    features = measurement.front_end(recipe, device)
    batches = measurement.repeat_batch(measurement.noise(recipe, size, device))
    with LimitedMemory(device, gib):
        loop = bench_train.training_loop(state, MEMORY_NETWORK, recipe, features, batches)
        done = len(list(itertools.islice(loop, 1)))
        loop.close()
    return {"passed": done == 1, "gib": gib, "text": f"a step of {size} windows from waves in {gib:g} GiB"}
