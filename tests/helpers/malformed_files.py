"""Malformed and unusual audio files, each with the expected outcome: the reason of its error, or its duration."""

import os
from pathlib import Path

import numpy as np
import soundfile

from tests.helpers import write_audio

RATE = 22_050


def write_malformed_files(folder: Path) -> dict[str, str | tuple[str, float] | float]:
    """Write the files below `folder`; returns {name: reason | (reason, usable seconds) | duration in s}."""
    return {**_unreadable(folder), **_not_audio(folder), **_corrupt(folder), **_unusual(folder), **_containers(folder)}


def _unreadable(folder: Path) -> dict:
    (folder / "folder.flac").mkdir()
    (folder / "dangling.wav").symlink_to(folder / "nowhere")
    (folder / "loop.mp3").symlink_to(folder / "loop.mp3")
    os.mkfifo(folder / "pipe.wav")
    (folder / "device.ogg").symlink_to("/dev/zero")
    (folder / "empty.mp3").touch()
    write_audio(folder / "locked.ogg").chmod(0)
    return {
        "folder.flac": "not a regular file",
        "dangling.wav": "No such file",
        "loop.mp3": "symbolic links",
        "pipe.wav": "not a regular file",
        "device.ogg": "not a regular file",
        "empty.mp3": "the file is empty",
        "absent.wav": "No such file",
        "locked.ogg": "no permission" if os.geteuid() else 3.0,  # root may read all
    }


def _not_audio(folder: Path) -> dict:
    (folder / "text.mp3").write_text("this is text, not audio\n" * 50)
    (folder / "picture.mp3").write_bytes(b"\x89PNG\r\n\x1a\n" + np.random.default_rng(0).bytes(20_000))
    (folder / "page.ogg").write_text("<!DOCTYPE html><html><body>404</body></html>")
    (folder / "noise.flac").write_bytes(np.random.default_rng(0).bytes(50_000))
    (folder / "zeros.wav").write_bytes(bytes(50_000))
    soundfile.write(folder / "nothing.wav", np.empty(0, np.float32), RATE)
    (folder / "tag.mp3").write_bytes(_id3_tag(b"x" * 3000))
    return {
        "text.mp3": "its content is damaged, or of no known format",
        "picture.mp3": "not readable as audio",
        "page.ogg": "not readable as audio",
        "noise.flac": "not readable as audio",
        "zeros.wav": "not readable as audio",
        "nothing.wav": "contains no audio",
        "tag.mp3": "not readable as audio",
    }


