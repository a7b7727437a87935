"""What people do instead of melgpu, one function for each way; they run in decoding processes."""

import os
from pathlib import Path

import numpy as np
import soundfile
import soxr

from melgpu.audio import decode
from melgpu.data import windows


def limit(path: str, sample_rate: int, track_s: float) -> None:
    """libsndfile into one buffer that stays in the cache, and soxr of as many samples: nothing that could be saved."""
    with soundfile.SoundFile(path) as file:
        buffer, frames, rate = np.empty((1 << 16, file.channels), np.float32), 0, file.samplerate
        most = min(file.frames, round(track_s * rate))
        while frames < most and (count := len(file.read(min(most - frames, len(buffer)), out=buffer[: most - frames]))):
            frames += count
    soxr.resample(np.zeros(frames, np.float32), rate, sample_rate, quality="HQ")


def resample_limit(path: str, sample_rate: int, track_s: float) -> None:
    """soxr alone, of as many samples as the file has, from and to memory that stays in the cache."""
    rate, frames = _form(path, track_s)
    resampler, block = soxr.ResampleStream(rate, sample_rate, 1), np.zeros(1 << 14, np.float32)  # HQ
    for start in range(0, frames, len(block)):
        resampler.resample_chunk(block[: frames - start])


def resample(path: str, sample_rate: int, track_s: float) -> None:
    """What melgpu does of a track once its channels are summed."""
    rate, frames = _form(path, track_s)
    decode._resampled_mean(np.zeros(frames, np.float32), 2, rate, sample_rate)


def _form(path: str, track_s: float) -> tuple[int, int]:
    """Sample rate, and frames that a track has of a file."""
    info = soundfile.info(path)
    return info.samplerate, min(info.frames, round(track_s * info.samplerate))


def raw(path: str, sample_rate: int, track_s: float) -> None:
    """The track in one piece by libsndfile, and soxr of one of its channels."""
    wave, rate = soundfile.read(path, _form(path, track_s)[1], dtype="float32", always_2d=True)
    soxr.resample(wave[:, 0], rate, sample_rate, quality="HQ")


def by_hand(path: str, sample_rate: int, track_s: float) -> None:
    """As one writes it: the track in one piece, NumPy's mean, soxr."""
    wave, rate = soundfile.read(path, _form(path, track_s)[1], dtype="float32", always_2d=True)
    soxr.resample(wave.mean(axis=1), rate, sample_rate, quality="HQ")


def seek_windows(path: str, sample_rate: int, track_s: float) -> None:
    """Random access, as loaders of single windows do: seek, read, mean, resample for each of the 11."""
    with soundfile.SoundFile(path) as file:
        frames = round(track_s / 6 * file.samplerate)
        for number in range(11):
            file.seek(min(number * frames // 2, max(0, file.frames - frames)))
            wave = file.read(frames, dtype="float32", always_2d=True)
            soxr.resample(wave.mean(axis=1), file.samplerate, sample_rate, quality="HQ")


def librosa_load(path: str, sample_rate: int, track_s: float) -> None:
    """What the original solution called."""
    import librosa

    librosa.load(path, sr=sample_rate, duration=track_s)


def original_way(path: str, folder: str, settings: dict) -> tuple[int, int]:
    """One track: load, mel, draw, save, and read back; returns the number of windows and their files' bytes.

    `settings` are a recipe's tables `audio`, `windows` and `mel`.
    """
    import librosa
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    audio, spec, mel = settings["audio"], settings["windows"], settings["mel"]
    rate, pixels, size = audio["sample_rate"], mel["image_size"], 0
    frames = {"n_fft": mel["n_fft"], "hop_length": mel["hop_length"], "n_mels": mel["n_mels"]}
    wave, _ = librosa.load(path, sr=rate, duration=audio["track_s"])
    wave = np.resize(wave, round(audio["track_s"] * rate))
    count = windows.num_windows(audio["track_s"], spec["window_s"], spec["hop_s"])
    for number in range(count):
        start = round(number * spec["hop_s"] * rate)
        part = wave[start : start + round(spec["window_s"] * rate)]
        power = librosa.feature.melspectrogram(y=part, sr=rate, **frames)
        figure = plt.figure(figsize=(pixels / 100, pixels / 100), dpi=100)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.axis("off")
        axes.imshow(librosa.power_to_db(power, ref=np.max), origin="lower", aspect="auto", cmap="viridis")
        place = Path(folder) / f"{os.getpid()}.jpg"
        figure.savefig(place)
        plt.close(figure)
        size += place.stat().st_size
        read_back(str(place), pixels, 1)
    return count, size


def read_back(picture: str, pixels: int, count: int) -> None:
    """What a later epoch of the original way does, so many times."""
    from PIL import Image

    for _ in range(count):
        with Image.open(picture) as image:
            np.asarray(image.convert("RGB").resize((pixels, pixels), Image.Resampling.BICUBIC), np.float32)
