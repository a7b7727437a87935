"""Files of small networks with random weights: they give the network's probabilities, or are not written."""

import errno
import json
import os

import numpy as np
import onnxruntime
import pytest
import torch

from melgpu.errors import InputError
from melgpu.export import check, exporter, graph, pt2_file
from melgpu.export.metadata import ExportOptions
from melgpu.prediction.api import load
from tests.helpers import write_audio
from tests.helpers.runs import write_run

WINDOWS = ExportOptions("onnx", "windows", "float32")
TRACK = ExportOptions("onnx", "track", "float32")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("export"))


@pytest.fixture(scope="module")
def model(run, tmp_path_factory):
    """An exported file of windows."""
    out = tmp_path_factory.mktemp("model") / "model.onnx"
    exporter.export_network(run, run.jobs(1)[0], WINDOWS, out, [])
    return out


def export(run, out, options, audio=()):
    exporter.export_network(run, run.jobs(1)[0], options, out, list(audio))
    return onnxruntime.InferenceSession(out) if options.format == "onnx" else None


def test_windows_in_batches_of_any_size_have_the_networks_probabilities(run, model):
    session = onnxruntime.InferenceSession(model)
    (network,) = exporter.load_networks(run, run.jobs(1))
    inputs = check.load_inputs(run.manifest.paths, run.recipe, "windows")
    quiet = inputs[0] * 1e-4
    inputs += [quiet, np.linspace(0, 1, len(quiet), dtype=np.float32) ** 8 * inputs[1]]
    expected = check.predict(check.network_probs(network, "windows"), inputs, "windows").probs
    for size in (1, 2, len(inputs)):
        waves = np.stack(inputs[:size])
        (probs,) = session.run(None, {"waves": waves})
        np.testing.assert_allclose(probs, expected[:size], atol=5e-4)
    assert np.ptp(expected[:, 0]) > 0.1  # else any network would pass


def test_a_window_that_is_not_finite_has_no_probabilities_and_leaves_the_others_unchanged(run, model):
    session = onnxruntime.InferenceSession(model)
    waves = np.stack(check.load_inputs(run.manifest.paths, run.recipe, "windows")[:3])
    (expected,) = session.run(None, {"waves": waves})
    for bad in (np.nan, np.inf):
        broken = waves.copy()
        broken[1, 100] = bad
        (probs,) = session.run(None, {"waves": broken})
        assert np.isnan(probs[1]).all()
        np.testing.assert_allclose(probs[[0, 2]], expected[[0, 2]], atol=1e-6)


def test_tracks_of_any_length_have_the_probabilities_of_predict(run, tmp_path):
    lengths_s = (2.5, 6, 7.3)  # repeated, as long as a track, cut
    paths = [write_audio(tmp_path / f"{i}.wav", seconds, 11_025, seed=i) for i, seconds in enumerate(lengths_s)]
    session = export(run, tmp_path / "song.onnx", TRACK, map(str, paths))
    model = load(run.folder, "cpu")
    for prediction, path in zip(model.predict(paths), paths, strict=True):
        decoded = check.worker.read_track(path, 11_025, 10, 0)
        (probs,) = session.run(None, {"wave": decoded.wave})
        np.testing.assert_allclose(probs, list(prediction.probabilities.values()), atol=5e-4)


def test_a_pt2_file_has_the_networks_probabilities_and_metadata(run, model, tmp_path):
    out = tmp_path / "model.pt2"
    export(run, out, ExportOptions("pt2", "windows", "float32"))
    extra = {"melgpu.json": ""}
    module = torch.export.load(out, extra_files=extra).module()
    waves = np.stack(check.load_inputs(run.manifest.paths, run.recipe, "windows"))
    (expected,) = onnxruntime.InferenceSession(model).run(None, {"waves": waves})
    np.testing.assert_allclose(module(torch.from_numpy(waves)).numpy(), expected, atol=5e-4)
    assert json.loads(extra["melgpu.json"])["class_names"] == run.class_names


@pytest.mark.parametrize("precision", ["float16", "int8"])
def test_smaller_files_agree_on_most_labels(run, model, tmp_path, precision, console_output):
    output = console_output(terminal=False)
    out = tmp_path / "small.onnx"
    export(run, out, ExportOptions("onnx", "windows", precision))
    assert out.stat().st_size < 0.9 * model.stat().st_size
    assert precision in output.getvalue()


