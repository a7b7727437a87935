import numpy as np
import pytest

from melgpu.demo import song


def features(wave: np.ndarray) -> list[float]:
    """Numbers that a threshold could look at: level, peakiness, brightness, zero crossings, length."""
    spectrum = np.abs(np.fft.rfft(wave)) ** 2
    hertz = np.fft.rfftfreq(len(wave), 1 / song.RATE)
    share = np.cumsum(spectrum) / spectrum.sum()
    frames = np.sqrt(np.square(wave[: len(wave) // 1024 * 1024].reshape(-1, 1024)).mean(1))
    return [
        np.sqrt(np.square(wave).mean()),
        np.abs(wave).max(),
        (hertz * spectrum).sum() / spectrum.sum(),
        hertz[np.searchsorted(share, 0.5)],
        hertz[np.searchsorted(share, 0.85)],
        (np.diff(np.sign(wave)) != 0).mean(),
        frames.std() / frames.mean(),
        len(wave),
    ]


def test_no_threshold_separates_the_classes():
    """The best single number, cut anywhere into ten ranges, leaves most tracks wrong."""
    labels = np.repeat(list(song.CLASSES), 12)
    table = np.array([features(song.compose(label, np.random.default_rng([7, i]))) for i, label in enumerate(labels)])
    for column in table.T:
        ranks = labels[column.argsort()].reshape(10, 12)
        right = sum(max(np.unique(part, return_counts=True)[1]) for part in ranks)
        assert right / len(labels) < 0.55


@pytest.mark.parametrize("label", song.CLASSES)
def test_every_class_makes_sound(label):
    wave = song.compose(label, np.random.default_rng(1))
    assert 3 * song.RATE <= len(wave) <= 26 * song.RATE
    assert 0.1 < np.abs(wave).max() <= 1
    frames = np.abs(wave[: len(wave) // song.RATE * song.RATE].reshape(-1, song.RATE)).max(1)
    assert frames.min() > 0.005  # no second is silent
