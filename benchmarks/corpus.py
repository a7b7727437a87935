"""Music to measure with: two-minute stereo tracks at 44.1 kHz in the formats that people have, or their own."""

import os
from pathlib import Path

import numpy as np
import soundfile
import soxr

from melgpu.audio import pyav
from melgpu.data.sources import find_audio
from melgpu.demo import song
from melgpu.errors import InputError

RATE, SECONDS = 44_100, 120
LABELS = ("house", "waltz", "chorale", "breakbeat")


def own(folder: Path, count: int) -> list[str]:
    """Some tracks of a folder, spread over it, that libsndfile reads. Raises InputError where there are none."""
    found = [path for path in find_audio(folder) if path.suffix.lower() not in pyav.SUFFIXES]  # rivals need it
    if not found:
        raise InputError(f"{folder}: no audio file that libsndfile reads")
    return [str(found[i]) for i in np.linspace(0, len(found) - 1, min(count, len(found))).astype(int)]


def compose(folder: Path, form: str, count: int, pieces: int = 4, seconds: int = SECONDS) -> list[str]:
    """`count` tracks in a format ("mp3", ...); some pieces are written, the others are links to them."""
    paths = []
    for number in range(count):
        path = folder / f"{number}.{form}"
        if number < pieces:
            _write(path, LABELS[number % len(LABELS)], number, seconds)
        else:
            os.link(folder / f"{number % pieces}.{form}", path)
        paths.append(str(path))
    return paths


def _write(path: Path, label: str, seed: int, seconds: int) -> None:
    rng = np.random.default_rng(seed)
    wave = np.concatenate([song.compose(label, rng) for _ in range(-(-seconds // 20))])
    wave = soxr.resample(np.resize(wave, seconds * song.RATE).astype(np.float32), song.RATE, RATE)
    wave += 0.001 * rng.standard_normal(len(wave), np.float32)  # as recorded music has it
    stereo = 0.9 * np.stack([wave, np.roll(wave, 100)], axis=1)
    with soundfile.SoundFile(path, "w", RATE, 2, format=path.suffix[1:].upper()) as file:
        for block in np.array_split(stereo, len(stereo) // 4096):
            file.write(block)
