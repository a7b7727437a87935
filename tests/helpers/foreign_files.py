"""Parts of files as other people's programs write, join and cut them."""

import struct
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import soundfile

RATE = 44_100
SECONDS = 4.0


def music(seconds: float = SECONDS, rate: int = RATE, channels: int = 2, seed: int = 0) -> np.ndarray:
    """Decaying harmonic notes over a noise floor, shape (frames, channels), quantized to 16 bits."""
    rng = np.random.default_rng(seed)
    t = np.arange(round(seconds * rate)) / rate
    wave = 0.003 * rng.standard_normal((len(t), channels))
    for start in np.arange(0, seconds, 0.25):
        note = np.clip(t - start, 0, None)
        frequency = 220 * 2 ** (rng.integers(0, 24) / 12)
        tone = sum(np.sin(2 * np.pi * frequency * k * note) / k for k in range(1, 5))
        wave += (0.08 * np.exp(-6 * note) * tone * (t >= start))[:, None] * rng.uniform(0.5, 1, channels)
    return np.round(wave * 32_767) / 32_768


def encode(path: Path, wave: np.ndarray, codec: str, container: str, rate: int = RATE) -> bytes:
    """Write a file with FFmpeg and return its bytes."""
    with av.open(str(path), "w", format=container) as file:
        add_audio(file, codec, wave, rate)
    return path.read_bytes()


def add_audio(file: av.container.OutputContainer, codec: str, wave: np.ndarray, rate: int) -> None:
    layout = "stereo" if wave.shape[1] == 2 else "mono"
    stream = file.add_stream(codec, rate=rate, layout=layout)
    formats = [sample_format.name for sample_format in stream.codec_context.codec.audio_formats]
    stream.codec_context.format = next((name for name in ("s16", "s16p") if name in formats), formats[0])
    stream.bit_rate = 128_000
    file.start_encoding()  # sets the size of frames
    for frame in _frames(wave, rate, layout, stream):
        file.mux(stream.encode(frame))
    file.mux(stream.encode(None))


def _frames(wave: np.ndarray, rate: int, layout: str, stream: av.AudioStream) -> list[av.AudioFrame]:
    samples = np.ascontiguousarray(np.round(wave * 32_768).astype(np.int16)).reshape(1, -1)
    frame = av.AudioFrame.from_ndarray(samples, format="s16", layout=layout)
    frame.sample_rate = rate
    frame.pts = 0
    frame.time_base = Fraction(1, rate)
    context = stream.codec_context
    size = context.frame_size or 4096
    resampler = av.AudioResampler(context.format, layout, rate, frame_size=size)
    return [*resampler.resample(frame), *resampler.resample(None)]


def write_sound(path: Path, wave: np.ndarray, rate: int = RATE, **options: object) -> bytes:
    """Write a file with libsndfile, in the format of the suffix, and return its bytes."""
    container, codec = ("OGG", "OPUS") if path.suffix == ".opus" else (path.suffix[1:].upper(), None)
    with soundfile.SoundFile(path, "w", rate, wave.shape[1], codec, format=container, **options) as file:
        for block in np.array_split(wave, len(wave) // 4096 + 1):
            file.write(block)
    return path.read_bytes()


def vbr_mp3(folder: Path, wave: np.ndarray) -> bytes:
    """An mp3 of variable bit rate, with a Xing header."""
    return write_sound(folder / "made.mp3", wave, bitrate_mode="VARIABLE", compression_level=0.5)


def without_xing(mp3: bytes) -> bytes:
    """An mp3 without its first frame, as an encoder writes it that cannot seek back."""
    start = mp3.find(b"\xff\xfb")
    return mp3[mp3.find(b"\xff\xfb", start + 4) :]


def with_xing_frames(mp3: bytes, change: Callable[[int], int]) -> bytes:
    """An mp3 with another number of frames in its Xing header."""
    start = max(mp3.find(b"Xing"), mp3.find(b"Info")) + 8
    (count,) = struct.unpack(">I", mp3[start : start + 4])
    return mp3[:start] + struct.pack(">I", change(count)) + mp3[start + 4 :]


def ape_tag(size: int) -> bytes:
    """A tag as programs write it after an mp3, such as a cover picture."""
    body = np.random.default_rng(9).bytes(size)
    fields = struct.pack("<III", 2000, size + 32, 1)
    return b"APETAGEX" + fields + b"\0\0\0\xa0" + bytes(8) + body + b"APETAGEX" + fields + b"\0\0\0\x80" + bytes(8)


def id3_tag(size: int) -> bytes:
    """A tag as programs write it before an mp3."""
    return b"ID3\x03\x00\x00" + bytes(size >> shift & 127 for shift in (21, 14, 7, 0)) + b"x" * size


def wav(data: bytes, size: int, tag: int = 1, rate: int = RATE, channels: int = 2, bits: int = 16) -> bytes:
    """A wav file that claims `size` bytes of samples."""
    block = channels * bits // 8
    form = struct.pack("<HHIIHH", tag, channels, rate, rate * block, block, bits)
    head = b"WAVEfmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", size)
    return b"RIFF" + struct.pack("<I", min(size + len(head), 2**32 - 1)) + head + data


def pcm(wave: np.ndarray) -> bytes:
    return np.round(wave * 32_768).astype("<i2").tobytes()


def flac_of_total(flac: bytes, total: int) -> bytes:
    """A flac whose header claims another number of samples; 0 is unknown, as written to a pipe."""
    fields = int.from_bytes(flac[21:26], "big") & ~0xF_FFFF_FFFF | total
    return flac[:21] + fields.to_bytes(5, "big") + flac[26:]
