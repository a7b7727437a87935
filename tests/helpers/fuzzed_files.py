"""Audio files damaged at random, decoded by worker processes with intact files among them.

    python -m tests.helpers.fuzzed_files 10000

Prints every crash, hang, unexpected exception and disturbed neighbour, and their number.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np

from melgpu.audio.decode import read_audio
from melgpu.audio.pool import WorkerLostError, WorkerPool
from tests.helpers import foreign_files

RATE = 8_000
TRACK_S = 4.0
TIMEOUT_S = 20.0
HEAD_BYTES = 256
SIZES = (0, 1, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF)  # of fields in headers
FFMPEG_FORMATS = {
    "m4a": ("aac", "ipod"),
    "aac": ("aac", "adts"),
    "wma": ("wmav2", "asf"),
    "mka": ("flac", "matroska"),
    "ac3.wav": ("ac3", "wav"),
    "aac.wav": ("aac", "wav"),
    "flac.ogg": ("flac", "ogg"),
    "wv": ("wavpack", "wv"),
    "mp2": ("mp2", "mp2"),
    "webm": ("libopus", "webm"),
    "avi": ("libmp3lame", "avi"),
    "ts": ("aac", "mpegts"),
    "alac.m4a": ("alac", "ipod"),
}
SNDFILE_FORMATS = ("wav", "flac", "mp3", "ogg", "opus", "aiff", "au", "caf", "w64", "rf64")


def intact_files(folder: Path) -> dict[str, bytes]:
    """A short file of each format, by name."""
    wave = foreign_files.music(2.0, channels=1)
    files = {}
    for suffix in SNDFILE_FORMATS:
        rate = 48_000 if suffix == "opus" else foreign_files.RATE
        files[f"x.{suffix}"] = foreign_files.write_sound(folder / f"x.{suffix}", wave, rate)
    for suffix, (codec, container) in FFMPEG_FORMATS.items():
        rate = 48_000 if suffix == "webm" else foreign_files.RATE
        files[f"f.{suffix}"] = foreign_files.encode(folder / f"f.{suffix}", wave, codec, container, rate)
    mp3 = foreign_files.vbr_mp3(folder, wave)
    files["vbr.mp3"] = foreign_files.without_xing(mp3)
    files["joined.mp3"] = mp3 * 2
    files["chained.ogg"] = files["x.ogg"] * 2
    files["total.flac"] = foreign_files.flac_of_total(files["x.flac"], 0)
    files["size.wav"] = foreign_files.wav(foreign_files.pcm(wave), 0, channels=1)
    return files


def damage(data: bytes, rng: np.random.Generator) -> bytes:
    """Some bytes of a file changed, exchanged, repeated or cut off; most often in its header."""
    damaged = bytearray(data)
    for _ in range(rng.integers(1, 4)):
        size = len(damaged)
        end = min(size, HEAD_BYTES) if rng.random() < 0.6 else size
        position = int(rng.integers(0, max(1, end - 8)))
        length = int(rng.integers(1, 2000))
        match rng.integers(0, 7):
            case 0:
                damaged[position] ^= 1 << int(rng.integers(0, 8))
            case 1:
                damaged[position : position + 8] = rng.bytes(8)
            case 2:
                order = "big" if rng.random() < 0.5 else "little"
                damaged[position : position + 4] = int(rng.choice(SIZES)).to_bytes(4, order)
            case 3:
                del damaged[int(rng.integers(0, size + 1)) :]
            case 4:
                damaged[position : position + length] = bytes(length)
            case 5:
                del damaged[position : position + length]
            case 6:
                damaged[position:position] = damaged[position : position + length]
    return bytes(damaged)


def check(path: str, expected_samples: int | None) -> str | None:
    """What is wrong with the answer to a file, if anything; the number of samples is that of an intact one."""
    audio = read_audio(path, RATE, TRACK_S, 0.5)
    if expected_samples is not None and (audio.error or len(audio.wave) != expected_samples):
        return f"an intact file gave {len(audio.wave)} samples and {audio.error}"
    if not np.isfinite(audio.wave).all():
        return "samples that are not finite"
    if audio.error is None and len(audio.wave) < 0.5 * RATE:
        return "fewer samples than the least length, without an error"
    if audio.error and ("\n" in audio.error or "Traceback" in audio.error):
        return f"an error of several lines: {audio.error}"
    return None


def run(count: int, workers: int, seed: int = 0) -> list[str]:
    """Decode `count` damaged files; returns the failures."""
    rng = np.random.default_rng(seed)
    failures = []
    with tempfile.TemporaryDirectory() as name, WorkerPool(workers, TIMEOUT_S) as pool:
        folder = Path(name)
        intact = intact_files(folder)
        for path, data in intact.items():
            (folder / path).write_bytes(data)
        samples = {path: len(read_audio(folder / path, RATE, TRACK_S).wave) for path in intact}
        names = list(intact)
        for i in range(count):
            file = names[i % len(names)]
            path = folder / f"damaged.{file}"
            path.write_bytes(damage(intact[file], rng))
            neighbour = names[int(rng.integers(0, len(names)))]
            futures = {
                f"damaged {file}": pool.submit(check, str(path), None),
                neighbour: pool.submit(check, str(folder / neighbour), samples[neighbour]),
            }
            for checked, future in futures.items():
                try:
                    problem = future.result()
                except WorkerLostError as error:
                    problem = str(error)
                except Exception as error:
                    problem = f"{type(error).__name__}: {error}"
                if problem:
                    failures.append(f"{i} {checked}: {problem}")
    return failures


def main() -> None:
    failures = run(int(sys.argv[1]), workers=1)
    print(*failures, f"{len(failures)} failures", sep="\n")


if __name__ == "__main__":
    from tests.helpers import fuzzed_files  # worker processes import functions by their module, which is not __main__

    fuzzed_files.main()
