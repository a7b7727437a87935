"""A small teacher of two folds and its student, from files to the report."""

import contextlib
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from melgpu.audio import pool
from melgpu.commands import stack
from melgpu.errors import InputError
from melgpu.models import classifier
from melgpu.prediction import api
from melgpu.prediction import round as prediction_round
from melgpu.prediction.distillation import distributions, speed
from melgpu.prediction.distillation.distributions import write_distributions
from melgpu.prediction.round import predict_round
from melgpu.report import analysis, distillation
from melgpu.runs import setup
from melgpu.runs.distillation.distributions import Origin
from melgpu.runs.distillation.teacher import Teacher, open_teacher, plan_parts
from melgpu.runs.folder import open_run
from melgpu.runs.formats import predictions, timings
from melgpu.runs.run import Run
from melgpu.runs.run_request import RunRequest, Sources
from melgpu.training.round import train_round
from tests.conftest import CPU
from tests.helpers import QUICK, ROOT, run_script, write_audio, write_labelled_tracks

OVERRIDES = [
    *QUICK,
    "windows.hop_s=1.0",
    "windows.predict_hop_s=1.0",
    "windows.public_hop_s=1.0",
    "mel.n_fft=1024",
    "mel.n_mels=64",
    "mel.image_size=75",
    "backbone.pretrained=false",
    "optim.max_epochs=2",
    "optim.lr=0.01",
    "optim.warmup_epochs=0",
    "optim.ema_decay=0.0",
    "optim.batch_size=4",
    "optim.precision='float32'",
    "loader.pcm_cache='off'",
]
TWO_FOLDS = "rounds=[{backbones=['test_efficientnet'], folds=[0, 1], blend={}}]"
ONE_FOLD = "rounds=[{backbones=['test_efficientnet'], folds=[0], blend={}}]"
STUDENT = [*OVERRIDES, ONE_FOLD]


def finish(run: Run) -> Run:
    train_round(run, None, None, CPU)
    predict_round(run, CPU)
    stack.finish_round(run)
    return run


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Teacher:
    folder = tmp_path_factory.mktemp("teacher")
    labels = write_labelled_tracks(folder)
    request = RunRequest(folder / "run", ["quick"], [*OVERRIDES, TWO_FOLDS], False)
    finish(setup.create(request, Sources(labels, None, None, str(folder)), CPU))
    return open_teacher(folder / "run")


@pytest.fixture(scope="module")
def student(teacher, tmp_path_factory) -> Run:
    """A new student, which has also to learn from two unlabelled tracks, one of them a copy of a training track."""
    folder = tmp_path_factory.mktemp("student")
    (folder / "music").mkdir()
    write_audio(folder / "music" / "new.wav", 6, 11_025, seed=99)
    shutil.copy(teacher.run.manifest.paths[2], folder / "music" / "copy.wav")
    request = RunRequest(folder / "run", ["student"], STUDENT, False, teacher)
    return setup.create(request, Sources(None, folder / "music", None, None), CPU)


@pytest.fixture(scope="module")
def predicted(teacher, student) -> Run:
    write_distributions(student, teacher, CPU)
    return student


@pytest.fixture(scope="module")
def finished(predicted) -> Run:
    finished_run = finish(predicted)
    speed.measure_student(finished_run, CPU)
    return finished_run


def windows_of(teacher: Teacher, fold: int) -> np.ndarray:
    """What the teacher's network of a fold has predicted for stacking, shape (N, V, C)."""
    (job,) = teacher.fold_jobs[fold]
    predicted = predictions.load(teacher.run.paths.predictions(job))
    return predicted.probs.reshape(len(predicted.ids), -1, 2)


def test_training_tracks_are_predicted_by_the_network_that_did_not_train_on_them(teacher, predicted):
    assert predicted.manifest.ids == (*teacher.run.manifest.ids, "copy.wav", "new.wav")
    assert predicted.manifest.folds[:8].tolist() == teacher.run.manifest.folds.tolist()
    windows = {fold: windows_of(teacher, fold) for fold in (0, 1)}
    assert abs(windows[0] - windows[1]).max() > 0.01
    probs = predicted.teacher_predictions.probs
    for row, fold in enumerate(teacher.run.manifest.folds.tolist()):
        np.testing.assert_allclose(probs[row], windows[fold][row], atol=1e-5)  # other batches
    fold = int(teacher.run.manifest.folds[2])
    np.testing.assert_allclose(probs[8], windows[fold][2], atol=1e-5)  # the copy
    assert predicted.teacher_predictions.origins == (*[Origin.OUT_OF_FOLD] * 9, Origin.UNSEEN)


