import librosa
import numpy as np
import pytest
import scipy.signal
import torch

from benchmarks.references import reference
from melgpu.audio.decode import decode
from melgpu.data import windows
from melgpu.demo import song
from melgpu.errors import InputError
from melgpu.features.log_mel import LogMel
from melgpu.recipe import load_recipe
from tests.helpers import write_audio

RATE = 22_050
SPEC = load_recipe([]).mel


@pytest.fixture(scope="module", params=["nnaudio", "fft"])
def front_end(request) -> LogMel:
    return LogMel(SPEC.model_copy(update={"engine": request.param}), RATE)


@pytest.mark.parametrize("at_once", [1, 3, 64])
def test_windows_at_once_change_speed_only(front_end, at_once):
    waves = torch.randn(5, RATE, generator=torch.Generator().manual_seed(0)) / 4
    parts = LogMel(front_end.spec, RATE, at_once)
    seen = []
    pictures, draw = front_end(waves), parts._pictures
    parts._pictures = lambda part: seen.append(len(part)) or draw(part)
    torch.testing.assert_close(parts(waves), pictures, atol=1e-6, rtol=1e-6)
    assert seen == {1: [1] * 5, 3: [3, 2], 64: [5]}[at_once]


def reference_decibels(wave: np.ndarray, spec=SPEC, rate: int = RATE) -> np.ndarray:
    return reference.decibels(wave, rate, spec)


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


@pytest.mark.parametrize("trainable", ["mel", "fourier"])
def test_silence_is_darkest_where_the_front_end_learns_too(trainable):
    music = torch.from_numpy(signals()["music"])
    waves = torch.stack([music * 0, music])
    plain, learning = (
        LogMel(SPEC.model_copy(update={"engine": "nnaudio", "trainable": own}), RATE) for own in ("none", trainable)
    )
    pictures = learning(waves)
    assert pictures[0].max() == 0
    assert torch.allclose(pictures[1], plain(waves)[1], atol=1e-4)


def test_a_picture_does_not_depend_on_its_batch(front_end):
    music, noise = torch.from_numpy(signals()["music"]), torch.from_numpy(signals()["noise"])
    alone, together = front_end(music[None] * 0.01), front_end(torch.stack([noise, music * 0.01, noise * 0]))
    assert torch.allclose(alone[0], together[1], atol=1e-5)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_broken_window_is_not_a_number_and_its_neighbours_are_whole(front_end, bad):
    music = torch.from_numpy(signals()["music"])
    broken = music.clone()
    broken[100_000] = bad
    pictures = front_end(torch.stack([music, broken, music]))
    assert pictures[1].isnan().all()
    assert torch.allclose(pictures[0], front_end(music[None])[0], atol=1e-5)
    assert torch.equal(pictures[0], pictures[2])


def test_autocast_does_not_touch_it(front_end):
    music = torch.from_numpy(signals()["music"])[None]
    with torch.autocast("cpu", torch.bfloat16):
        inside = front_end(music)
    assert torch.equal(inside, front_end(music))
    assert torch.backends.cudnn.conv.fp32_precision != "ieee"  # the switch is put back


def test_the_demo_recipe_agrees_too():
    demo = load_recipe(["demo"])
    wave = signals()["music"][: windows.to_samples(demo.windows.window_s, demo.audio.sample_rate)]
    expected = reference_decibels(wave, demo.mel, demo.audio.sample_rate)
    front_end = LogMel(demo.mel, demo.audio.sample_rate)
    with torch.no_grad():
        assert np.abs(front_end.decibels(torch.from_numpy(wave)[None])[0].numpy() - expected).max() < 0.05
    assert front_end(torch.from_numpy(wave)[None]).shape == (1, 3, 80, 80)


def options(**changes) -> LogMel:
    return LogMel(SPEC.model_copy(update=changes), RATE)


def test_viridis_is_matplotlibs_within_one_step(front_end):
    matplotlib = pytest.importorskip("matplotlib")
    wave = torch.from_numpy(signals()["music"])[None]
    grey = options(range="window")(wave)[0, 0].numpy()
    expected = matplotlib.colormaps["viridis"](grey)[..., :3]
    got = options(range="window", channels="viridis")(wave)[0].permute(1, 2, 0).numpy()
    assert np.abs(got - expected).max() <= 1 / 255
    assert grey.min() < 0.05
    assert grey.max() > 0.95


