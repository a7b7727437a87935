"""A small synthetic music corpus of real audio files, generated from a seed.

Ten classes (see `synthesizer.py`) as mp3, ogg and flac, at 22,050, 44,100 or 48,000 Hz, mono or stereo, of 3 to 26 s;
the same seed gives the same samples. The labels of the two test sets are for scoring only.
"""

import functools
import itertools
import multiprocessing
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import soundfile
import soxr

from melgpu import files
from melgpu.demo import synthesizer

TRACKS_PER_CLASS = {"train": 14, "test": 4, "private": 4}  # by split
RARE_CLASS = "gamelan"  # has half as many training tracks
FORMATS = ("mp3", "ogg", "flac")
FILE_RATES = (22_050, 44_100, 48_000)  # Hz

TrackSpec = tuple[str, str, tuple[int, ...]]  # file name, label, seed


def plan(seed: int) -> dict[str, list[TrackSpec]]:
    """The tracks of each split, in shuffled order."""
    jobs: dict[str, list[TrackSpec]] = {}
    for split_index, (split, per_class) in enumerate(TRACKS_PER_CLASS.items()):
        rng = np.random.default_rng([seed, split_index])
        counts = dict.fromkeys(synthesizer.CLASSES, per_class)
        if split == "train":
            counts[RARE_CLASS] = per_class // 2
        labels = rng.permutation(np.repeat(list(counts), list(counts.values())))
        # Formats are drawn after the labels, track by track: another order would give another corpus.
        jobs[split] = [
            (f"{split}{i:03d}.{rng.choice(FORMATS)}", str(label), (seed, split_index, i))
            for i, label in enumerate(labels)
        ]
    return jobs


def write_corpus(directory: Path, seed: int) -> Iterator[str]:
    """Write the corpus below `directory`; yields the name of each file once it is written."""
    audio_dir = directory / "audio"
    audio_dir.mkdir(parents=True, exist_ok=True)
    splits = plan(seed)
    jobs = list(itertools.chain(*splits.values()))
    with ProcessPoolExecutor(initializer=_exit_with_parent) as pool:
        yield from pool.map(functools.partial(_write_track, audio_dir), jobs)
    # After the audio, and private.csv last, since that marks a complete corpus.
    for split, tracks in splits.items():
        files.write_csv(directory / f"{split}.csv", ("filename", "label"), (track[:2] for track in tracks))


def _exit_with_parent() -> None:
    """Exit when the parent does; the processes of one that is killed would wait for work for ever."""
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent:
        parent.join()
        os._exit(1)  # sys.exit would end this thread only


def _write_track(directory: Path, job: TrackSpec) -> str:
    name, label, seed = job
    rng = np.random.default_rng(seed)
    wave = synthesizer.compose(label, rng)
    rate = int(rng.choice(FILE_RATES))
    stereo = bool(rng.integers(2))
    write_audio(directory / name, wave, rate, stereo)
    return name


def write_audio(path: Path, wave: np.ndarray, rate: int, stereo: bool) -> None:
    """Resample a wave, shape (T,) at `synthesizer.SAMPLE_RATE`, to `rate` and write it in its suffix's format."""
    wave = soxr.resample(wave, synthesizer.SAMPLE_RATE, rate)
    if stereo:
        delayed = np.roll(wave, rate // 500)  # by 2 ms
        wave = 0.9 * np.stack([wave, delayed], axis=1)
    audio_format = path.suffix[1:].upper()  # which the temporary name does not tell
    with (
        files.atomic_write(path) as temporary,
        soundfile.SoundFile(temporary, "w", rate, 1 + stereo, format=audio_format) as file,
    ):
        for block in np.array_split(wave, len(wave) // 4096 + 1):  # one long Ogg write overflows libsndfile's stack
            file.write(block)
