import numpy as np
import pytest

from melgpu.demo import synthesizer


def features(wave: np.ndarray) -> list[float]:
    """RMS, peak, spectral centroid, two spectral rolloffs, zero-crossing rate, variation of the frame RMS, length."""
    spectrum = np.abs(np.fft.rfft(wave)) ** 2
    frequencies = np.fft.rfftfreq(len(wave), 1 / synthesizer.SAMPLE_RATE)
    cumulative = np.cumsum(spectrum) / spectrum.sum()
    frame_rms = np.sqrt(np.square(wave[: len(wave) // 1024 * 1024].reshape(-1, 1024)).mean(1))
    return [
        np.sqrt(np.square(wave).mean()),
        np.abs(wave).max(),
        (frequencies * spectrum).sum() / spectrum.sum(),
        frequencies[np.searchsorted(cumulative, 0.5)],
        frequencies[np.searchsorted(cumulative, 0.85)],
        (np.diff(np.sign(wave)) != 0).mean(),
        frame_rms.std() / frame_rms.mean(),
        len(wave),
    ]


def test_no_scalar_feature_separates_the_classes():
    """The accuracy of the best single feature, quantized to ten bins, is low."""
    labels = np.repeat(list(synthesizer.CLASSES), 12)
    table = np.array(
        [features(synthesizer.compose(label, np.random.default_rng([7, i]))) for i, label in enumerate(labels)]
    )
    for column in table.T:
        bins = labels[column.argsort()].reshape(10, 12)
        num_correct = sum(max(np.unique(labels_of_bin, return_counts=True)[1]) for labels_of_bin in bins)
        assert num_correct / len(labels) < 0.55


@pytest.mark.parametrize("label", synthesizer.CLASSES)
def test_no_class_has_silent_tracks(label):
    wave = synthesizer.compose(label, np.random.default_rng(1))
    assert 3 * synthesizer.SAMPLE_RATE <= len(wave) <= 26 * synthesizer.SAMPLE_RATE
    assert 0.1 < np.abs(wave).max() <= 1
    peaks = np.abs(
        wave[: len(wave) // synthesizer.SAMPLE_RATE * synthesizer.SAMPLE_RATE].reshape(-1, synthesizer.SAMPLE_RATE)
    ).max(1)
    assert peaks.min() > 0.005  # no second is silent
