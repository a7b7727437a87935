"""The Python API: predictions beside those of predict.py, waveforms, embeddings, errors, and what stays as it is."""

import csv
import dataclasses
import inspect
import os
import shutil
import threading

import numpy as np
import pytest
import soundfile
import torch

import melgpu
from melgpu.audio import decode
from melgpu.errors import InputError
from melgpu.features.log_mel import LogMel
from melgpu.prediction import api
from melgpu.prediction.embedding import Embedding
from melgpu.runs.folder import open_run
from tests.helpers import run_script, write_audio

RATE = 11_025  # of the demo recipe


@pytest.fixture(scope="module")
def model(trained_run) -> api.Model:
    return melgpu.load(trained_run, device="cpu")


@pytest.fixture(scope="module")
def album(tmp_path_factory):
    """A folder of files as they come: short, long, cut in the middle, unreadable, and one of 1 s."""
    folder = tmp_path_factory.mktemp("album")
    for seed, (duration_s, name) in enumerate(((4, "2.ogg"), (31, "10.wav"), (1, "1.mp3"))):
        write_audio(folder / name, duration_s, 44_100, 2, seed)
    whole = write_audio(folder / "cut.flac", 30, seed=9).read_bytes()
    (folder / "cut.flac").write_bytes(whole[: len(whole) // 2])
    (folder / "text.ogg").write_text("no music")
    return folder


def test_predictions_are_those_of_the_script(model, trained_run, corpus, album, tmp_path):
    music = [corpus / "audio" / "private0.mp3", album, corpus / "audio" / "train1.ogg"]
    out = tmp_path / "o.csv"
    process = run_script("predict.py", "--run", trained_run, "--device", "cpu", *music, "--out", out)
    assert process.returncode == 2, process.stderr  # files with errors
    with open(out, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    predictions = list(model.predict(music))
    assert [prediction.path for prediction in predictions] == [row["path"] for row in rows]
    assert [os.path.basename(row["path"]) for row in rows[1:4]] == ["1.mp3", "2.ogg", "10.wav"]
    for prediction, row in zip(predictions, rows, strict=True):
        assert (prediction.label or "", prediction.error or "") == (row["label"], row["error"])
        if prediction.label:
            expected = [float(row[f"p:{name}"]) for name in model.class_names]
            np.testing.assert_allclose(list(prediction.probabilities.values()), expected, atol=2e-6)
            assert prediction.confidence == max(prediction.probabilities.values())
            assert prediction.probabilities[prediction.label] == prediction.confidence
    by_name = {os.path.basename(prediction.path): prediction for prediction in predictions}
    confidences = [prediction.confidence for prediction in predictions if prediction.label]
    assert np.ptp(confidences) > 0.01  # else equal probabilities would prove little
    assert by_name["cut.flac"].label
    assert "it contains 14.9 s" in by_name["cut.flac"].error
    assert (by_name["text.ogg"].label, by_name["text.ogg"].confidence) == (None, None)
    assert by_name["text.ogg"].probabilities == {}


def test_files_are_answered_in_order_in_chunks_of_any_size(model, album, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    not_utf8 = os.fsdecode(bytes(tmp_path) + b"/caf\xe9.wav")
    shutil.copy(album / "2.ogg", tmp_path / "song.ogg")
    music = [tmp_path / "empty", "", album / "2.ogg", not_utf8, str(tmp_path / "absent.mp3"), tmp_path, album / "2.ogg"]
    expected = list(model.predict(path for path in music))
    assert [prediction.path for prediction in expected] == [*map(str, music[:5]), f"{tmp_path}/song.ogg", str(music[6])]
    reasons = ["no audio files", "not a regular file", None, "the file's name is not UTF-8", "No such file", None, None]
    for prediction, reason in zip(expected, reasons, strict=True):
        assert prediction.error is None if reason is None else reason in prediction.error
        assert (prediction.label is None) == (reason is not None)
    assert expected[2].probabilities == pytest.approx(expected[6].probabilities, abs=1e-6)
    for size in (1, 2, 4):
        monkeypatch.setattr(api, "CHUNK_FILES", size)
        for actual, prediction in zip(model.predict(music), expected, strict=True):
            assert (actual.path, actual.error, actual.label) == (prediction.path, prediction.error, prediction.label)
            assert actual.probabilities == pytest.approx(prediction.probabilities, abs=1e-6)


def test_one_path_is_a_list_of_one(model, album):
    for path in (album / "2.ogg", str(album / "2.ogg")):
        assert [prediction.path for prediction in model.predict(path)] == [f"{album}/2.ogg"]
    assert list(model.predict([])) == []


def test_predictions_that_are_not_exhausted_leave_no_threads(model, album):
    threads = threading.active_count()
    predictions = model.predict([album / "2.ogg"] * 100)
    assert next(predictions).label
    predictions.close()
    assert threading.active_count() == threads


def test_a_prediction_needs_less_than_all_files(model, album):
    def paths():
        yield from [album / "2.ogg"] * api.CHUNK_FILES
        raise AssertionError("read too far ahead")

    predictions = model.predict(paths())
    assert next(predictions).label
    predictions.close()


@pytest.mark.parametrize(
    ("rate", "channels", "subtype", "seconds"),
    [(RATE, 1, "FLOAT", 25), (RATE, 2, "PCM_16", 7), (44_100, 2, "FLOAT", 20), (8_000, 1, "PCM_16", 0.5)],
)
def test_a_waveform_is_predicted_like_a_file(model, tmp_path, rate, channels, subtype, seconds):
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (round(seconds * rate), channels))
    soundfile.write(tmp_path / "a.wav", noise * np.linspace(0, 1, len(noise))[:, None], rate, subtype)
    (expected,) = model.predict([tmp_path / "a.wav"])
    waves = [soundfile.read(tmp_path / "a.wav", dtype="float64")[0], soundfile.read(tmp_path / "a.wav")[0]]
    if subtype == "PCM_16":
        waves.append(soundfile.read(tmp_path / "a.wav", dtype="int16")[0])
    for wave in waves:
        for samples in (wave.T, torch.from_numpy(wave.T.copy())):
            prediction = model.predict_waveform(samples, rate)
            assert prediction.probabilities == pytest.approx(expected.probabilities, abs=1e-6)
            assert prediction.confidence == pytest.approx(expected.confidence, abs=1e-6)
            assert (prediction.path, prediction.label, prediction.error) == ("", expected.label, None)


@pytest.mark.parametrize(
    ("wave", "rate", "reason"),
    [
        (np.zeros(0), RATE, "no samples"),
        (np.zeros((0, 9)), RATE, "no samples"),
        (np.zeros(()), RATE, r"shape \(\); expected \(T,\) or \(channels, T\)"),
        (np.zeros((1, 2, 9)), RATE, r"shape \(1, 2, 9\)"),
        (np.zeros((9, 2)), RATE, "transpose it"),
        (np.zeros(9, np.uint8), RATE, "dtype uint8"),
        (torch.zeros(9, dtype=torch.int32), RATE, "dtype int32"),
        (np.zeros(9, complex), RATE, "dtype complex128"),
        (np.array([0, np.nan, 0]), RATE, "not finite"),
        (np.array([0, -np.inf]), RATE, "not finite"),
        (np.full(9, 2e4), RATE, "absurdly large"),
        (np.zeros(9), 44, "sample_rate 44"),
        (np.zeros(9), float("nan"), "sample_rate nan"),
        (np.zeros(9_999), 20_000, "wave of 0.500 s; expected at least 0.5 s"),
    ],
)
def test_wrong_waveforms_are_value_errors(model, wave, rate, reason):
    with pytest.raises(ValueError, match=reason):
        model.predict_waveform(wave, rate)


def test_silence_is_predicted(model):
    assert model.predict_waveform(np.zeros(RATE, np.float32), RATE).label in model.class_names


def test_embeddings_are_the_mean_of_the_pooled_features(model, album):
    embeddings = list(model.embed([album]))
    names = [os.path.basename(embedding.path) for embedding in embeddings]
    assert names == ["1.mp3", "2.ogg", "10.wav", "cut.flac", "text.ogg"]
    by_name = {os.path.basename(embedding.path): embedding for embedding in embeddings}
    assert by_name["text.ogg"].vector is None
    assert "not readable" in by_name["text.ogg"].error
    assert "it contains 14.9 s" in by_name["cut.flac"].error
    assert by_name["cut.flac"].vector is not None
    recipe, networks = model._recipe, model._ensemble.networks
    wave = decode.conform(decode.decode(album / "10.wav", RATE, recipe.audio.track_s), 18 * RATE)
    windows = torch.from_numpy(np.stack([wave[start * RATE : (start + 6) * RATE] for start in (0, 6, 12)]))
    expected = []
    with torch.no_grad():
        pictures = LogMel(recipe.mel, RATE)(windows)
        for network in networks:
            pooled = []
            network.model.head.register_forward_pre_hook(lambda head, inputs, pooled=pooled: pooled.append(inputs[0]))
            network.model.eval()(pictures)
            network.model.head._forward_pre_hooks.clear()
            expected.append(pooled[0].mean(0))
    vector = by_name["10.wav"].vector
    assert vector.dtype == np.float32
    assert vector.shape == (sum(len(part) for part in expected),)
    np.testing.assert_allclose(vector, torch.cat(expected), atol=1e-4, rtol=1e-4)


def test_the_description_says_what_is_trained_and_stacked(model, trained_run, tmp_path):
    assert model.description == "2 networks, stacked"
    assert model.class_names == ["aria", "breakbeat", "waltz"]
    folder = tmp_path / "run"
    shutil.copytree(trained_run, folder)
    run = open_run(folder)
    run.paths.scores(1).unlink()
    assert melgpu.load(folder, "cpu").description == "2 networks, not stacked"
    run.paths.job_scores(run.jobs(1)[1]).unlink()
    partly = melgpu.load(folder, "cpu")
    assert partly.description == "1 of 2 networks, not stacked"
    assert partly.predict_waveform(np.zeros(RATE), RATE).label in model.class_names


def test_a_run_that_cannot_be_loaded_is_an_input_error(trained_run, tmp_path):
    with pytest.raises(InputError, match="no run there"):
        melgpu.load(tmp_path / "absent")
    with pytest.raises(InputError, match="quantum"):
        melgpu.load(str(trained_run), device="quantum")


PUBLIC_SIGNATURES = {
    "load": "(run: str | pathlib.Path, device: str = 'auto') -> 'Model'",
    "Model.predict": "(self, paths: str | pathlib.Path | collections.abc.Iterable[str | pathlib.Path])"
    " -> collections.abc.Iterator[melgpu.prediction.api.Prediction]",
    "Model.predict_waveform": "(self, wave: numpy.ndarray | torch.Tensor, sample_rate: int)"
    " -> melgpu.prediction.api.Prediction",
    "Model.embed": "(self, paths: str | pathlib.Path | collections.abc.Iterable[str | pathlib.Path])"
    " -> collections.abc.Iterator[melgpu.prediction.embedding.Embedding]",
    "LogMel": "(*, sample_rate: int = 22050, n_fft: int = 2048, hop_length: int = 512, n_mels: int = 512,"
    " fmin: float = 0.0, fmax: float | None = None, top_db: float = 80.0, image_size: int = 512,"
    " engine: Literal['auto', 'nnaudio', 'fft', 'fused'] = 'auto',"
    " channels: Literal['grey', 'viridis', 'mfcc', 'resolutions'] = 'grey',"
    " range: Literal['fixed', 'window'] = 'fixed')",
    "LogMel.forward": "(self, waves: torch.Tensor) -> torch.Tensor",
}


def test_the_public_api_stays_as_it_is(model):
    """A change here breaks the programs of users: it needs a line in CHANGELOG.md and a new major version."""
    assert melgpu.__all__ == ["LogMel", "__version__", "load"]
    functions = {
        "load": melgpu.load,
        "Model.predict": api.Model.predict,
        "Model.predict_waveform": api.Model.predict_waveform,
        "Model.embed": api.Model.embed,
        "LogMel": melgpu.LogMel,
        "LogMel.forward": melgpu.LogMel.forward,
    }
    for name, function in functions.items():
        signature = str(inspect.signature(function)).replace("pathlib._local.", "pathlib.").replace("typing.", "")
        assert signature == PUBLIC_SIGNATURES[name], name
    attributes = {name for name in dir(model) if not name.startswith("_")}
    assert attributes == {"class_names", "description", "embed", "predict", "predict_waveform"}
    fields = [(field.name, str(field.type)) for field in dataclasses.fields(api.Prediction)]
    assert fields == [
        ("path", "<class 'str'>"),
        ("label", "str | None"),
        ("confidence", "float | None"),
        ("probabilities", "dict[str, float]"),
        ("error", "str | None"),
    ]
    fields = [(field.name, str(field.type)) for field in dataclasses.fields(Embedding)]
    assert fields == [("path", "<class 'str'>"), ("vector", "numpy.ndarray | None"), ("error", "str | None")]
    for frozen in (api.Prediction("", None, None, {}, None), Embedding("", None, None)):
        with pytest.raises(dataclasses.FrozenInstanceError):
            frozen.path = "x"


def test_names_are_imported_on_first_use():
    code = (
        "import sys, melgpu; assert 'torch' not in sys.modules; assert {*melgpu.__all__} < {*dir(melgpu)}\n"
        "assert melgpu.__version__.split('.')[0].isdecimal(); assert 'torch' not in sys.modules\n"
        "assert not hasattr(melgpu, 'lod'); from melgpu import LogMel; assert 'torch' in sys.modules"
    )
    process = run_script("-c", code)
    assert process.returncode == 0, process.stderr
