import functools
import itertools
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from melgpu import console
from melgpu.data import windows
from melgpu.data.loader import WindowLoader
from melgpu.models.classifier import LoadedNetwork
from melgpu.prediction.predictor import WindowPredictor, _file_signature, parity, predict_windows
from melgpu.prediction.resume_log import BatchPredictions, ResumeLog
from melgpu.recipe import load_recipe
from tests.helpers import write_audio
from tests.helpers.training import PARITY, Corner

CPU = torch.device("cpu")
RECIPE = load_recipe(["demo"], ["loader.workers=0", "loader.pcm_cache=off", "loader.predict_batch_size=4"])
QUARANTINE_RECIPE = RECIPE.model_copy(
    update={"loader": RECIPE.loader.model_copy(update={"on_error": "quarantine", "max_error_fraction": 1.0})}
)


class Network(Corner):
    def set_memory_format(self, channels_last):
        return self


@pytest.fixture
def networks(monkeypatch):
    """Two networks that count their calls; their checkpoints match any front end."""
    monkeypatch.setattr(parity, "check_same_pictures", lambda *args: None)
    metadata = SimpleNamespace(parity=PARITY, name="corner, fold 0")
    return [LoadedNetwork(Network(), metadata), LoadedNetwork(Network(), metadata)]


def write_files(folder) -> list[str]:
    """Five files, the third of them unreadable."""
    paths = [str(write_audio(folder / f"{i}.wav", 8, 11025, seed=i)) for i in range(5)]
    (folder / "2.wav").write_text("no music")
    return paths


def predict(networks, paths, log_path, max_batches=None):
    """Probabilities (K, W, C), valid (W,), errors; `max_batches` ends it after so many, as a kill would."""
    index = windows.prediction_windows(np.arange(5), np.zeros(5, bool), RECIPE.audio, RECIPE.windows)
    probs, valid = np.full((2, 15, 3), np.nan, np.float32), np.zeros(15, bool)
    recipe = QUARANTINE_RECIPE
    make_predictor = functools.partial(WindowPredictor, networks, recipe, CPU)
    with (
        WindowLoader(paths, recipe.audio, recipe.loader, CPU) as loader,
        ResumeLog(log_path, {"x": 1}) as resume_log,
        console.progress("predict", len(index), "windows") as tracker,
    ):
        batches = predict_windows(make_predictor, recipe, loader, index, resume_log, tracker)
        for part, predictions in itertools.islice(batches, max_batches):
            probs[:, part], valid[part] = predictions.probs, predictions.valid
        return probs, valid, dict(loader.errors)


def test_a_prediction_stopped_anywhere_resumes_to_the_same_result(networks, tmp_path):
    paths = write_files(tmp_path)
    expected = predict(networks, paths, tmp_path / "uninterrupted")
    assert not np.isnan(expected[0]).any()
    assert list(expected[2]) == [paths[2]]
    num_calls = networks[0].model.calls
    for max_batches in (1, 2, 3):
        predict(networks, paths, tmp_path / f"stopped{max_batches}", max_batches)
        calls_before = networks[0].model.calls
        resumed = predict(networks, paths, tmp_path / f"stopped{max_batches}")
        # two views of the first batch are saved; the next two batches have windows that are not valid
        assert networks[0].model.calls - calls_before == num_calls - 2
        np.testing.assert_array_equal(resumed[0], expected[0])
        np.testing.assert_array_equal(resumed[1], expected[1])
        assert resumed[2] == expected[2]


def test_errors_of_a_batch_that_is_predicted_again_are_restored(networks, tmp_path):
    paths = write_files(tmp_path)
    write_audio(tmp_path / "4.flac", 8, 11025, seed=4)
    data = (tmp_path / "4.flac").read_bytes()
    paths[4] = str(tmp_path / "4.flac")
    (tmp_path / "4.flac").write_bytes(data[: len(data) // 2])  # its error is found while earlier batches are made
    expected = predict(networks, paths, tmp_path / "uninterrupted")
    assert {Path(path).name for path in expected[2]} == {"2.wav", "4.flac"}
    with ResumeLog(tmp_path / "stopped", {"x": 1}) as resume_log:
        audio_error = expected[2][paths[4]]
        resume_log.add(BatchPredictions(4, expected[0][:, 4:8], np.array([True, True, False, False]), [audio_error]))
        resume_log.add(BatchPredictions(12, expected[0][:, 12:], np.ones(3, bool), []))
    resumed = predict(networks, paths, tmp_path / "stopped")
    np.testing.assert_array_equal(resumed[0], expected[0])
    assert resumed[2] == expected[2]


def test_a_repaired_file_is_predicted(networks, tmp_path):
    paths = write_files(tmp_path)
    _, valid, audio_errors = predict(networks, paths, tmp_path / "log")
    assert not valid[6:9].any()
    assert audio_errors
    write_audio(tmp_path / "2.wav", 8, 11025, seed=2)
    probs, valid, audio_errors = predict(networks, paths, tmp_path / "log")
    assert valid.all()
    assert not audio_errors
    np.testing.assert_array_equal(probs, predict(networks, paths, tmp_path / "new")[0])


def test_the_signature_changes_with_the_file(tmp_path):
    path = write_audio(tmp_path / "a.wav", 2)
    before = _file_signature(str(path))
    assert _file_signature(str(path)) == before
    write_audio(path, 3)
    assert _file_signature(str(path)) != before
    assert _file_signature("https://x.org/a.mp3") == ["https://x.org/a.mp3"]
    assert _file_signature(str(tmp_path / "absent")) == [str(tmp_path / "absent")]
