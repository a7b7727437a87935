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
from melgpu.data.manifest import Split
from melgpu.errors import InputError
from melgpu.features.log_mel import LogMel
from melgpu.report import error_analysis
from melgpu.runs.formats import predictions
from melgpu.runs.job import Job
from melgpu.runs.run import Run
from melgpu.stacking import evaluation
from tests.helpers import report_run, write_audio


@pytest.fixture(scope="module")
def stacked_run(tmp_path_factory) -> Run:
    return report_run.make(tmp_path_factory.mktemp("errors"))


@pytest.fixture(scope="module")
def worst(stacked_run) -> list[tuple[error_analysis.Misclassification, error_analysis.WorstWindow]]:
    errors = error_analysis.worst_errors(evaluation.load(stacked_run.paths.evaluation(2)))
    return list(zip(errors, error_analysis.worst_windows(stacked_run, 2, errors), strict=True))


def content(uri: str, kind: str) -> bytes:
    header, data = uri.split(",")
    assert header == f"data:{kind};base64"
    return base64.b64decode(data)


def window_samples(run: Run, window: error_analysis.WorstWindow) -> np.ndarray:
    """Read without the loader: the file, repeated to a track's length, cut."""
    rate, spec = run.recipe.audio.sample_rate, run.recipe.windows
    wave = decode.decode(run.manifest.paths[window.row], rate, run.recipe.audio.track_s)
    repeated = np.tile(wave, 4)
    return repeated[round(window.start_s * rate) :][: round(spec.window_s * rate)]


def test_the_worst_errors_have_the_smallest_probability_of_the_truth(stacked_run):
    evaluated = evaluation.load(stacked_run.paths.evaluation(2))
    expected = []
    for row, probs in enumerate(evaluated.final_probs):
        label = evaluated.labels[row]
        if label != probs.argmax():
            expected.append((probs[label], evaluated.ids[row], evaluated.splits[row], label, probs.argmax()))
    errors = error_analysis.worst_errors(evaluated, max_errors=5)
    assert len(expected) > 5 == len(errors)
    assert [(e.true_class_probability, e.id, e.split, e.true_class, e.predicted_class) for e in errors] == sorted(
        expected
    )[:5]
    assert {e.fold for e in errors if e.split is not Split.VALID} <= {-1}


def test_the_worst_window_has_the_smallest_mean_probability_of_the_truth(stacked_run, worst):
    spec = stacked_run.round_spec(2)
    for misclassified, window in worst:
        folds = spec.folds if misclassified.fold < 0 else (misclassified.fold,)
        jobs = [Job(2, backbone, fold) for fold in folds for backbone in spec.backbones]
        predicted = [predictions.load(stacked_run.paths.predictions(job)) for job in jobs]
        assert stacked_run.manifest.ids[window.row] == misclassified.id
        first = sum(predicted[0].num_windows[: window.row])
        means = sum(network.probs[first : first + 3].astype(float) for network in predicted) / len(predicted)
        position = int(window.start_s / stacked_run.recipe.windows.predict_hop_s)
        truth_probs = means[:, misclassified.true_class]
        assert truth_probs.min() == truth_probs[position] == pytest.approx(window.true_class_probability)
        assert window.predicted_class_probability == pytest.approx(means[position, misclassified.predicted_class])
        assert window.end_s - window.start_s == stacked_run.recipe.windows.window_s


def test_picture_and_audio_are_those_of_the_window(stacked_run, worst):
    mel = stacked_run.recipe.mel.model_copy(update={"image_size": 200})
    features = LogMel(mel, stacked_run.recipe.audio.sample_rate)
    colours = np.array(matplotlib.colormaps["viridis"].colors)
    rendered = list(error_analysis.render_media(stacked_run, [window for _, window in worst]))
    assert len(rendered) == len(worst)
    for (_, window), media in zip(worst, rendered, strict=True):
        wave = window_samples(stacked_run, window)
        audio, rate = soundfile.read(io.BytesIO(content(media.audio, "audio/mpeg")))
        resampled = soxr.resample(audio, rate, stacked_run.recipe.audio.sample_rate)[: len(wave)]
        assert np.corrcoef(resampled, wave[: len(resampled)])[0, 1] > 0.9
        assert len(resampled) == pytest.approx(len(wave), abs=10)
        png = matplotlib.image.imread(io.BytesIO(content(media.picture, "image/png")), format="png")[..., :3]
        picture = features(torch.from_numpy(wave)[None])[0, 0].numpy()
        np.testing.assert_allclose(png, colours[(picture * 255).round().astype(int)], atol=0.04)


def test_the_duration_of_a_short_file_is_given(stacked_run):
    row = stacked_run.manifest.ids.index(report_run.SHORT)
    (media,) = error_analysis.render_media(stacked_run, [error_analysis.WorstWindow(row, 12.0, 18.0, 0.1, 0.9)])
    assert media.duration_s == pytest.approx(7)
    assert media.error is None


def test_errors_of_missing_and_unreadable_files_are_given(tmp_path):
    run = report_run.make(tmp_path)
    Path(run.manifest.paths[0]).unlink()
    Path(run.manifest.paths[1]).write_bytes(b"no music")
    missing, unreadable, intact = error_analysis.render_media(
        run, [error_analysis.WorstWindow(row, 0.0, 6.0, 0.1, 0.9) for row in range(3)]
    )
    assert "No such file" in missing.error
    assert unreadable.error
    assert missing.picture is missing.audio is unreadable.picture is unreadable.audio is intact.error is None
    assert intact.picture.startswith("data:image/png")


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 96_000])
def test_audio_is_mp3_at_a_common_rate(tmp_path, rate):
    wave = 3 * decode.decode(write_audio(tmp_path / "x.wav", 2.0, 44_100), rate, 2.0)
    audio, mp3_rate = soundfile.read(io.BytesIO(content(error_analysis.encode_mp3(wave, rate), "audio/mpeg")))
    assert mp3_rate in error_analysis.MP3_RATES
    assert mp3_rate >= min(rate, 48_000)
    assert len(audio) == pytest.approx(2 * mp3_rate, rel=0.1)
    assert 0.5 < np.abs(audio).max() < 1.5


def test_the_total_duration_of_the_audio_is_limited(stacked_run, worst, monkeypatch):
    monkeypatch.setattr(error_analysis, "MAX_AUDIO_S", 2 * stacked_run.recipe.windows.window_s)
    rendered = error_analysis.render_media(stacked_run, [window for _, window in worst[:3]])
    assert [media.audio is None for media in rendered] == [False, False, True]


def test_predictions_of_other_tracks_are_rejected(stacked_run, worst):
    path = stacked_run.paths.predictions(stacked_run.jobs(2)[0])
    saved = path.read_bytes()
    predicted = predictions.load(path)
    reordered = predictions.Predictions(
        tuple(reversed(predicted.ids)),
        predicted.splits,
        predicted.unusable,
        predicted.num_windows,
        predicted.probs,
        predicted.class_names,
        predicted.provenance,
    )
    predictions.save(reordered, path)
    with pytest.raises(InputError, match=path.name):
        error_analysis.worst_windows(stacked_run, 2, [worst[0][0]])
    path.write_bytes(saved)
    unknown = error_analysis.Misclassification("unknown.wav", Split.PUBLIC, -1, 0, 1, 0.1, 0.9)
    with pytest.raises(InputError, match=r"unknown\.wav"):
        error_analysis.worst_windows(stacked_run, 2, [unknown])