def test_new_tracks_have_the_mean_of_all_networks(teacher, predicted):
    model = api.load(teacher.run.folder, device="cpu")
    (answer,) = model.predict([predicted.manifest.paths[9]])
    assert predicted.teacher_predictions.track_probs[9].argmax() == teacher.run.class_names.index(answer.label)
    assert predicted.teacher_predictions.track_probs[9].max() == pytest.approx(answer.confidence, abs=1e-5)


def test_a_killed_prediction_resumes_to_the_same_distributions(teacher, predicted, tmp_path, monkeypatch):
    again = replace(predicted, folder=tmp_path)
    saved_parts = []

    def stop_at_second(part, path):
        if saved_parts:
            raise KeyboardInterrupt  # after the part's log, before its file
        saved_parts.append(path.name)
        save(part, path)

    save = distributions.distributions.save
    with monkeypatch.context() as patch:
        patch.setattr(distributions.distributions, "save", stop_at_second)
        with pytest.raises(KeyboardInterrupt):
            write_distributions(again, teacher, CPU)
    assert len(list(again.paths.teacher_folder.glob("*.npz"))) == 1
    assert len(again.paths.teacher_resume_logs()) >= 1
    with pytest.raises(InputError, match="the teacher has not predicted"):
        _ = again.teacher_predictions
    again = replace(predicted, folder=tmp_path)
    write_distributions(again, teacher, CPU)
    assert np.array_equal(again.teacher_predictions.probs, predicted.teacher_predictions.probs)
    assert again.teacher_predictions.digest == predicted.teacher_predictions.digest
    assert not again.paths.teacher_resume_logs()
    write_distributions(again, teacher, CPU)  # nothing is missing


def fail_beyond(num_fitting, monkeypatch):
    """Let memory run out where more networks are loaded together, or their music is predicted by all."""

    def load_fitting(run, jobs):
        if len(jobs) > num_fitting:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return load_networks(run, jobs)

    def fail(run):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    load_networks = distributions.load_networks
    monkeypatch.setattr(distributions, "load_networks", load_fitting)
    monkeypatch.setattr(speed, "load_ensemble", fail)


def test_networks_that_do_not_fit_into_memory_together_predict_in_more_passes(
    teacher, predicted, tmp_path, monkeypatch, capsys
):
    again = replace(predicted, folder=tmp_path)
    with monkeypatch.context() as patch:
        fail_beyond(1, patch)
        write_distributions(again, teacher, CPU)
    text = capsys.readouterr().out
    assert text.count("2 networks do not fit into the device's memory: 1 at a time, in more passes") == 1
    assert "The teacher's speed is not measured" in text
    expected = predicted.teacher_predictions.probs
    np.testing.assert_allclose(again.teacher_predictions.probs, expected, atol=1e-6)  # another order of the sum
    assert again.teacher_predictions.num_networks == 2
    assert timings.find(again.paths.timings, timings.TEACHER_SPEED) is None
    write_distributions(again, teacher, CPU)  # where there is more memory
    assert timings.find(again.paths.timings, timings.TEACHER_SPEED) is not None


def test_a_pass_that_was_finished_before_a_kill_is_not_predicted_again(teacher, predicted, tmp_path, monkeypatch):
    again = replace(predicted, folder=tmp_path)
    part = plan_parts(again.manifest, teacher)[0]
    assert part.name == "all"
    fail_beyond(1, monkeypatch)
    passes = []

    def stop_at_second(job):
        if passes:
            raise KeyboardInterrupt
        passes.append(job)
        return digest_of(job)

    digest_of = distributions.checkpoint.digest
    with monkeypatch.context() as patch:
        patch.setattr(distributions.checkpoint, "digest", stop_at_second)
        with pytest.raises(KeyboardInterrupt):
            distributions.write_part(again, teacher, part, CPU)
    made = []

    def count(networks, *arguments):
        made.append(networks)
        return make_predictor(networks, *arguments)

    make_predictor = prediction_round.WindowPredictor
    monkeypatch.setattr(prediction_round, "WindowPredictor", count)
    distributions.write_part(again, teacher, part, CPU)
    assert [len(networks) for networks in made] == [1]  # of the second pass alone
    assert timings.load(again.paths.timings) == []  # a resumed part has no known number of windows


