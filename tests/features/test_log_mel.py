import copy
import pickle

import librosa
import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.references import reference
from melgpu.audio.decode import decode
from melgpu.data import windows
from melgpu.errors import InputError
from melgpu.features.log_mel import LogMel, gpu_chunk_size
from melgpu.recipe import load_recipe
from tests.helpers import write_audio
from tests.helpers.signals import RATE, signals

SPEC = load_recipe([]).mel


@pytest.fixture(scope="module", params=["nnaudio", "fft"])
def front_end(request) -> LogMel:
    return LogMel(SPEC.model_copy(update={"engine": request.param}), RATE)


@pytest.mark.parametrize("chunk_size", [1, 3, 64])
def test_the_chunk_size_changes_speed_only(front_end, chunk_size):
    waves = torch.randn(5, RATE, generator=torch.Generator().manual_seed(0)) / 4
    chunked = LogMel(front_end.spec, RATE, chunk_size)
    chunk_sizes = []
    expected, chunk_pictures = front_end(waves), chunked._pictures
    chunked._pictures = lambda chunk: chunk_sizes.append(len(chunk)) or chunk_pictures(chunk)
    torch.testing.assert_close(chunked(waves), expected, atol=1e-6, rtol=1e-6)
    assert chunk_sizes == {1: [1] * 5, 3: [3, 2], 64: [5]}[chunk_size]


def test_chunks_on_a_gpu_take_a_small_part_of_its_memory():
    assert gpu_chunk_size(SPEC, 20 * RATE, 80 * 2**30) == 190
    assert gpu_chunk_size(SPEC, 20 * RATE, 8 * 2**30) == 19
    assert gpu_chunk_size(SPEC, 3600 * RATE, 2**30) == 1
    assert gpu_chunk_size(SPEC, 1, 80 * 2**30) == 65_535


def reference_decibels(wave: np.ndarray, spec=SPEC, rate: int = RATE) -> np.ndarray:
    return reference.decibels(wave, rate, spec)


@pytest.mark.parametrize("name", signals())
def test_parity_with_a_float64_reference(front_end, name):
    wave = signals()[name]
    expected = reference_decibels(wave)
    with torch.no_grad():
        error = np.abs(front_end.decibels(torch.from_numpy(wave)[None])[0].numpy() - expected)
    above_floor = expected > -SPEC.top_db
    assert error[above_floor].max() <= 0.05
    assert error[above_floor].mean() <= 0.001


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


def test_low_frequencies_are_at_the_bottom_and_time_to_the_right(front_end):
    t = torch.arange(20 * RATE) / RATE
    low, high = torch.sin(2 * torch.pi * 200 * t), torch.sin(2 * torch.pi * 8000 * t)
    picture = front_end(torch.where(t < 10, low, high)[None])[0, 0]
    assert picture[256:, :200].mean() > picture[:256, :200].mean()
    assert picture[:256, 312:].mean() > picture[256:, 312:].mean()


def test_silence_is_0_and_pictures_do_not_depend_on_the_level(front_end):
    music = torch.from_numpy(signals()["music"])
    pictures = front_end(torch.stack([music * 0, music, music * 0.1]))
    assert pictures[0].max() == 0
    assert torch.allclose(pictures[1], pictures[2], atol=1e-4)


def test_a_picture_does_not_depend_on_its_batch(front_end):
    music, noise = torch.from_numpy(signals()["music"]), torch.from_numpy(signals()["noise"])
    alone, together = front_end(music[None] * 0.01), front_end(torch.stack([noise, music * 0.01, noise * 0]))
    assert torch.allclose(alone[0], together[1], atol=1e-5)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_nonfinite_window_gives_nan_and_leaves_the_others_unchanged(front_end, bad):
    music = torch.from_numpy(signals()["music"])
    nonfinite = music.clone()
    nonfinite[100_000] = bad
    pictures = front_end(torch.stack([music, nonfinite, music]))
    assert pictures[1].isnan().all()
    assert torch.allclose(pictures[0], front_end(music[None])[0], atol=1e-5)
    assert torch.equal(pictures[0], pictures[2])


