"""Shared by tests of several packages: small audio files and lists, a small recipe, calls of the scripts."""

import csv
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import soundfile

ROOT = Path(__file__).parents[2]


SMALL = [  # overrides of the demo recipe: two networks a round, one epoch
    "optim.max_epochs=1",
    "optim.batch_size=4",
    "optim.batch_norm_batches=1",
    "mel.image_size=75",
    "folds.num_folds=3",
    "stacking.max_epochs=3",
    "stacking.num_trees=5",
    "pseudo.threshold=0.2",
    "windows.dense_classes=['waltz']",
    "rounds=[{backbones=['resnet50', 'inception_v3'], folds=[0], blend={cnn=1.0}},"
    " {backbones=['inception_v3', 'resnet50'], folds=[1, 2], blend={cnn=0.45, skip_cnn=0.45, lightgbm=0.1}}]",
]


QUICK = [  # overrides of `quick` for tracks of 6 s
    "audio.sample_rate=11025",
    "audio.track_s=6.0",
    "windows.window_s=3.0",
    "loader.workers=0",
    "folds.num_folds=2",
]


def write_labelled_tracks(folder: Path) -> Path:
    """A list of eight tracks of 6 s in a folder, of two classes."""
    rows = [("file", "label")]
    for i in range(8):
        write_audio(folder / f"{i}.wav", 6, 11_025, seed=i)
        rows.append((f"{i}.wav", "ab"[i % 2]))
    return write_list(folder / "train.csv", rows)


def write_audio(path: Path, seconds: float = 3.0, rate: int = 22_050, channels: int = 1, seed: int = 0) -> Path:
    """Write seeded tones and noise, in the format of the suffix (.ogg, .opus, .flac, .mp3, .wav)."""
    rng = np.random.default_rng(seed)
    t = np.arange(round(seconds * rate)) / rate
    tones = sum(np.sin(2 * np.pi * f * t) for f in rng.uniform(100, 3000, 3))
    wave = 0.1 * (tones + rng.standard_normal(len(t)))
    wave = np.stack([wave * (1 - 0.3 * c) for c in range(channels)], axis=1)
    container, codec = ("OGG", "OPUS") if path.suffix == ".opus" else (path.suffix[1:].upper(), None)
    with soundfile.SoundFile(path, "w", rate, channels, format=container, subtype=codec) as file:
        for block in np.array_split(wave, len(wave) // 4096 + 1):
            file.write(block)
    return path


def write_list(path: Path, rows: list[tuple]) -> Path:
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return path


def run_script(*arguments, env: dict | None = None) -> subprocess.CompletedProcess:
    """Run a script of the project as a user would."""
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, **(env or {})})


def is_alive(pid: int) -> bool:
    """Whether a process runs, which it does not as a zombie."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@contextmanager
def file_size_limit(num_bytes: int) -> Iterator[None]:
    """No file may grow beyond this: like a disk that is full, for this process."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