def test_a_network_that_does_not_fit_into_memory_is_refused_with_a_remedy(teacher, student, tmp_path, monkeypatch):
    fail_beyond(0, monkeypatch)
    with pytest.raises(InputError, match=r"out of memory: set a smaller loader\.predict_batch_size"):
        write_distributions(replace(student, folder=tmp_path), teacher, CPU)


def test_a_student_trains_without_its_teacher_and_predicts_new_music(teacher, finished, tmp_path):
    (job,) = finished.jobs(1)
    metadata = classifier.load(finished.paths.checkpoint(job)).metadata
    assert metadata.provenance.pseudo_digest == finished.teacher_predictions.digest
    assert metadata.recipe.distil.teacher == teacher.digest
    assert not metadata.recipe.predict.flip
    (answer,) = api.load(finished.folder, device="cpu").predict([finished.manifest.paths[0]])
    assert answer.label in finished.class_names


def test_the_comparison_counts_tracks_by_hand(finished):
    (result,) = analysis.round_results(finished)
    compared = {comparison.split: comparison for comparison in distillation.comparisons(result)}
    assert set(compared) == {"valid", "public"}
    valid = compared["valid"]
    rows = np.flatnonzero(finished.manifest.folds == 0)
    labels = finished.manifest.class_indices(finished.class_names)[rows]
    (job,) = finished.jobs(1)
    student_classes = predictions.load(finished.paths.predictions(job)).track_probs[rows].argmax(1)
    teacher_probs = finished.teacher_predictions.track_probs[rows]
    assert valid.score.accuracy == (student_classes == labels).mean()
    assert valid.score.baseline_accuracy == pytest.approx((teacher_probs.argmax(1) == labels).mean())
    assert valid.agreeing == (student_classes == teacher_probs.argmax(1)).sum()
    assert valid.num_tracks == len(rows)
    gaps = teacher_probs.max(1) - (teacher_probs.argmax(1) == labels)
    assert valid.teacher.gap == pytest.approx(gaps.mean())
    assert valid.teacher.gap_interval[0] <= valid.teacher.gap <= valid.teacher.gap_interval[1]
    assert compared["public"].score is None  # no labels
    assert compared["public"].num_tracks == 2


def test_both_are_measured_once_and_shown_in_the_report(teacher, finished):
    recorded = [timing.stage for timing in timings.load(finished.paths.timings)]
    assert recorded.count(timings.TEACHER_SPEED) == recorded.count(timings.STUDENT_SPEED) == 1
    speed.measure_student(finished, CPU)
    speed.measure_teacher(finished, teacher.run, CPU)
    assert [timing.stage for timing in timings.load(finished.paths.timings)] == recorded
    stack.write_report(finished)
    text = finished.paths.report.read_text()
    assert "Student and teacher" in text
    assert "measured on 8 tracks after a warm-up" in text
    assert "Student and teacher" not in Path(teacher.run.paths.report).read_text()


def test_no_decoding_process_starts_while_speed_is_measured(finished, tmp_path, monkeypatch):
    started = []
    starts_in_measure = []
    start = pool.WorkerProcess._start

    def count_start(process):
        started.append(process)
        start(process)

    @contextlib.contextmanager
    def count_starts(*arguments):
        before = len(started)
        yield
        starts_in_measure.append(len(started) - before)

    monkeypatch.setattr(pool, "num_usable_cores", lambda: 2)
    monkeypatch.setattr(pool.WorkerProcess, "_start", count_start)
    monkeypatch.setattr(timings, "measure", count_starts)
    (tmp_path / "student").mkdir()
    recipe = finished.recipe.model_copy(update={"loader": finished.recipe.loader.model_copy(update={"workers": 2})})
    speed._measure(replace(finished, recipe=recipe, folder=tmp_path / "student"), finished, "speed", CPU)
    assert len(started) == 2
    assert starts_in_measure == [0]


@pytest.mark.slow
def test_two_processes_write_the_distributions_of_one(teacher, tmp_path):
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--"]
    flags = [part for override in STUDENT for part in ("--set", override)]
    call = ["train.py", "--run", tmp_path / "run", "--teacher", teacher.run.folder, "--device", "cpu", *flags]
    process = run_script(*torchrun, *call, env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"})
    assert process.returncode == 0, process.stderr
    assert process.stdout.count("by networks that did not train on them") == 1  # only the main process prints
    student = open_run(tmp_path / "run")
    alone = replace(student, folder=tmp_path / "alone")
    write_distributions(alone, teacher, CPU)
    expected = alone.teacher_predictions.probs
    np.testing.assert_allclose(student.teacher_predictions.probs, expected, atol=1e-5)  # other batches
    assert student.is_stacked(1)
