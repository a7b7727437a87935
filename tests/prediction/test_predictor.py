import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from melgpu.data import windows
from melgpu.data.loader import WindowLoader
from melgpu.prediction.predictor import _file_signature, parity, predict_windows
from melgpu.prediction.resume_log import BatchPredictions, ResumeLog
from melgpu.recipe import load_recipe
from tests.helpers import write_audio
from tests.helpers.training import Corner

CPU = torch.device("cpu")
SETTINGS = load_recipe(["demo"], ["loader.workers=0", "loader.pcm_cache=off", "loader.predict_batch_size=4"])
GUARDED = SETTINGS.model_copy(
    update={"loader": SETTINGS.loader.model_copy(update={"on_error": "quarantine", "max_error_fraction": 1.0})}
)


class Network(Corner):
    front_end = None

    def set_memory_format(self, channels_last):
        return self


@pytest.fixture
def networks(monkeypatch):
    """Two networks that count how often they are asked; their checkpoints fit any front end."""
    monkeypatch.setattr(parity, "check_same_pictures", lambda *args: None)
    metadata = {"parity": {}, "backbone": "corner", "fold": 0}
    return [(Network(), metadata), (Network(), metadata)]


def paths(folder) -> list[str]:
    made = [str(write_audio(folder / f"{number}.wav", 8, 11025, seed=number)) for number in range(5)]
    (folder / "2.wav").write_text("no music")
    return made


def listen(networks, names, path, stop=None):
    """Probabilities (K, W, C), heard (W,), flaws; `stop` ends it after so many batches, as a kill would."""
    index = windows.prediction_windows(np.arange(5), np.zeros(5, bool), SETTINGS.audio, SETTINGS.windows)
    probs, valid = np.full((2, 15, 3), np.nan, np.float32), np.zeros(15, bool)
    with WindowLoader(names, GUARDED.audio, GUARDED.loader, CPU) as loader, ResumeLog(path, {"x": 1}) as resume_log:
        answered = predict_windows(networks, GUARDED, loader, index, resume_log, "listening")
        for part, answers in itertools.islice(answered, stop):
            probs[:, part], valid[part] = answers.probs, answers.valid
        return probs, valid, dict(loader.errors)


def test_a_prediction_stopped_anywhere_goes_on_to_the_same_answers(networks, tmp_path):
    names = paths(tmp_path)
    whole = listen(networks, names, tmp_path / "whole")
    assert not np.isnan(whole[0]).any()
    assert list(whole[2]) == [names[2]]
    asked = networks[0][0].calls
    for stop in (1, 2, 3):
        listen(networks, names, tmp_path / f"cut{stop}", stop)
        before = networks[0][0].calls
        resumed = listen(networks, names, tmp_path / f"cut{stop}")
        assert networks[0][0].calls - before == asked - 2  # two views of the first batch; the next two have silence
        np.testing.assert_array_equal(resumed[0], whole[0])
        np.testing.assert_array_equal(resumed[1], whole[1])
        assert resumed[2] == whole[2]


def test_what_was_known_of_a_file_is_not_forgotten_with_a_batch_that_is_heard_again(networks, tmp_path):
    names = paths(tmp_path)
    write_audio(tmp_path / "4.flac", 8, 11025, seed=4)
    data = (tmp_path / "4.flac").read_bytes()
    names[4] = str(tmp_path / "4.flac")
    (tmp_path / "4.flac").write_bytes(data[: len(data) // 2])  # met while the batches before it were made
    expected = listen(networks, names, tmp_path / "whole")
    assert {Path(path).name for path in expected[2]} == {"2.wav", "4.flac"}
    with ResumeLog(tmp_path / "cut", {"x": 1}) as resume_log:
        audio_error = expected[2][names[4]]
        resume_log.add(BatchPredictions(4, expected[0][:, 4:8], np.array([True, True, False, False]), [audio_error]))
        resume_log.add(BatchPredictions(12, expected[0][:, 12:], np.ones(3, bool), []))
    resumed = listen(networks, names, tmp_path / "cut")
    np.testing.assert_array_equal(resumed[0], expected[0])
    assert resumed[2] == expected[2]


def test_a_file_that_is_well_again_is_heard(networks, tmp_path):
    names = paths(tmp_path)
    _, valid, audio_errors = listen(networks, names, tmp_path / "journal")
    assert not valid[6:9].any()
    assert audio_errors
    write_audio(tmp_path / "2.wav", 8, 11025, seed=2)
    probs, valid, audio_errors = listen(networks, names, tmp_path / "journal")
    assert valid.all()
    assert not audio_errors
    np.testing.assert_array_equal(probs, listen(networks, names, tmp_path / "fresh")[0])


def test_files_that_changed_are_heard_again(tmp_path):
    path = write_audio(tmp_path / "a.wav", 2)
    before = _file_signature(str(path))
    assert _file_signature(str(path)) == before
    write_audio(path, 3)
    assert _file_signature(str(path)) != before
    assert _file_signature("https://x.org/a.mp3") == ["https://x.org/a.mp3"]
    assert _file_signature(str(tmp_path / "absent")) == [str(tmp_path / "absent")]
