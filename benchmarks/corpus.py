"""Audio files for benchmarks: synthetic two-minute stereo tracks at 44.1 kHz in common formats, or a user's own."""

import os
from pathlib import Path

import numpy as np
import soundfile
import soxr

from melgpu.audio.walk import AudioWalk
from melgpu.demo import synthesizer
from melgpu.errors import InputError

RATE, SECONDS = 44_100, 120
# Of files that libsndfile, and so a baseline, does not read.
FFMPEG_SUFFIXES = (".m4a", ".mp4", ".aac", ".amr", ".wma", ".webm", ".mka", ".wv", ".ape", ".tta")
LABELS = ("house", "waltz", "chorale", "breakbeat")


def select(folder: Path, count: int) -> list[str]:
    """`count` evenly spaced files of a folder that libsndfile reads (baselines need it). Raises InputError for none."""
    walk = AudioWalk([folder]) if folder.is_dir() else ()
    found = (Path(file.path) for file in walk if not file.error)
    paths = [path for path in found if path.suffix.lower() not in FFMPEG_SUFFIXES]
    if not paths:
        raise InputError(f"{folder}: no audio file that libsndfile reads")
    return [str(paths[i]) for i in np.linspace(0, len(paths) - 1, min(count, len(paths))).astype(int)]


def compose(folder: Path, suffix: str, count: int, pieces: int = 4, seconds: int = SECONDS) -> list[str]:
    """`count` tracks in a format ("mp3", ...); `pieces` of them are written, the others are hard links to these."""
    paths = []
    for i in range(count):
        path = folder / f"{i}.{suffix}"
        if i < pieces:
            write_piece(path, i, seconds)
        else:
            os.link(folder / f"{i % pieces}.{suffix}", path)
        paths.append(str(path))
    return paths


def write_piece(path: Path, seed: int, seconds: int) -> None:
    """A synthetic track of a class that its seed selects, in the format of the path's suffix."""
    rng, label = np.random.default_rng(seed), LABELS[seed % len(LABELS)]
    wave = np.concatenate([synthesizer.compose(label, rng) for _ in range(-(-seconds // 20))])
    wave = soxr.resample(
        np.resize(wave, seconds * synthesizer.SAMPLE_RATE).astype(np.float32), synthesizer.SAMPLE_RATE, RATE
    )
    wave += 0.001 * rng.standard_normal(len(wave), np.float32)  # noise floor of a recording
    stereo = 0.9 * np.stack([wave, np.roll(wave, 100)], axis=1)
    with soundfile.SoundFile(path, "w", RATE, 2, format=path.suffix[1:].upper()) as file:
        for block in np.array_split(stereo, len(stereo) // 4096):
            file.write(block)