def _corrupt(folder: Path) -> dict:
    flac = write_audio(folder / "whole.flac", 30, seed=1).read_bytes()
    (folder / "cut.flac").write_bytes(flac[: len(flac) // 2])
    (folder / "head.flac").write_bytes(flac[:30])
    ogg = write_audio(folder / "whole.ogg", 30, seed=2).read_bytes()
    (folder / "cut.ogg").write_bytes(ogg[: len(ogg) // 2])
    mp3 = write_audio(folder / "whole.mp3", 30, seed=3).read_bytes()
    (folder / "cut.mp3").write_bytes(mp3[: len(mp3) // 2])
    middle = len(mp3) // 2
    (folder / "garbage.mp3").write_bytes(mp3[:middle] + np.random.default_rng(1).bytes(4000) + mp3[middle + 4000 :])
    (folder / "garbage.flac").write_bytes(flac[: len(flac) // 2] + bytes(4000) + flac[len(flac) // 2 + 4000 :])
    wave = np.full(3 * RATE, 0.5, np.float32)
    for name, invalid in (("nan", np.nan), ("inf", np.inf), ("huge", 1e30)):
        wave[2 * RATE] = invalid
        soundfile.write(folder / f"{name}.wav", wave, RATE, subtype="FLOAT")
    soundfile.write(folder / "all_nan.wav", np.full(RATE, np.nan, np.float32), RATE, subtype="FLOAT")
    return {
        "cut.flac": ("its header claims 30.0 s and it contains 14.9 s", 15),
        "head.flac": "not readable as audio",
        "cut.ogg": 14.3,  # an Ogg header claims no length, so this is no error
        "cut.mp3": ("its header claims 30.0 s and it contains 14.9 s", 15),
        "garbage.mp3": ("decoding failed after 14.9 s", 15),
        "garbage.flac": ("its header claims 30.0 s and it contains 29.6 s", 29.6),
        "nan.wav": ("not finite", 2),
        "inf.wav": ("not finite", 2),
        "huge.wav": ("absurdly large", 2),
        "all_nan.wav": "not finite",
    }


def _unusual(folder: Path) -> dict:
    soundfile.write(folder / "silence.flac", np.zeros(5 * RATE), RATE)
    soundfile.write(folder / "loud.wav", np.full(RATE, 1.5, np.float32), RATE, subtype="FLOAT")
    write_audio(folder / "blip.wav", 0.05)
    data = bytearray(write_audio(folder / "rate.wav", 3).read_bytes())
    data[24:28] = (700).to_bytes(4, "little")
    (folder / "rate.wav").write_bytes(data)
    data[24:28], data[40:44] = RATE.to_bytes(4, "little"), (2**31 - 2).to_bytes(4, "little")
    (folder / "long_header.wav").write_bytes(data)  # its header claims half a day
    cover = _id3_tag(b"APIC" + np.random.default_rng(2).bytes(200_000))
    (folder / "cover.mp3").write_bytes(cover + write_audio(folder / "plain.mp3", 4).read_bytes())
    (folder / "really_flac.mp3").write_bytes(write_audio(folder / "plain.flac", 4).read_bytes())
    write_audio(folder / 'nhạc "số 1"\nmới, 100%.mp3', 4)
    write_audio(folder / ("long" * 60 + ".ogg"), 4)
    write_audio(folder / "short.mp3", 0.3)
    for rate in (8_000, 192_000):
        write_audio(folder / f"{rate}.wav", 4, rate)
    write_audio(folder / "eight.flac", 4, channels=8)
    with soundfile.SoundFile(folder / "three_hours.flac", "w", 8_000, 1) as file:
        for _ in range(180):
            file.write(np.zeros(60 * 8_000, np.int16))
    return {
        "silence.flac": 5.0,
        "loud.wav": 1.0,
        "blip.wav": 0.05,
        "rate.wav": "claims a sample rate of 700 Hz",
        "long_header.wav": 3.0,
        "cover.mp3": 4.0,
        "really_flac.mp3": 4.0,
        'nhạc "số 1"\nmới, 100%.mp3': 4.0,
        "long" * 60 + ".ogg": 4.0,
        "short.mp3": 0.3,
        "8000.wav": 4.0,
        "192000.wav": 4.0,
        "eight.flac": 4.0,
        "three_hours.flac": 60.0,  # the requested duration
    }


def _containers(folder: Path) -> dict:
    m4a = write_container(folder / "whole.m4a", 8).read_bytes()
    (folder / "cut.m4a").write_bytes(m4a[: len(m4a) // 2])  # its moov atom is at the end
    (folder / "text.m4a").write_text("not audio")
    write_container(folder / "stereo.wma", 8, channels=2)
    return {
        "whole.m4a": 8.0,
        "cut.m4a": "not readable as audio",
        "text.m4a": "not readable as audio",
        "stereo.wma": 8.0,
    }


def _id3_tag(payload: bytes) -> bytes:
    """An ID3v2 tag around a payload, such as a cover picture before the audio."""
    size = len(payload)
    return b"ID3\x03\x00\x00" + bytes(size >> shift & 127 for shift in (21, 14, 7, 0)) + payload


def write_container(path: Path, seconds: float, rate: int = 44_100, channels: int = 1) -> Path:
    """Two tones in a container of the path's suffix."""
    import av

    codec = {".m4a": "aac", ".aac": "aac", ".wma": "wmav2"}[path.suffix]
    t = np.arange(round(seconds * rate)) / rate
    wave = 0.3 * np.sin(2 * np.pi * 440 * t) + 0.1 * np.sin(2 * np.pi * 1234 * t)
    with av.open(str(path), "w") as file:
        layout = "stereo" if channels == 2 else "mono"
        stream = file.add_stream(codec, rate=rate, layout=layout)
        stream.bit_rate = 96_000
        size = stream.frame_size or 1024
        for start in range(0, len(wave) - size + 1, size):
            block = np.stack([wave[start : start + size]] * channels).astype(np.float32)
            frame = av.AudioFrame.from_ndarray(block, format="fltp", layout=layout)
            frame.sample_rate, frame.pts = rate, start
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path
