"""Baselines: common ways to load and decode tracks, one function each; they run in worker processes."""

import os
from pathlib import Path

import numpy as np
import soundfile
import soxr

from melgpu.audio import decode
from melgpu.data import windows


def decode_limit(path: str, sample_rate: int, track_s: float) -> None:
    """libsndfile into one buffer that stays in the CPU's cache, and soxr of as many samples: the minimum of work."""
    with soundfile.SoundFile(path) as file:
        buffer, frames, rate = np.empty((1 << 16, file.channels), np.float32), 0, file.samplerate
        total = min(file.frames, round(track_s * rate))
        while frames < total and (
            count := len(file.read(min(total - frames, len(buffer)), out=buffer[: total - frames]))
        ):
            frames += count
    soxr.resample(np.zeros(frames, np.float32), rate, sample_rate, quality="HQ")


def resample_limit(path: str, sample_rate: int, track_s: float) -> None:
    """soxr alone, of as many samples as the file has, from and to memory that stays in the CPU's cache."""
    rate, frames = _rate_and_frames(path, track_s)
    resampler, block = soxr.ResampleStream(rate, sample_rate, 1), np.zeros(1 << 14, np.float32)  # HQ
    for start in range(0, frames, len(block)):
        resampler.resample_chunk(block[: frames - start])


def resample(path: str, sample_rate: int, track_s: float) -> None:
    """melgpu's mean of two summed channels and resampling of a track."""
    rate, frames = _rate_and_frames(path, track_s)
    decode.resampled_mean(np.zeros(frames, np.float32), 2, rate, sample_rate)


def _rate_and_frames(path: str, track_s: float) -> tuple[int, int]:
    """Sample rate of a file, and the number of its frames that belong to the track."""
    info = soundfile.info(path)
    return info.samplerate, min(info.frames, round(track_s * info.samplerate))


def soundfile_soxr(path: str, sample_rate: int, track_s: float) -> None:
    """One read of the track by libsndfile, and soxr of one of its channels."""
    wave, rate = soundfile.read(path, _rate_and_frames(path, track_s)[1], dtype="float32", always_2d=True)
    soxr.resample(wave[:, 0], rate, sample_rate, quality="HQ")


def numpy_mean(path: str, sample_rate: int, track_s: float) -> None:
    """One read of the track, NumPy's mean of the channels, soxr."""
    wave, rate = soundfile.read(path, _rate_and_frames(path, track_s)[1], dtype="float32", always_2d=True)
    soxr.resample(wave.mean(axis=1), rate, sample_rate, quality="HQ")


def seek_windows(path: str, sample_rate: int, track_s: float) -> None:
    """Random access, as loaders of single windows do: seek, read, mean, resample for each of the 11."""
    with soundfile.SoundFile(path) as file:
        frames = round(track_s / 6 * file.samplerate)
        for i in range(11):
            file.seek(min(i * frames // 2, max(0, file.frames - frames)))
            wave = file.read(frames, dtype="float32", always_2d=True)
            soxr.resample(wave.mean(axis=1), file.samplerate, sample_rate, quality="HQ")


def librosa_load(path: str, sample_rate: int, track_s: float) -> None:
    """The decoder of the original solution."""
    import librosa

    librosa.load(path, sr=sample_rate, duration=track_s)


def original_pipeline(path: str, folder: str, recipe: dict) -> tuple[int, int]:
    """One track: load, mel, plot, save as JPEG, read back; returns the number of windows and their files' bytes.

    `recipe` has the tables `audio`, `windows` and `mel`.
    """
    import librosa
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    audio, spec, mel = recipe["audio"], recipe["windows"], recipe["mel"]
    rate, pixels, size = audio["sample_rate"], mel["image_size"], 0
    frames = {"n_fft": mel["n_fft"], "hop_length": mel["hop_length"], "n_mels": mel["n_mels"]}
    wave, _ = librosa.load(path, sr=rate, duration=audio["track_s"])
    wave = np.resize(wave, round(audio["track_s"] * rate))
    count = windows.num_windows(audio["track_s"], spec["window_s"], spec["hop_s"])
    for i in range(count):
        start = round(i * spec["hop_s"] * rate)
        window = wave[start : start + round(spec["window_s"] * rate)]
        power = librosa.feature.melspectrogram(y=window, sr=rate, **frames)
        figure = plt.figure(figsize=(pixels / 100, pixels / 100), dpi=100)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.axis("off")
        axes.imshow(librosa.power_to_db(power, ref=np.max), origin="lower", aspect="auto", cmap="viridis")
        picture = Path(folder) / f"{os.getpid()}.jpg"
        figure.savefig(picture)
        plt.close(figure)
        size += picture.stat().st_size
        read_back(str(picture), pixels, 1)
    return count, size


def read_back(picture: str, pixels: int, count: int) -> None:
    """Read and resize a picture `count` times, as later epochs of the original pipeline do."""
    from PIL import Image

    for _ in range(count):
        with Image.open(picture) as image:
            np.asarray(image.convert("RGB").resize((pixels, pixels), Image.Resampling.BICUBIC), np.float32)