def test_the_file_says_what_it_is_and_nothing_of_this_machine(run, model):
    about = json.loads(onnxruntime.InferenceSession(model).get_modelmeta().custom_metadata_map["melgpu"])
    assert about["class_names"] == run.class_names
    assert (about["sample_rate"], about["window_s"], about["track_s"]) == (11_025, 3.0, 6.0)
    assert about["hop_s"] == run.recipe.windows.predict_hop_s
    assert about["flip"] == run.recipe.predict.flip
    assert about["pretrained"] is None
    assert about["weights_license"] == "none: trained from scratch"
    content = model.read_bytes()
    assert str(run.folder).encode() not in content
    assert b"forward" not in content  # of a stack trace


def test_a_file_that_differs_is_not_written(run, tmp_path, monkeypatch):
    open_file = pt2_file.open_file
    monkeypatch.setattr(pt2_file, "open_file", lambda path: lambda waves: open_file(path)(waves) + 0.002)
    with pytest.raises(InputError, match=r"not written: .* by up to 0\.002"):
        export(run, tmp_path / "model.pt2", ExportOptions("pt2", "windows", "float32"))
    assert list(tmp_path.iterdir()) == []


class Loop(torch.nn.Module):
    """Has as many steps as its input says, which no graph can."""

    def forward(self, waves):
        while waves.sum() < 1:
            waves = waves + 1
        return waves


def test_a_network_that_cannot_be_traced_is_named_with_a_remedy(run, tmp_path, monkeypatch):
    monkeypatch.setattr(graph, "build", lambda network, options: Loop())
    with pytest.raises(InputError) as refusal:
        export(run, tmp_path / "model.onnx", WINDOWS)
    (problem,) = refusal.value.problems
    assert problem.startswith("test_efficientnet-fold0: cannot be exported as onnx in float32 (")
    assert problem.endswith("); try --format pt2, or export another network")
    assert "\n" not in problem
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_loaded_is_not_written(run, tmp_path, monkeypatch):
    monkeypatch.setattr(pt2_file, "write", lambda program, description, path: path.write_bytes(b"broken"))
    with pytest.raises(InputError, match="test_efficientnet-fold0: cannot be exported as pt2"):
        export(run, tmp_path / "model.pt2", ExportOptions("pt2", "windows", "float32"))
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_named_and_leaves_the_older_file(run, tmp_path, monkeypatch):
    def fill_disk(program, description, path):
        path.write_bytes(b"its beginning")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(graph, "trace", lambda *arguments: None)
    monkeypatch.setattr(pt2_file, "write", fill_disk)
    out = tmp_path / "model.pt2"
    out.write_text("older")
    with pytest.raises(OSError, match=r"No space left on device: .*/model\.pt2'"):
        export(run, out, ExportOptions("pt2", "windows", "float32"))
    assert out.read_text() == "older"
    assert list(tmp_path.iterdir()) == [out]


def test_nan_is_refused_in_every_precision():
    expected = check.TimedPredictions(np.full((2, 3), 1 / 3), 0.1)
    broken = check.TimedPredictions(np.full((2, 3), np.nan), 0.1)
    for precision in ("float32", "float16", "int8"):
        with pytest.raises(InputError, match="not written"):
            check.compare(broken, expected, ExportOptions("onnx", "windows", precision))


def test_the_file_is_checked_on_tracks_that_the_network_was_not_trained_on(run):
    (job,) = run.jobs(1)
    held_out = {path for path, fold in zip(run.manifest.paths, run.manifest.folds, strict=True) if fold == job.fold}
    assert set(check.validation_paths(run, job, 100)) == held_out
    few = check.validation_paths(run, job, 2)
    assert len(set(few)) == 2
    assert set(few) <= held_out


def test_unreadable_music_is_told_and_a_check_without_music_refused(run, tmp_path, console_output):
    output = console_output(terminal=False)
    broken = tmp_path / "notes.mp3"
    broken.write_text("no music")
    inputs = check.load_inputs([str(broken), run.manifest.paths[0]], run.recipe, "track")
    lengths = [len(wave) for wave in inputs]  # the track, a short piece of it, and its repetition
    track_samples = round(run.recipe.audio.track_s * run.recipe.audio.sample_rate)
    assert lengths[0] <= track_samples
    assert lengths[1] <= lengths[0]
    assert lengths[2] > track_samples + run.recipe.audio.sample_rate
    assert "note: not checked on" in output.getvalue()
    with pytest.raises(InputError, match="--audio"):
        check.load_inputs([str(broken)], run.recipe, "track")
