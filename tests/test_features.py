import librosa
import numpy as np
import pytest
import scipy.signal
import torch
from conftest import write_audio

from melgpu import recipe, song, windows
from melgpu.decode import decode
from melgpu.features import LogMel

RATE = 22_050
SPEC = recipe.load([]).mel


@pytest.fixture(scope="module", params=["nnaudio", "fft"])
def front_end(request) -> LogMel:
    return LogMel(SPEC.model_copy(update={"engine": request.param}), RATE)


def reference_decibels(wave: np.ndarray, spec=SPEC, rate: int = RATE) -> np.ndarray:
    """Log-mel by NumPy and SciPy alone, in float64: shape (M, N), dB re the window's maximum."""
    window = scipy.signal.get_window("hann", spec.n_fft)
    padded = np.pad(wave.astype(np.float64), spec.n_fft // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, spec.n_fft)[:: spec.hop_length]
    power = np.abs(np.fft.rfft(frames * window, axis=1)) ** 2
    mel = slaney_bank(rate, spec.n_fft, spec.n_mels, spec.fmin, spec.fmax or rate / 2) @ power.T
    decibels = 10 * np.log10(np.maximum(mel, 1e-10) / max(mel.max(), 1e-10))
    return np.maximum(decibels, -spec.top_db)


def slaney_bank(rate, n_fft, n_mels, fmin, fmax) -> np.ndarray:
    """Triangles of unit area on Slaney's scale: 200/3 Hz a mel below 1 kHz, 27 mels a factor of 6.4 above."""
    to_mel = lambda f: np.where(f < 1000, f * 3 / 200, 15 + 27 * np.log(np.maximum(f, 1e-9) / 1000) / np.log(6.4))  # noqa: E731
    to_hertz = lambda m: np.where(m < 15, m * 200 / 3, 1000 * 6.4 ** ((m - 15) / 27))  # noqa: E731
    edges = to_hertz(np.linspace(to_mel(np.float64(fmin)), to_mel(np.float64(fmax)), n_mels + 2))
    hertz = np.fft.rfftfreq(n_fft, 1 / rate)[None]
    low, middle, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rise, fall = (hertz - low) / (middle - low), (high - hertz) / (high - middle)
    return np.maximum(0, np.minimum(rise, fall)) * 2 / (high - low)


def signals() -> dict[str, np.ndarray]:
    rng, t = np.random.default_rng(0), np.arange(20 * RATE) / RATE
    noise = rng.standard_normal(len(t))
    clicks = np.zeros(len(t))
    clicks[:: RATE // 3] = 1
    made = {
        "noise": noise / 4,
        "sweep": scipy.signal.chirp(t, 30, 20, 11_000, "logarithmic"),
        "clicks": clicks,
        "steep": scipy.signal.lfilter([1], [1, -0.99], noise) / 40,
        "full scale": np.sign(np.sin(2 * np.pi * 440 * t)),
        "-60 dB": noise * 1e-3,
        "music": np.resize(song.compose("waltz", np.random.default_rng(3)), len(t)),
    }
    return {name: wave.astype(np.float32) for name, wave in made.items()}


@pytest.mark.parametrize("name", signals())
def test_parity_with_a_float64_reference(front_end, name):
    wave = signals()[name]
    expected = reference_decibels(wave)
    with torch.no_grad():
        error = np.abs(front_end.decibels(torch.from_numpy(wave)[None])[0].numpy() - expected)
    above = expected > -SPEC.top_db
    assert error[above].max() <= 0.05
    assert error[above].mean() <= 0.001


@pytest.mark.parametrize(
    ("suffix", "rate", "channels"), [(".mp3", 44_100, 2), (".ogg", 48_000, 1), (".flac", 22_050, 2)]
)
def test_parity_with_librosa_on_decoded_audio(front_end, tmp_path, suffix, rate, channels):
    wave = decode(write_audio(tmp_path / f"x{suffix}", 21, rate, channels), RATE, 20)
    power = librosa.feature.melspectrogram(y=wave, sr=RATE, n_fft=2048, hop_length=512, n_mels=512)
    expected = librosa.power_to_db(power, ref=np.max, top_db=80)
    with torch.no_grad():
        error = np.abs(front_end.decibels(torch.from_numpy(wave)[None])[0].numpy() - expected)[expected > -80]
    assert error.max() <= 0.05
    assert error.mean() <= 0.001


def test_pictures_are_three_equal_channels_between_0_and_1(front_end):
    pictures = front_end(torch.from_numpy(np.stack([signals()["music"], signals()["noise"]])))
    assert pictures.shape == (2, 3, 512, 512)
    assert pictures.dtype == torch.float32
    assert pictures.min() >= 0
    assert pictures.max() <= 1
    assert pictures.amax((1, 2, 3)).min() > 0.9
    assert torch.equal(pictures[:, 0], pictures[:, 1])
    assert torch.equal(pictures[:, 0], pictures[:, 2])
    assert pictures.untyped_storage().nbytes() == 2 * 512 * 512 * 4  # replication costs no memory


def test_low_is_down_and_time_goes_right(front_end):
    t = torch.arange(20 * RATE) / RATE
    low, high = torch.sin(2 * torch.pi * 200 * t), torch.sin(2 * torch.pi * 8000 * t)
    picture = front_end(torch.where(t < 10, low, high)[None])[0, 0]
    assert picture[256:, :200].mean() > picture[:256, :200].mean()
    assert picture[:256, 312:].mean() > picture[256:, 312:].mean()


def test_silence_is_darkest_and_gain_is_invisible(front_end):
    music = torch.from_numpy(signals()["music"])
    pictures = front_end(torch.stack([music * 0, music, music * 0.1]))
    assert pictures[0].max() == 0
    assert torch.allclose(pictures[1], pictures[2], atol=1e-4)


def test_a_picture_does_not_depend_on_its_batch(front_end):
    music, noise = torch.from_numpy(signals()["music"]), torch.from_numpy(signals()["noise"])
    alone, together = front_end(music[None] * 0.01), front_end(torch.stack([noise, music * 0.01, noise * 0]))
    assert torch.allclose(alone[0], together[1], atol=1e-5)


def test_autocast_does_not_touch_it(front_end):
    music = torch.from_numpy(signals()["music"])[None]
    with torch.autocast("cpu", torch.bfloat16):
        inside = front_end(music)
    assert torch.equal(inside, front_end(music))
    assert torch.backends.cudnn.conv.fp32_precision != "ieee"  # the switch is put back


def test_the_demo_recipe_agrees_too():
    demo = recipe.load(["demo"])
    wave = signals()["music"][: windows.samples(demo.windows.window_s, demo.audio.sample_rate)]
    expected = reference_decibels(wave, demo.mel, demo.audio.sample_rate)
    front_end = LogMel(demo.mel, demo.audio.sample_rate)
    with torch.no_grad():
        assert np.abs(front_end.decibels(torch.from_numpy(wave)[None])[0].numpy() - expected).max() < 0.05
    assert front_end(torch.from_numpy(wave)[None]).shape == (1, 3, 80, 80)


@pytest.mark.gpu
def test_parity_on_the_gpu():
    front_end = LogMel(SPEC, RATE).cuda()
    for name, wave in signals().items():
        expected = reference_decibels(wave)
        with torch.no_grad():
            got = front_end.decibels(torch.from_numpy(wave)[None].cuda())[0].cpu().numpy()
        assert np.abs(got - expected)[expected > -80].max() <= 0.05, name
