"""Ten classes of synthetic music and a small synthesizer that renders them: the music of the demo corpus.

The classes differ in the arrangement of their notes (rhythm, texture, articulation), not in loudness or brightness:
key, mode, tempo, timbre, spectral tilt, reverberation, noise floor and level are drawn at random for every track, from
the same distributions in all classes.

Conventions: pitches are MIDI numbers (69 = 440 Hz), times in s, `SAMPLE_RATE` in Hz, waves float in [-1, 1].
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

SAMPLE_RATE = 22_050
SCALES = {"major": (0, 2, 4, 5, 7, 9, 11), "minor": (0, 2, 3, 5, 7, 8, 10)}  # semitones above the tonic


@dataclass(frozen=True)
class Note:
    """A note of a voice; `bend` is the glide over its duration and `vibrato` the depth of the vibrato, in semitones."""

    start_s: float
    pitch: float
    duration_s: float
    voice: str
    gain: float = 1.0
    bend: float = 0.0
    vibrato: float = 0.0


@dataclass(frozen=True)
class Song:
    """The random parameters of a track, drawn before its class arranges the notes."""

    rng: np.random.Generator
    duration_s: float
    beat_s: float
    key: int
    scale: tuple[int, ...]

    def pitch(self, degree: int) -> int:
        """The MIDI number of a scale degree, any octave (degree 7 is the tonic an octave up)."""
        octave, step = divmod(degree, 7)
        return self.key + 12 * octave + self.scale[step]

    def bars(self, beats: int) -> Iterator[tuple[float, list[int]]]:
        """(start in s, triad as three scale degrees) of each bar."""
        for start_s in np.arange(0, self.duration_s, beats * self.beat_s):
            root = int(self.rng.choice([0, 3, 4, 5, 1]))  # the triads I, IV, V, VI and II
            yield float(start_s), [root, root + 2, root + 4]


def ambient(song: Song) -> Iterator[Note]:
    """Overlapping pads that swell and fade over several seconds."""
    for start_s in np.arange(-2, song.duration_s, 1.1):
        for degree in song.rng.choice(10, 2, replace=False):
            yield Note(start_s + song.rng.uniform(0, 1), song.pitch(int(degree)), song.rng.uniform(3, 5), "pad")


def chorale(song: Song) -> Iterator[Note]:
    """Four voices that move together, a chord on each beat."""
    for start_s, triad in song.bars(beats=1):
        for degree in [triad[0] - 7, *triad]:
            yield Note(start_s, song.pitch(degree), 0.95 * song.beat_s, "organ")


def waltz(song: Song) -> Iterator[Note]:
    """Oom-pah-pah: a bass note, then the chord twice."""
    for start_s, triad in song.bars(beats=3):
        yield Note(start_s, song.pitch(triad[0] - 14), song.beat_s, "bass", 1.5)
        for beat in (1, 2):
            for degree in triad:
                yield Note(start_s + beat * song.beat_s, song.pitch(degree), 0.35 * song.beat_s, "organ", 0.7)


def house(song: Song) -> Iterator[Note]:
    """A kick on every beat, a hi-hat between, and a sustained chord."""
    for start_s, triad in song.bars(beats=4):
        for beat in range(4):
            yield Note(start_s + beat * song.beat_s, 36, 0.2, "kick", 3)
            yield Note(start_s + (beat + 0.5) * song.beat_s, 100, 0.12, "hat", 1.5)
        for degree in triad:
            yield Note(start_s, song.pitch(degree), 4 * song.beat_s, "organ", 0.2)


def breakbeat(song: Song) -> Iterator[Note]:
    """Syncopated drums in sixteenths and a bass that follows the kick."""
    step_s = song.beat_s / 4
    for start_s, triad in song.bars(beats=4):
        for step in (0, 3, 10, 11):
            yield Note(start_s + step * step_s, 36, 0.15, "kick", 2)
            yield Note(start_s + step * step_s, song.pitch(triad[0] - 14), 0.2, "bass")
        for step in (4, 7, 9, 12, 15):
            yield Note(start_s + step * step_s, 60, 0.15, "snare", 1.5)
        for step in range(16):
            yield Note(start_s + step * step_s, 100, 0.04, "hat", song.rng.uniform(0.2, 0.7))


def chiptune(song: Song) -> Iterator[Note]:
    """Arpeggios of short square-wave notes."""
    step_s = song.beat_s / 4
    for start_s, triad in song.bars(beats=2):
        for step in range(8):
            degree = [*triad, triad[0] + 7][step % 4]
            yield Note(start_s + step * step_s, song.pitch(degree + 7), 0.8 * step_s, "square")


def aria(song: Song) -> Iterator[Note]:
    """One melody with a wide vibrato."""
    start_s = 0.0
    degree = 7
    while start_s < song.duration_s:
        duration_s = song.beat_s * song.rng.choice([1, 2, 3])
        degree = int(np.clip(degree + song.rng.integers(-3, 4), 2, 13))
        vibrato = song.rng.uniform(0.7, 1.1)
        yield Note(start_s, song.pitch(degree), duration_s, "lead", vibrato=vibrato)
        start_s += duration_s


def slide(song: Song) -> Iterator[Note]:
    """Two voices that glide from each pitch to the next without a break (portamento)."""
    for offset in (0, 4):
        start_s = 0.0
        degree = 4 + offset
        while start_s < song.duration_s:
            duration_s = song.beat_s * song.rng.choice([2, 3, 4])
            target = int(song.rng.integers(0, 10)) + offset
            bend = song.pitch(target) - song.pitch(degree)
            yield Note(start_s, song.pitch(degree), duration_s, "lead", bend=bend)
            start_s += duration_s
            degree = target


def ballad(song: Song) -> Iterator[Note]:
    """Broken chords on plucked strings with a long decay."""
    for start_s, triad in song.bars(beats=4):
        upwards = [triad[0] - 7, *triad, triad[0] + 7]
        for step, degree in enumerate([*upwards, *reversed(triad)]):  # eight steps: the four beats' eighths
            yield Note(start_s + step * song.beat_s / 2, song.pitch(degree), 2.5, "pluck")


def gamelan(song: Song) -> Iterator[Note]:
    """Bells with inharmonic partials in two interlocking patterns."""
    pattern = song.rng.integers(5, 14, 8)
    for start_s, triad in song.bars(beats=4):
        yield Note(start_s, song.pitch(triad[0] - 7), 3, "bell", 1.5)
        for step in range(8):
            delay_s = song.rng.uniform(0, 0.02)
            yield Note(start_s + step * song.beat_s / 2 + delay_s, song.pitch(int(pattern[step])), 0.9, "bell", 0.7)


CLASSES: dict[str, Callable[[Song], Iterator[Note]]] = {
    arrange.__name__: arrange
    for arrange in (ambient, aria, ballad, breakbeat, chiptune, chorale, gamelan, house, slide, waltz)
}


def _partials(voice: str, rolloff: float) -> list[tuple[float, float, float]]:
    """(frequency ratio, amplitude, decay in 1/s) of each partial of a pitched voice."""
    if voice == "bell":
        ratios = (1, 2.76, 5.4, 8.93)  # not of integers: inharmonic
        return [(ratio, 1 / (1 + i), 2 + i) for i, ratio in enumerate(ratios)]
    harmonics = range(1, 16, 2) if voice == "square" else range(1, 13)  # a square wave has odd ones only
    decay = {"pluck": 1.0, "bass": 0.8}.get(voice, 0.0)
    return [(n, n**-rolloff, decay * (1 + n / 4)) for n in harmonics]


def _envelope(voice: str, t: np.ndarray, duration_s: float) -> np.ndarray:
    if voice == "pad":
        return np.sin(np.pi * t / duration_s) ** 2
    attack = np.minimum(1, t / 0.008)  # 8 ms
    release = np.clip((duration_s - t) / 0.03, 0, 1)  # 30 ms
    return attack * release


def _render_pitched(note: Note, t: np.ndarray, rolloff: float) -> np.ndarray:
    vibrato = note.vibrato * np.sin(2 * np.pi * 5.5 * t)  # at 5.5 Hz
    semitones = note.pitch + note.bend * t / note.duration_s + vibrato
    frequency = 440 * 2 ** ((semitones - 69) / 12)
    phase = 2 * np.pi * np.cumsum(frequency) / SAMPLE_RATE  # the integral of a frequency that changes
    wave = np.zeros_like(t)
    for ratio, amplitude, decay in _partials(note.voice, rolloff):
        if ratio * frequency.max() < SAMPLE_RATE / 2:  # a higher partial would alias
            wave += amplitude * np.exp(-decay * t) * np.sin(ratio * phase)
    return wave * _envelope(note.voice, t, note.duration_s)


def _render_drum(note: Note, t: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    envelope = np.exp(-5 * t / note.duration_s)
    if note.voice == "kick":
        cycles = 50 * t + 4 * (1 - np.exp(-30 * t))  # a sine that falls quickly towards 50 Hz
        return envelope * np.sin(2 * np.pi * cycles)
    noise = rng.standard_normal(len(t))
    if note.voice == "hat":
        noise = np.diff(noise, prepend=0)  # brighter than a snare
    return envelope * noise * 0.5


def render(notes: Iterator[Note], song: Song, rolloff: float) -> np.ndarray:
    """Mix notes into one wave, shape (T,), at `SAMPLE_RATE`; partial n has amplitude n ** -rolloff."""
    mix = np.zeros(round(song.duration_s * SAMPLE_RATE))
    for note in notes:
        if note.start_s < 0:  # a pad from before the beginning starts with the track
            note = replace(note, start_s=0.0)
        start = round(note.start_s * SAMPLE_RATE)
        num_samples = min(round(note.duration_s * SAMPLE_RATE), len(mix) - start)
        t = np.arange(num_samples) / SAMPLE_RATE  # empty for a note from after the end
        if len(t):
            is_drum = note.voice in ("kick", "snare", "hat")
            wave = _render_drum(note, t, song.rng) if is_drum else _render_pitched(note, t, rolloff)
            mix[start : start + len(t)] += note.gain * wave
    return mix


def master(mix: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Apply a random spectral tilt, reverberation, noise floor and level to a mix, shape (T,)."""
    size = 1 << (2 * len(mix)).bit_length()  # a power of two: fast, and longer than the wave plus the impulse response
    frequencies = np.fft.rfftfreq(size, 1 / SAMPLE_RATE)
    tilt_db = rng.uniform(-2.5, 2.5) * np.log2(np.maximum(frequencies, 40) / 800)
    t = np.arange(round(0.6 * SAMPLE_RATE)) / SAMPLE_RATE
    gain = rng.uniform(0, 0.04)
    noise = rng.standard_normal(len(t))
    decay_s = rng.uniform(0.05, 0.25)
    impulse_response = gain * noise * np.exp(-t / decay_s)
    impulse_response[0] = 1  # the sound itself, before its reverberation
    spectrum = np.fft.rfft(mix, size) * 10 ** (tilt_db / 20) * np.fft.rfft(impulse_response, size)
    wave = np.fft.irfft(spectrum)[: len(mix)]
    wave /= np.abs(wave).max()
    noise_db = rng.uniform(-60, -36)
    wave += 10 ** (noise_db / 20) * rng.standard_normal(len(mix))
    peak = np.abs(wave).max()
    peak_db = rng.uniform(-14, -1)
    return wave / peak * 10 ** (peak_db / 20)


def _random_duration_s(rng: np.random.Generator) -> float:
    length = rng.choice(["medium", "short", "long"], p=[0.8, 0.1, 0.1])
    low, high = {"medium": (9, 18), "short": (3, 5.5), "long": (19, 26)}[length]
    return rng.uniform(low, high)


def compose(label: str, rng: np.random.Generator) -> np.ndarray:
    """A random track of a class: a wave of shape (T,) at `SAMPLE_RATE`."""
    scale = SCALES[str(rng.choice(list(SCALES)))]
    duration_s = _random_duration_s(rng)
    beat_s = 60 / rng.uniform(88, 132)  # of a tempo in beats per minute
    key = int(rng.integers(50, 62))
    song = Song(rng, duration_s, beat_s, key, scale)
    rolloff = rng.uniform(0.8, 1.6)  # drawn before the notes, which `render` draws one by one
    mix = render(CLASSES[label](song), song, rolloff)
    return master(mix, rng)