def test_the_three_channels_of_mfcc_are_librosas():
    wave = torch.from_numpy(signals()["music"])[None]
    front_end = options(channels="mfcc", image_size=512)
    pictures = front_end(wave)
    assert torch.equal(pictures[:, :1], options()(wave)[:, :1])
    decibels = front_end.exact_decibels(wave)
    mfcc = librosa.feature.mfcc(S=decibels[0].numpy(), n_mfcc=41, lifter=82)[1:]
    stretched = (mfcc - mfcc.min()) / (mfcc.max() - mfcc.min())
    expected = torch.nn.functional.interpolate(
        torch.tensor(stretched[::-1].copy())[None, None], (512, 512), mode="bilinear", antialias=True
    )
    assert torch.allclose(pictures[:, 1:2], expected, atol=1e-3)
    slope = librosa.feature.delta(decibels[0].numpy(), width=9, mode="nearest")
    expected = torch.tensor((slope / 20 + 0.5).clip(0, 1)[::-1].copy())[None, None]
    expected = torch.nn.functional.interpolate(expected, (512, 512), mode="bilinear", antialias=True)
    assert torch.allclose(pictures[:, 2:], expected, atol=1e-4)


@pytest.mark.parametrize("engine", ["nnaudio", "fft"])
def test_three_resolutions_agree_with_librosas_shorter_windows(engine):
    wave = signals()["music"]
    front_end = options(channels="resolutions", engine=engine)
    for which, win_length in enumerate((2048, 1024, 512)):
        power = librosa.feature.melspectrogram(
            y=wave, sr=RATE, n_fft=2048, win_length=win_length, hop_length=512, n_mels=512
        )
        expected = librosa.power_to_db(power, ref=np.max, top_db=80)
        with torch.no_grad():
            got = front_end.decibels(torch.from_numpy(wave)[None], which)[0].numpy()
        assert np.abs(got - expected)[expected > -80].max() <= 0.05
    pictures = front_end(torch.from_numpy(wave)[None])
    assert pictures.shape == (1, 3, 512, 512)
    assert torch.equal(pictures[:, 0], options(engine=engine)(torch.from_numpy(wave)[None])[:, 0])


def test_empty_mel_bands_are_refused():
    with pytest.raises(InputError, match="mel bands contain no bin"):
        options(n_fft=512)
    with pytest.raises(InputError, match="mel bands contain no bin"):
        options(n_mels=1024)


@pytest.mark.parametrize(
    "changes",
    [
        {"n_mels": 80, "image_size": 96},
        {"n_fft": 4096, "hop_length": 441},
        {"fmin": 50.0, "fmax": 8000.0, "n_mels": 256},
    ],
)
def test_other_geometries_are_exact_too(changes):
    wave, front_end = signals()["music"], options(**changes)
    expected = reference_decibels(wave, front_end.spec)
    got = front_end.exact_decibels(torch.from_numpy(wave)[None])[0].numpy()
    assert np.abs(got - expected)[expected > -80].max() <= 0.05
    assert front_end(torch.from_numpy(wave)[None]).shape[-1] == front_end.spec.image_size


@pytest.mark.gpu
@pytest.mark.parametrize("engine", ["nnaudio", "fft", "fused"])
def test_pictures_on_the_gpu_are_the_cpus(engine):
    waves = torch.from_numpy(np.stack(list(signals().values())))
    expected = options(engine="fft")(waves)
    got = options(engine=engine).cuda()(waves.cuda()).cpu()
    assert (got - expected).abs().max() <= 0.05 / 80


@pytest.mark.gpu
def test_nothing_waits_for_the_gpu():
    waves = torch.from_numpy(signals()["music"])[None].cuda()
    for engine in ("nnaudio", "fft", "fused"):
        front_end = options(engine=engine).cuda()
        front_end(waves)
        torch.cuda.set_sync_debug_mode("error")
        try:
            front_end(waves)
        finally:
            torch.cuda.set_sync_debug_mode("default")
