import base64
import io
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import soundfile
import soxr
import torch

from melgpu.audio import decode
from melgpu.errors import InputError
from melgpu.features.log_mel import LogMel
from melgpu.report import error_analysis
from melgpu.runs import predictions
from melgpu.runs.run import Job, Run
from melgpu.stacking import evaluation
from tests.helpers import report_run, write_audio


@pytest.fixture(scope="module")
def shown(tmp_path_factory) -> Run:
    return report_run.make(tmp_path_factory.mktemp("mistakes"))


@pytest.fixture(scope="module")
def found(shown) -> list[tuple[error_analysis.Misclassification, error_analysis.WorstWindow]]:
    worst = error_analysis.worst_errors(evaluation.load(shown.evaluation_path(2)))
    return list(zip(worst, error_analysis.worst_windows(shown, 2, worst), strict=True))


def content(uri: str, kind: str) -> bytes:
    head, data = uri.split(",")
    assert head == f"data:{kind};base64"
    return base64.b64decode(data)


def window_of(shown: Run, window: error_analysis.WorstWindow) -> np.ndarray:
    """Read without the stream: the file, repeated to a track's length, cut."""
    rate, spec = shown.recipe.audio.sample_rate, shown.recipe.windows
    wave = decode.decode(shown.manifest.paths[window.row], rate, shown.recipe.audio.track_s)
    whole = np.tile(wave, 4)
    return whole[round(window.start_s * rate) :][: round(spec.window_s * rate)]


def test_the_worst_are_the_surest_to_be_wrong(shown):
    told = evaluation.load(shown.evaluation_path(2))
    wrong = []
    for row, probs in enumerate(told.final_probs):
        if told.labels[row] != probs.argmax():
            wrong.append((probs[told.labels[row]], told.ids[row], told.splits[row], told.labels[row], probs.argmax()))
    found = error_analysis.worst_errors(told, most=5)
    assert len(wrong) > 5 == len(found)
    assert [(m.truth_probability, m.id, m.split, m.truth, m.predicted) for m in found] == sorted(wrong)[:5]
    assert {m.fold for m in found if m.split != "validation"} <= {-1}


def test_their_window_is_the_one_that_the_networks_get_most_wrong(shown, found):
    for mistake, window in found:
        folds = shown.spec(2).folds if mistake.fold < 0 else (mistake.fold,)
        said = [predictions.load(shown.predictions_path(Job(2, b, f))) for f in folds for b in shown.spec(2).backbones]
        assert shown.manifest.ids[window.row] == mistake.id
        first = sum(said[0].num_windows[: window.row])
        means = sum(one.probs[first : first + 3].astype(float) for one in said) / len(said)
        place = int(window.start_s / shown.recipe.windows.predict_hop_s)
        assert means[:, mistake.truth].min() == means[place, mistake.truth] == pytest.approx(window.truth_probability)
        assert window.predicted_probability == pytest.approx(means[place, mistake.predicted])
        assert window.end_s - window.start_s == shown.recipe.windows.window_s


def test_picture_and_sound_are_the_window(shown, found):
    features = LogMel(shown.recipe.mel.model_copy(update={"image_size": 200}), shown.recipe.audio.sample_rate)
    colours = np.array(matplotlib.colormaps["viridis"].colors)
    heard = list(error_analysis.render_media(shown, [window for _, window in found]))
    assert len(heard) == len(found)
    for (_, window), one in zip(found, heard, strict=True):
        wave = window_of(shown, window)
        sound, rate = soundfile.read(io.BytesIO(content(one.audio, "audio/mpeg")))
        again = soxr.resample(sound, rate, shown.recipe.audio.sample_rate)[: len(wave)]
        assert np.corrcoef(again, wave[: len(again)])[0, 1] > 0.9
        assert len(again) == pytest.approx(len(wave), abs=10)
        picture = matplotlib.image.imread(io.BytesIO(content(one.picture, "image/png")), format="png")[..., :3]
        shades = features(torch.from_numpy(wave)[None])[0, 0].numpy()
        np.testing.assert_allclose(picture, colours[(shades * 255).round().astype(int)], atol=0.04)


def test_a_file_shorter_than_a_track_says_so(shown, found):
    row = shown.manifest.ids.index(report_run.SHORT)
    (one,) = error_analysis.render_media(shown, [error_analysis.WorstWindow(row, 12.0, 18.0, 0.1, 0.9)])
    assert one.duration_s == pytest.approx(7)
    assert one.error is None


def test_files_that_are_gone_or_broken_are_told_of(tmp_path):
    shown = report_run.make(tmp_path)
    Path(shown.manifest.paths[0]).unlink()
    Path(shown.manifest.paths[1]).write_bytes(b"no music")
    gone, broken, well = error_analysis.render_media(
        shown, [error_analysis.WorstWindow(row, 0.0, 6.0, 0.1, 0.9) for row in range(3)]
    )
    assert "No such file" in gone.error
    assert broken.error
    assert gone.picture is gone.audio is broken.picture is broken.audio is well.error is None
    assert well.picture.startswith("data:image/png")


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 96_000])
def test_sounds_are_mp3_of_a_common_rate(tmp_path, rate):
    wave = 3 * decode.decode(write_audio(tmp_path / "x.wav", 2.0, 44_100), rate, 2.0)
    sound, own = soundfile.read(io.BytesIO(content(error_analysis.encode_mp3(wave, rate), "audio/mpeg")))
    assert own in error_analysis.MP3_RATES
    assert own >= min(rate, 48_000)
    assert len(sound) == pytest.approx(2 * own, rel=0.1)
    assert 0.5 < np.abs(sound).max() < 1.5


def test_long_windows_are_not_all_played(shown, found, monkeypatch):
    monkeypatch.setattr(error_analysis, "MAX_AUDIO_S", 2 * shown.recipe.windows.window_s)
    sounds = [one.audio for one in error_analysis.render_media(shown, [window for _, window in found[:3]])]
    assert [sound is None for sound in sounds] == [False, False, True]


def test_predictions_of_other_tracks_are_refused(shown, found):
    path = shown.predictions_path(shown.jobs(2)[0])
    kept = path.read_bytes()
    said = predictions.load(path)
    other = predictions.Predictions(
        tuple(reversed(said.ids)),
        said.splits,
        said.unusable,
        said.num_windows,
        said.probs,
        said.class_names,
        said.provenance,
    )
    predictions.save(other, path)
    with pytest.raises(InputError, match=path.name):
        error_analysis.worst_windows(shown, 2, [found[0][0]])
    path.write_bytes(kept)
    stranger = error_analysis.Misclassification("stranger.wav", "public", -1, 0, 1, 0.1, 0.9)
    with pytest.raises(InputError, match=r"stranger\.wav"):
        error_analysis.worst_windows(shown, 2, [stranger])