def test_autocast_has_no_effect(front_end):
    music = torch.from_numpy(signals()["music"])[None]
    with torch.autocast("cpu", torch.bfloat16):
        under_autocast = front_end(music)
    assert torch.equal(under_autocast, front_end(music))


@pytest.mark.parametrize("channels", ["grey", "resolutions"])
def test_one_sparse_product_of_all_windows_is_that_of_each(channels):
    waves = torch.from_numpy(np.stack([signals()["music"], signals()["noise"], signals()["clicks"]]))
    front_end = make_front_end(channels=channels, engine="fft")
    for resolution in range(len(front_end.mels)):
        batched = front_end._power_of_batch(waves, resolution)  # the path of a GPU
        torch.testing.assert_close(batched, front_end.power(waves, resolution), rtol=0, atol=0)


def test_parity_of_the_demo_recipe():
    demo = load_recipe(["demo"])
    wave = signals()["music"][: windows.to_samples(demo.windows.window_s, demo.audio.sample_rate)]
    expected = reference_decibels(wave, demo.mel, demo.audio.sample_rate)
    front_end = LogMel(demo.mel, demo.audio.sample_rate)
    with torch.no_grad():
        assert np.abs(front_end.decibels(torch.from_numpy(wave)[None])[0].numpy() - expected).max() < 0.05
    assert front_end(torch.from_numpy(wave)[None]).shape == (1, 3, 80, 80)


def make_front_end(**changes) -> LogMel:
    return LogMel(SPEC.model_copy(update=changes), RATE)


def test_viridis_is_that_of_matplotlib_within_one_level(front_end):
    matplotlib = pytest.importorskip("matplotlib")
    wave = torch.from_numpy(signals()["music"])[None]
    grey = make_front_end(range="window")(wave)[0, 0].numpy()
    expected = matplotlib.colormaps["viridis"](grey)[..., :3]
    actual = make_front_end(range="window", channels="viridis")(wave)[0].permute(1, 2, 0).numpy()
    assert np.abs(actual - expected).max() <= 1 / 255
    assert grey.min() < 0.05
    assert grey.max() > 0.95


def drawn(decibels: np.ndarray, method: str) -> np.ndarray:
    """Matplotlib's figure of 512 x 512 pixels, shape (512, 512, 3), in levels of 0 to 255."""
    figure = Figure(figsize=(5.12, 5.12), dpi=100)
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.axis("off")
    if method == "imshow":
        axes.imshow(decibels, cmap="viridis", origin="lower", aspect="auto")
    else:  # librosa.display.specshow's
        axes.pcolormesh(decibels, cmap="viridis")
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].astype(int)


def levels_off(wave: np.ndarray, method: str) -> np.ndarray:
    """By how many of 255 levels each value of a picture in viridis differs from matplotlib's figure of its decibels."""
    front_end = make_front_end(range="window", channels="viridis", image_size=512)
    waves = torch.from_numpy(wave)[None]
    picture = front_end(waves)[0].permute(1, 2, 0).numpy()
    decibels = front_end.exact_decibels(waves)[0].numpy()
    return np.abs(np.round(picture * 255).astype(int) - drawn(decibels, method))


@pytest.mark.parametrize("method", ["imshow", "pcolormesh"])
def test_colours_are_those_of_matplotlibs_figure_where_nothing_is_resampled(method):
    wave = signals()["music"][: 511 * SPEC.hop_length]  # 512 frames of 512 bands
    assert levels_off(wave, method).max() <= 1  # imshow cuts off where we round


@pytest.mark.parametrize(("method", "least", "most"), [("imshow", 0.05, 0.25), ("pcolormesh", 0.35, 0.6)])
def test_matplotlibs_figure_of_more_frames_differs_by_its_resampling(method, least, most):
    """What docs/differences.md says of real music: never the original's very pictures."""
    differences = levels_off(signals()["music"], method)
    assert least < (differences > 1).mean() < most
    assert 30 < differences.max() < 120
    assert differences.mean() < 4


