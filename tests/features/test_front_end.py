import inspect
import textwrap

import numpy as np
import pytest
import torch

import melgpu
from melgpu.errors import InputError
from melgpu.features import log_mel
from melgpu.recipe import load_recipe

RATE = 22_050
WAVES = torch.rand(3, 2 * RATE, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture(scope="module")
def features() -> melgpu.LogMel:
    return melgpu.LogMel()


@pytest.mark.parametrize("engine", ["auto", "nnaudio", "fft"])
@pytest.mark.parametrize("channels", ["grey", "viridis", "mfcc", "resolutions"])
def test_pictures_are_those_of_the_recipe(engine, channels):
    spec = load_recipe([]).mel.model_copy(update={"engine": engine, "channels": channels, "image_size": 96})
    expected = log_mel.LogMel(spec, RATE)(WAVES)
    actual = melgpu.LogMel(engine=engine, channels=channels, image_size=96)(WAVES)
    assert torch.equal(actual, expected)
    window = melgpu.LogMel(engine=engine, channels=channels, image_size=96, range="window")
    assert window.spec == spec.model_copy(update={"range": "window"})


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"sample_rate": 16_000, "n_fft": 1024, "hop_length": 160, "n_mels": 80, "fmin": 50.0, "fmax": 7600.0},
        {"top_db": 60, "n_mels": 128},
    ],
)
def test_pictures_are_those_of_librosa(arguments):
    librosa = pytest.importorskip("librosa")  # a GPU box may lack it
    settings = {"sample_rate": RATE, "n_fft": 2048, "hop_length": 512, "n_mels": 512, "fmin": 0.0, "fmax": None}
    settings |= arguments
    top_db = settings.pop("top_db", 80)
    power = librosa.feature.melspectrogram(y=WAVES[0].numpy(), sr=settings.pop("sample_rate"), **settings)
    decibels = librosa.power_to_db(power, ref=np.max, top_db=top_db)
    levels = torch.tensor((decibels / top_db + 1)[::-1].copy())[None, None]
    expected = torch.nn.functional.interpolate(levels, (200, 200), mode="bilinear", antialias=True)
    pictures = melgpu.LogMel(image_size=200, **arguments)(WAVES[:1])
    assert pictures.shape == (1, 3, 200, 200)
    assert (pictures - expected).abs().max() < 0.002


def test_one_wave_is_a_batch_of_one(features):
    assert torch.equal(features(WAVES[1]), features(WAVES[1:2]))
    assert features(WAVES[1]).shape == (1, 3, 512, 512)


def test_dtypes_are_scaled_alike(features):
    samples = (WAVES * 20_000).to(torch.int16)
    expected = features(samples.float() / 32_768)
    assert torch.equal(features(samples), expected)
    assert torch.equal(features(samples.double() / 32_768), expected)
    assert features(samples.double()).dtype == torch.float32


@pytest.mark.parametrize(
    ("waves", "reason"),
    [
        (torch.zeros(()), r"shape \(\)"),
        (torch.zeros(0), r"shape \(0,\)"),
        (torch.zeros(0, 9), r"shape \(0, 9\)"),
        (torch.zeros(2, 0), r"shape \(2, 0\)"),
        (torch.zeros(2, 1, 9), r"shape \(2, 1, 9\); expected \(B, T\) or \(T,\)"),
        (torch.zeros(9, dtype=torch.int32), "int32; expected float32"),
        (torch.zeros(9, dtype=torch.uint8), "uint8"),
        (torch.zeros(9, dtype=torch.bfloat16), "bfloat16"),
        (torch.zeros(9, dtype=torch.complex64), "complex64"),
    ],
)
def test_wrong_waves_are_value_errors(features, waves, reason):
    with pytest.raises(ValueError, match=reason):
        features(waves)


@pytest.mark.parametrize("engine", ["nnaudio", "fft"])
@pytest.mark.parametrize("channels", ["grey", "viridis", "mfcc", "resolutions"])
def test_waves_may_be_short(engine, channels):
    features = melgpu.LogMel(engine=engine, channels=channels, image_size=96)
    for num_samples in (1, 2, 511, 513, 2047):
        pictures = features(WAVES[:, :num_samples])
        assert pictures.shape == (3, 3, 96, 96)
        assert pictures.isfinite().all()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"n_mels": 0}, "mel.n_mels"),
        ({"fmax": 20_000.0}, "exceeds the Nyquist frequency"),
        ({"fmin": 900.0, "fmax": 800.0}, "not above"),
        ({"engine": "fftw"}, "mel.engine"),
        ({"engine": "fused", "channels": "mfcc"}, "grey pictures"),
        ({"sample_rate": 10}, "audio.sample_rate"),
        ({"n_fft": 256}, "mel bands contain no bin"),
        ({"n_fft": 2048.5}, "mel.n_fft"),
    ],
)
def test_wrong_arguments_are_refused(arguments, reason):
    with pytest.raises(InputError, match=reason):
        melgpu.LogMel(**arguments)


def test_nothing_is_saved_with_a_model(features):
    assert features.state_dict() == {}
    assert list(features.parameters()) == []
    model = torch.nn.Sequential(features, torch.nn.Flatten())
    model.load_state_dict(model.state_dict())


def test_the_training_loop_of_the_docstring_runs(capsys):
    lines = inspect.getdoc(melgpu.LogMel).splitlines()
    code = textwrap.dedent("\n".join(line for line in lines if line.startswith("    ")))
    assert code.count("\n") < 20
    smaller = {
        'create_model("resnet50", pretrained=True': 'create_model("resnet10t", pretrained=False',
        "sample_rate=22050": "sample_rate=22050, image_size=75",
        "64, 20 * 22050": "4, 22050",
        "(64,)": "(4,)",
        "batch_size=16": "batch_size=2",
        "range(3)": "range(1)",
    }
    for text, replacement in smaller.items():
        assert text in code
        code = code.replace(text, replacement)
    exec(code, {})
    assert capsys.readouterr().out.startswith("epoch 0: loss ")
