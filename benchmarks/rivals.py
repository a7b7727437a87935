"""What people do instead of melgpu, one function for each way; they run in decoding processes."""

import os
from pathlib import Path

import numpy as np
import soundfile
import soxr

PICTURE = 512  # pixels of the files that the original way writes


def limit(path: str, sample_rate: int) -> None:
    """libsndfile into one buffer that stays in the cache, and soxr of as many samples: nothing that could be saved."""
    with soundfile.SoundFile(path) as file:
        buffer, frames = np.empty((1 << 16, file.channels), np.float32), 0
        while count := len(file.read(out=buffer)):
            frames += count
        soxr.resample(np.zeros(frames, np.float32), file.samplerate, sample_rate, quality="HQ")


def raw(path: str, sample_rate: int) -> None:
    """The whole file by libsndfile, and soxr of one of its channels."""
    wave, rate = soundfile.read(path, dtype="float32", always_2d=True)
    soxr.resample(wave[:, 0], rate, sample_rate, quality="HQ")


def by_hand(path: str, sample_rate: int) -> None:
    """As one writes it: the whole file, NumPy's mean, soxr."""
    wave, rate = soundfile.read(path, dtype="float32", always_2d=True)
    soxr.resample(wave.mean(axis=1), rate, sample_rate, quality="HQ")


def seek_windows(path: str, sample_rate: int) -> None:
    """Random access, as loaders of single windows do: seek, read, mean, resample for each of the 11."""
    with soundfile.SoundFile(path) as file:
        for start_s in range(0, 101, 10):
            file.seek(min(start_s * file.samplerate, max(0, file.frames - 20 * file.samplerate)))
            wave = file.read(20 * file.samplerate, dtype="float32", always_2d=True)
            soxr.resample(wave.mean(axis=1), file.samplerate, sample_rate, quality="HQ")


def librosa_load(path: str, sample_rate: int) -> None:
    """What the original solution called."""
    import librosa

    librosa.load(path, sr=sample_rate)


def original_way(path: str, sample_rate: int, folder: str) -> int:
    """One track: load, mel, draw, save, and read back; returns the number of windows."""
    import librosa
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from PIL import Image

    wave, _ = librosa.load(path, sr=sample_rate)
    count, hop, length = 11, 10 * sample_rate, 20 * sample_rate
    for number in range(count):
        part = np.resize(wave, 120 * sample_rate)[number * hop : number * hop + length]
        power = librosa.feature.melspectrogram(y=part, sr=sample_rate, n_fft=2048, hop_length=512, n_mels=512)
        figure = plt.figure(figsize=(PICTURE / 100, PICTURE / 100), dpi=100)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.axis("off")
        axes.imshow(librosa.power_to_db(power, ref=np.max), origin="lower", aspect="auto", cmap="viridis")
        place = Path(folder) / f"{os.getpid()}.jpg"
        figure.savefig(place)
        plt.close(figure)
        with Image.open(place) as image:
            np.asarray(image.convert("RGB").resize((PICTURE, PICTURE), Image.Resampling.BICUBIC), np.float32)
    return count