def test_mfcc_and_deltas_are_those_of_librosa():
    wave = torch.from_numpy(signals()["music"])[None]
    front_end = make_front_end(channels="mfcc", image_size=512)
    pictures = front_end(wave)
    assert torch.equal(pictures[:, :1], make_front_end()(wave)[:, :1])
    decibels = front_end.exact_decibels(wave)
    mfcc = librosa.feature.mfcc(S=decibels[0].numpy(), n_mfcc=41, lifter=82)[1:]
    scaled = (mfcc - mfcc.min()) / (mfcc.max() - mfcc.min())
    expected = torch.nn.functional.interpolate(
        torch.tensor(scaled[::-1].copy())[None, None], (512, 512), mode="bilinear", antialias=True
    )
    assert torch.allclose(pictures[:, 1:2], expected, atol=1e-3)
    deltas = librosa.feature.delta(decibels[0].numpy(), width=9, mode="nearest")
    expected = torch.tensor((deltas / 20 + 0.5).clip(0, 1)[::-1].copy())[None, None]
    expected = torch.nn.functional.interpolate(expected, (512, 512), mode="bilinear", antialias=True)
    assert torch.allclose(pictures[:, 2:], expected, atol=1e-4)


@pytest.mark.parametrize("engine", ["nnaudio", "fft"])
def test_three_resolutions_are_those_of_librosa_with_shorter_windows(engine):
    wave = signals()["music"]
    front_end = make_front_end(channels="resolutions", engine=engine)
    for resolution, win_length in enumerate((2048, 1024, 512)):
        power = librosa.feature.melspectrogram(
            y=wave, sr=RATE, n_fft=2048, win_length=win_length, hop_length=512, n_mels=512
        )
        expected = librosa.power_to_db(power, ref=np.max, top_db=80)
        with torch.no_grad():
            actual = front_end.decibels(torch.from_numpy(wave)[None], resolution)[0].numpy()
        assert np.abs(actual - expected)[expected > -80].max() <= 0.05
    pictures = front_end(torch.from_numpy(wave)[None])
    assert pictures.shape == (1, 3, 512, 512)
    assert torch.equal(pictures[:, 0], make_front_end(engine=engine)(torch.from_numpy(wave)[None])[:, 0])


def test_empty_mel_bands_are_rejected():
    with pytest.raises(InputError, match="mel bands contain no bin"):
        make_front_end(n_fft=512)
    with pytest.raises(InputError, match="mel bands contain no bin"):
        make_front_end(n_mels=1024)


@pytest.mark.parametrize(
    "changes",
    [
        {"n_mels": 80, "image_size": 96},
        {"n_fft": 4096, "hop_length": 441},
        {"fmin": 50.0, "fmax": 8000.0, "n_mels": 256},
    ],
)
def test_parity_of_other_geometries(changes):
    wave, front_end = signals()["music"], make_front_end(**changes)
    expected = reference_decibels(wave, front_end.spec)
    actual = front_end.exact_decibels(torch.from_numpy(wave)[None])[0].numpy()
    assert np.abs(actual - expected)[expected > -80].max() <= 0.05
    assert front_end(torch.from_numpy(wave)[None]).shape[-1] == front_end.spec.image_size


@pytest.mark.parametrize(
    "changes", [{"channels": "viridis"}, {"range": "window"}, {"engine": "fftw"}, {"top_db": -1.0}]
)
def test_a_spec_that_was_changed_without_validation_is_refused(changes):
    values = {"engine": "fused", **changes}
    with pytest.raises(InputError):
        LogMel(SPEC.model_copy(update=values), RATE)
    with pytest.raises(InputError):
        SPEC.changed(**values)


@pytest.mark.parametrize("engine", ["auto", "nnaudio", "fused"])
def test_a_copy_gives_the_same_pictures(engine):
    wave = torch.from_numpy(signals()["music"])[None, : 2 * RATE]
    front_end = make_front_end(engine=engine, n_fft=512, n_mels=75, image_size=75)
    pictures = front_end(wave)
    assert torch.equal(copy.deepcopy(front_end)(wave), pictures)
    assert torch.equal(pickle.loads(pickle.dumps(front_end))(wave), pictures)
