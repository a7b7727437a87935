"""End-to-end tests of the three scripts: a small recipe, interruptions, invalid input."""

import contextlib
import csv
import json
import os
import random
import runpy
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from melgpu.audio import decode
from melgpu.data.manifest import Split
from melgpu.models import checkpoint, classifier
from melgpu.runs.formats import predictions, scores
from melgpu.stacking import evaluation
from melgpu.tags import containers
from tests.helpers import ROOT, SMALL, run_script, write_audio, write_list


def override_flags() -> list[str]:
    return [part for override in SMALL for part in ("--set", override)]


def read_rows(path) -> list[list[str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def source_flags(corpus) -> list[str]:
    return [
        "--data",
        corpus,
        "--labels",
        corpus / "train.csv",
        "--test",
        corpus / "test.csv",
        "--private",
        corpus / "private.csv",
    ]


@pytest.fixture(scope="module")
def finished(corpus, tmp_path_factory):
    """The folder of a run after both rounds, and the output of each call."""
    folder = tmp_path_factory.mktemp("runs") / "small"
    calls = [run_script("train.py", "--run", folder, "--recipe", "demo", *override_flags(), *source_flags(corpus))]
    for script in ("predict.py", "stack.py", "train.py", "predict.py", "stack.py"):
        calls.append(run_script(script, "--run", folder))
    for process in calls:
        assert process.returncode == 0, process.stderr + process.stdout
        assert "Traceback" not in process.stderr
    return folder, [process.stdout for process in calls]


def test_each_script_prints_the_next_step(finished):
    folder, outputs = finished
    next_scripts = ["predict.py", "stack.py", "train.py", "predict.py", "stack.py"]
    for output, next_script in zip(outputs, next_scripts, strict=False):
        assert f"Next: python {next_script} --run {folder}" in output
    assert f"Submission: {folder / 'submission.csv'}" in outputs[-1]
    assert f"python predict.py --run {folder} song.mp3" in outputs[-1]
    assert f"Report: {folder / 'report.html'}" in outputs[-1]
    assert "</html>" in (folder / "report.html").read_text()
    assert all(name in outputs[-1] for name in ("inception_v3", "resnet50", "mean", "skip_cnn", "lightgbm", "blend"))


def test_submissions_have_every_test_track_in_order(finished, corpus):
    folder, _ = finished
    for split, name in (("test", "submission.csv"), ("private", "submission-private.csv")):
        rows = read_rows(folder / name)
        source_rows = read_rows(corpus / f"{split}.csv")[1:]
        assert rows[0] == ["Id", "Genre"]
        assert [row[0] for row in rows[1:]] == [row[0] for row in source_rows]
        assert {row[1] for row in rows[1:]} <= {"aria", "breakbeat", "waltz"}


def test_checkpoints_and_predictions_have_metadata_and_provenance(finished):
    folder, _ = finished
    path = folder / "round2" / "resnet50" / "fold1" / "best.safetensors"
    metadata = classifier.load(path).metadata
    provenance = metadata.provenance
    assert (provenance.round, provenance.backbone, provenance.fold) == (2, "resnet50", 1)
    assert metadata.class_names == ["aria", "breakbeat", "waltz"]
    assert metadata.recipe.mel.image_size == 75
    assert metadata.environment.packages.keys() >= {"torch", "timm"}
    assert 0 <= metadata.scores.window_accuracy <= 1
    assert metadata.parity.max_db < 0.05
    assert not (path.parent / "last.pt").exists()
    predicted = predictions.load(folder / "round2" / "predictions" / "resnet50-fold1.npz")
    assert predicted.provenance.checkpoint_digest == checkpoint.digest(path)
    assert predicted.splits.count(Split.VALID) == 6
    assert len(predicted.probs) == 27 * 3
    assert predicted.provenance.pseudo_digest not in ("none", "")
    saved_scores = scores.load(folder / "round2" / "stack" / "scores.json")
    assert evaluation.load(folder / "round2" / "stack" / "evaluation.npz").round_scores() == saved_scores
    pseudo = read_rows(folder / "round1" / "pseudo.csv")
    assert pseudo[0] == ["id", "label", "confidence", "votes", "round", "recipe_digest"]


def test_finished_rounds_are_not_rewritten(finished):
    folder, _ = finished
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name != "report.html"]
    before = {path: path.stat().st_mtime_ns for path in paths}
    for script in ("train.py", "predict.py", "stack.py"):
        process = run_script(script, "--run", folder)
        assert process.returncode == 0
    assert "blend" in process.stdout
    assert {path: path.stat().st_mtime_ns for path in paths} == before


def test_a_run_accepts_machine_keys_of_another_recipe_but_no_others(finished, tmp_path):
    folder, _ = finished
    (tmp_path / "tuned.toml").write_text('[machine]\nchannels_last = true\ntuned_on = "a Cray-1"\n')
    recipe_flags = ["--recipe", "demo", *override_flags(), "--recipe", tmp_path / "tuned.toml"]
    accepted = run_script("train.py", "--run", folder, *recipe_flags)
    assert accepted.returncode == 0, accepted.stderr
    (tmp_path / "tuned.toml").write_text("[optim]\nlr = 0.5\n")
    rejected = run_script("train.py", "--run", folder, *recipe_flags)
    assert rejected.returncode == 2
    assert "optim.lr: 0.001, now 0.5" in rejected.stderr


def test_a_round_without_pseudo_labels_is_trained_beside_the_other(finished):
    folder, _ = finished
    before = {path: path.stat().st_mtime_ns for path in (folder / "round2").rglob("*") if path.is_file()}
    for script in ("train.py", "predict.py", "stack.py"):
        process = run_script(script, "--run", folder, "--without-pseudo")
        assert process.returncode == 0, process.stderr
    assert "Round 2 without pseudo labels" in process.stdout
    assert "Submission" not in process.stdout
    plain_folder = folder / "round2-without-pseudo"
    predicted = predictions.load(plain_folder / "predictions" / "resnet50-fold1.npz")
    assert predicted.provenance.pseudo_digest == "none"
    assert (plain_folder / "stack" / "evaluation.npz").exists()
    assert {path: path.stat().st_mtime_ns for path in (folder / "round2").rglob("*") if path.is_file()} == before
    without_pseudo, with_pseudo = (
        classifier.load(root / "resnet50/fold1/best.safetensors").model.state_dict()
        for root in (plain_folder, folder / "round2")
    )
    assert any((without_pseudo[key] != with_pseudo[key]).any() for key in without_pseudo)
    assert len(read_rows(folder / "round1" / "pseudo.csv")) > 1  # there were pseudo labels to leave out


TABLE_COLUMNS = ["path", "label", "confidence", "p:aria", "p:breakbeat", "p:waltz", "error", "used_s", "size", "mtime"]


def test_new_music_is_predicted_in_a_table_and_a_csv(finished, corpus, tmp_path):
    folder, _ = finished
    (tmp_path / "album").mkdir()
    for duration_s, name in ((1, "short.mp3"), (16, "nhạc số 1.ogg"), (31, "long.flac")):
        write_audio(tmp_path / "album" / name, duration_s, 44_100, 2)
    song = shutil.copy(corpus / "audio" / "private0.mp3", tmp_path)
    arguments = ["--run", folder, song, tmp_path / "album", "--out", tmp_path / "o.csv", "--min-confidence", "1"]
    process = run_script("predict.py", *arguments, env={"PYTHONIOENCODING": "ascii"})  # cannot show one of the names
    assert process.returncode == 0, process.stderr
    header, *rows = read_rows(tmp_path / "o.csv")
    assert header == TABLE_COLUMNS
    assert [os.path.basename(row[0]) for row in rows] == ["private0.mp3", "long.flac", "nhạc số 1.ogg", "short.mp3"]
    assert [row[1] for row in rows] == ["unsure"] * 4
    probs = np.array([row[3:6] for row in rows], float)
    np.testing.assert_allclose(probs.sum(1), 1, atol=1e-5)
    assert [float(row[2]) for row in rows] == probs.max(1).tolist()
    durations_s = [len(decode.decode(row[0], 22_050, 60)) / 22_050 for row in rows]
    np.testing.assert_allclose([float(row[7]) for row in rows], np.minimum(durations_s, 18), atol=0.001)
    assert [int(row[8]) for row in rows] == [os.path.getsize(row[0]) for row in rows]
    assert "Predicted by 4 networks, stacked\npredicting 4 files with 4 networks" in process.stdout
    assert "nh?c s? 1.ogg" in process.stdout
    assert "least sure" in process.stdout


def test_a_test_track_as_new_music_has_the_same_prediction(finished, corpus, tmp_path):
    folder, _ = finished
    submission = dict(read_rows(folder / "submission-private.csv")[1:])
    tuned = ["machine.channels_last=false", "machine.feature_batch=2", "loader.predict_batch_size=5"]  # speed only
    flags = [part for override in (*tuned, "machine.tuned_on='a GPU'") for part in ("--set", override)]
    song, out = corpus / "audio" / "private0.mp3", tmp_path / "o.csv"
    process = run_script("predict.py", "--run", folder, song, "--out", out, *flags)
    assert "machine settings were tuned on a GPU" in process.stdout.replace("\n", " ")
    _, row = read_rows(out)
    assert row[1] == submission["private0.mp3"]


def test_unreadable_music_is_reported_and_the_other_files_are_predicted(finished, corpus, tmp_path):
    folder, _ = finished
    (tmp_path / "unreadable.mp3").write_text("no music")
    out = tmp_path / "o.jsonl"
    process = run_script("predict.py", "--run", folder, tmp_path, corpus / "audio" / "test0.mp3", "--out", out)
    assert process.returncode == 2
    assert "error: " in process.stdout
    assert "unreadable.mp3: not readable as audio" in process.stdout
    assert "Errors, listed above: 1" in process.stdout
    unreadable, intact = (json.loads(line) for line in out.read_text().splitlines())
    assert list(unreadable) == list(intact) == TABLE_COLUMNS
    assert [unreadable[name] for name in TABLE_COLUMNS[1:6]] == [None] * 5
    assert unreadable["error"].startswith("not readable as audio")
    assert (unreadable["used_s"], unreadable["size"]) == (0, 8)
    assert intact["error"] is None
    assert intact["label"] in ("aria", "breakbeat", "waltz")
    for path, reason in ((tmp_path / "unreadable.mp3", "not readable"), (tmp_path / "absent", "No such file")):
        rejected = run_script("predict.py", "--run", folder, path)
        assert rejected.returncode == 2
        assert reason in rejected.stderr
        assert "Traceback" not in rejected.stderr


def test_labels_are_written_as_genre_tags(finished, tmp_path):
    folder, _ = finished
    path = write_audio(tmp_path / "song.flac", 16)
    out = tmp_path / "o.csv"
    process = run_script("predict.py", "--run", folder, path, "--out", out, "--write-tags", "--yes")
    assert process.returncode == 0, process.stderr
    assert "1 genre tag written" in process.stdout
    _, row = read_rows(out)
    tags = containers.open_tags(path)
    assert tags.genres == [row[1]]
    assert tags.comments == [f"melgpu: {row[1]}, confidence {float(row[2]):.2f}"]
    assert int(row[8]) == path.stat().st_size


def test_timelines_have_the_probabilities_of_each_window(finished, tmp_path):
    folder, _ = finished
    (tmp_path / "album").mkdir()
    write_audio(tmp_path / "album" / "song.mp3", 40, 44_100, 2)
    content = write_audio(tmp_path / "album" / "song.flac", 30).read_bytes()
    (tmp_path / "album" / "song.flac").write_bytes(content[: len(content) // 2])
    (tmp_path / "album" / "text.ogg").write_text("no music")
    process = run_script("predict.py", "--run", folder, tmp_path / "album", "--timeline", tmp_path / "when")
    assert process.returncode == 2, process.stderr
    assert f"song.mp3: {tmp_path / 'when' / 'song.mp3'}.csv and .png" in process.stdout
    assert "song.flac: its header claims 30.0 s and it contains 14.9 s" in process.stdout
    assert "text.ogg: not readable as audio" in process.stdout
    names = ["song.flac.csv", "song.flac.png", "song.mp3.csv", "song.mp3.png"]
    assert sorted(os.listdir(tmp_path / "when")) == names
    header, *rows = read_rows(tmp_path / "when" / "song.mp3.csv")
    assert header == ["start_s", "end_s", "aria", "breakbeat", "waltz"]
    table = np.array(rows, float)
    assert table[:-1, 0].tolist() == [0, 6, 12, 18, 24, 30]
    assert table[-1, 1] == pytest.approx(40, abs=0.1)
    np.testing.assert_allclose(table[:, 2:].sum(1), 1, atol=1e-5)
    assert read_rows(tmp_path / "when" / "song.flac.csv")[-1][1].startswith("14.")
    rejected = run_script("predict.py", "--run", folder, tmp_path / "album" / "text.ogg", "--timeline", tmp_path / "no")
    assert rejected.returncode == 2
    assert "text.ogg: not readable" in rejected.stderr


def test_each_file_has_an_embedding(finished, corpus, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    folder, _ = finished
    (tmp_path / "unreadable.mp3").write_text("no music")
    songs = [corpus / "audio" / "test0.mp3", tmp_path / "unreadable.mp3"]
    process = run_script("predict.py", "--run", folder, *songs, "--embed", tmp_path / "e.parquet")
    assert process.returncode == 2
    assert f"error: {songs[1]}: not readable as audio" in process.stdout
    rows = parquet.read_table(tmp_path / "e.parquet").to_pylist()
    assert [row["path"] for row in rows] == list(map(str, songs))
    assert len(rows[0]["vector"]) == 2 * (2048 + 2048)  # of two folds: inception_v3 and resnet50
    assert rows[1]["vector"] is None


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--out", "o.csv"], "--out needs music files to predict"),
        (["--timeline", "when"], "--timeline needs music files to predict"),
        (["--embed", "e.parquet"], "--embed needs music files to predict"),
        (["--write-tags", "--yes"], "--write-tags needs music files to predict"),
        (["x.mp3", "--yes"], "--yes has the tags written that --write-tags shows: give both"),
        (
            ["x.mp3", "--timeline", "when", "--write-tags"],
            "--timeline writes files of its own and goes without --write",
        ),
        (["--min-confidence", "0.5"], "--min-confidence needs music files to predict"),
        (["x.mp3", "--timeline", "when", "--out", "o.csv"], "--timeline writes files of its own and goes without"),
        (["x.mp3", "--timeline", "when", "--min-confidence", "0"], "goes without --min-confidence"),
        (["x.mp3", "--embed", "e.parquet", "--timeline", "when"], "--embed writes files of its own and goes without"),
        (["x.mp3", "--min-confidence", "1.5"], "--min-confidence 1.5: not a number from 0 to 1"),
        (["x.mp3", "--min-confidence", "nan"], "--min-confidence nan: not a number from 0 to 1"),
        (["x.mp3", "--out", "o.txt"], "o.txt: give it the suffix of a format: .csv, .parquet, .jsonl"),
        (["x.mp3", "--embed", "e.csv"], "e.csv: give it the suffix of a format: .parquet"),
    ],
)
def test_wrong_flags_are_refused_before_anything_is_loaded(flags, reason, monkeypatch, capsys):
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(sys, "argv", ["predict.py", "--run", "nothing", *flags])
    with pytest.raises(SystemExit) as exit_info:
        runpy.run_path(str(ROOT / "predict.py"), run_name="__main__")
    signal.signal(signal.SIGTERM, before)
    assert exit_info.value.code == 2
    assert reason in capsys.readouterr().err


def test_a_run_without_test_sets_predicts_new_music(corpus, tmp_path):
    folder = tmp_path / "run"
    rounds = "rounds=[{backbones=['inception_v3', 'resnet50'], folds=[0], blend={cnn=0.9, lightgbm=0.1}}]"
    flags = [*override_flags(), "--set", rounds, "--set", "machine.tuned_on='a GPU'"]
    calls = [run_script("train.py", "--run", folder, "--recipe", "demo", *flags, *source_flags(corpus)[:4])]
    assert "machine settings were tuned on a GPU" in calls[0].stdout.replace("\n", " ")
    calls += [run_script(script, "--run", folder) for script in ("predict.py", "stack.py")]
    calls.append(run_script("predict.py", "--run", folder, "--set", "loader.workers=0", corpus / "audio" / "test0.mp3"))
    for process in calls:
        assert process.returncode == 0, process.stderr + process.stdout
    assert "test0.mp3" in calls[-1].stdout
    assert not (folder / "submission.csv").exists()
    assert "Submission" not in calls[-2].stdout


def test_files_with_errors_are_quarantined_and_all_test_tracks_are_in_the_submission(corpus, tmp_path):
    data, folder = tmp_path / "data", tmp_path / "run"
    shutil.copytree(corpus, data)
    for name in ("train5.flac", "test1.ogg"):
        (data / "audio" / name).write_text("no music")
    rounds = "rounds=[{backbones=['inception_v3', 'resnet50'], folds=[0], blend={cnn=0.9, lightgbm=0.1}}]"
    flags = [*override_flags(), "--set", rounds]
    flags += ["--set", "loader.on_error=quarantine", "--set", "loader.max_error_fraction=0.2"]
    calls = [run_script("train.py", "--run", folder, "--recipe", "demo", *flags, *source_flags(data))]
    (data / "audio" / "private0.mp3").unlink()  # an error only after the check; its PCM cache is deleted
    shutil.rmtree(folder / "pcm_cache")
    calls += [run_script(script, "--run", folder) for script in ("predict.py", "stack.py")]
    for process in calls:
        assert process.returncode == 0, process.stderr + process.stdout
    recorded = {os.path.basename(row[0]): row[1] for row in read_rows(folder / "quarantine.csv")[1:]}
    assert sorted(recorded) == ["private0.mp3", "test1.ogg", "train5.flac"]
    assert "3 files with errors in quarantine" in calls[-1].stdout
    predicted = predictions.load(folder / "round1" / "predictions" / "resnet50-fold0.npz")
    unusable_ids = [predicted.ids[row] for row in np.flatnonzero(predicted.unusable)]
    assert unusable_ids == ["train5.flac", "test1.ogg", "private0.mp3"]
    evaluated = evaluation.load(folder / "round1" / "stack" / "evaluation.npz")
    for name in unusable_ids[1:]:
        probs = evaluated.probs[:, evaluated.ids.index(name)]
        np.testing.assert_allclose(probs, [[6 / 17, 6 / 17, 5 / 17]] * len(probs))  # the training tracks' classes
    submission, source_rows = read_rows(folder / "submission.csv"), read_rows(corpus / "test.csv")
    assert [row[0] for row in submission[1:]] == [row[0] for row in source_rows[1:]]
    assert dict(read_rows(folder / "submission-private.csv"))["private0.mp3"] in ("aria", "breakbeat")


def invalid_calls(corpus, folder):
    """(name, arguments, expected parts of standard error)"""
    run = ["--run", folder / "run", "--recipe", "demo"]
    labels = read_rows(corpus / "train.csv")
    few = write_list(folder / "few.csv", [*labels, ("test0.mp3", "polka")])
    twice = write_list(folder / "twice.csv", [*labels, labels[1]])
    missing = write_list(folder / "missing.csv", [*labels, ("missing0.mp3", "aria"), ("missing1.ogg", "waltz")])
    unlabelled = write_list(folder / "unlabelled.csv", [*labels, ("test0.mp3", "")])
    ragged = write_list(folder / "ragged.csv", [*labels, ("test0.mp3",)])
    (folder / "none").mkdir()
    data = ["--data", corpus]
    return [
        ("no labels", run, ["a new run needs --labels", "or --teacher"]),
        ("absent list", [*run, "--labels", folder / "nothing.csv"], ["nothing.csv: no such file or folder"]),
        (
            "missing files",
            [*run, *data, "--labels", missing],
            ["missing0.mp3: No such file", "missing1.ogg: No such file", "2 problems"],
        ),
        ("missing label", [*run, *data, "--labels", unlabelled], ["line 20: test0.mp3 has no label"]),
        ("ragged row", [*run, *data, "--labels", ragged], ["line 20: 1 fields instead of 2"]),
        ("few tracks", [*run, *data, "--labels", few], ["polka (1)", "small_classes=train"]),
        ("duplicate", [*run, *data, "--labels", twice], ["train0.mp3 is listed twice"]),
        ("empty folder", [*run, "--labels", folder / "none"], ["no audio files"]),
        (
            "bad key",
            [*run, *data, "--labels", corpus / "train.csv", "--set", "optim.lrr=1"],
            ["optim.lrr: there is no such setting"],
        ),
        (
            "bad recipe",
            [*run, "--recipe", "zalo2020", *data, "--labels", corpus / "train.csv"],
            ["recipe zalo2020: no such file"],
        ),
        ("bad device", [*run, "--device", "tpu"], ["--device tpu"]),
    ]


def test_invalid_input_is_rejected_before_a_run_is_created(corpus, tmp_path, monkeypatch, capsys):
    before = signal.getsignal(signal.SIGTERM)
    for name, arguments, expected in invalid_calls(corpus, tmp_path):
        monkeypatch.setattr(sys, "argv", ["train.py", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_info:  # in this process: a new one takes seconds to import torch
            runpy.run_path(str(ROOT / "train.py"), run_name="__main__")
        signal.signal(signal.SIGTERM, before)
        stderr = capsys.readouterr().err
        assert exit_info.value.code == 2, (name, stderr)
        for part in expected:
            assert part in stderr, (name, stderr)
        assert not (tmp_path / "run" / "recipe.toml").exists(), name


def test_scripts_reject_a_missing_run(corpus, tmp_path):
    for script in ("predict.py", "stack.py"):
        rejected = run_script(script, "--run", tmp_path / "nothing")
        assert rejected.returncode == 2
        assert "no run there" in rejected.stderr


def test_without_a_cache_a_killed_training_ends_with_the_same_weights(finished, corpus, tmp_path):
    uninterrupted, _ = finished
    folder = tmp_path / "interrupted"
    flags = [
        *override_flags(),
        "--set",
        "machine.save_minutes=0",
        "--set",
        "loader.pcm_cache=off",
        *source_flags(corpus),
    ]
    command = [sys.executable, "train.py", "--run", folder, "--recipe", "demo", *flags]
    start_s = 0.0
    for _ in range(2):
        process = subprocess.Popen(
            list(map(str, command)), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        started = time.monotonic()
        while not (folder / "recipe.toml").exists() and process.poll() is None:
            time.sleep(0.02)
        start_s = max(start_s, time.monotonic() - started)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(random.uniform(0.2, 1.5) * start_s)  # it may have ended
        process.kill()
        _, errors = process.communicate(timeout=60)
        assert process.returncode in (0, -signal.SIGKILL), errors
        assert "Traceback" not in errors
    resumed = run_script("train.py", "--run", folder)
    assert resumed.returncode == 0, resumed.stderr
    for job in ("resnet50/fold0", "inception_v3/fold0"):
        expected, weights = (
            classifier.load(root / "round1" / job / "best.safetensors").model.state_dict()
            for root in (uninterrupted, folder)
        )
        assert all((expected[key] == weights[key]).all() for key in expected)


def test_an_interrupted_training_saves_its_current_step(corpus, tmp_path):
    flags = [*override_flags(), *source_flags(corpus)]
    command = [sys.executable, "train.py", "--run", tmp_path / "run", "--recipe", "demo", *flags]
    process = subprocess.Popen(
        list(map(str, command)), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    for line in process.stdout:
        if "training 2 networks" in line:
            break
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command resumes from there" in errors
    saved = list((tmp_path / "run" / "round1").glob("*/fold0/last.pt"))
    progress = torch.load(saved[0], weights_only=True)["progress"]
    assert progress["step"] > 0 or progress["epoch"] > 0


@pytest.mark.parametrize("script", ["train.py", "predict.py", "stack.py"])
def test_help_has_examples_and_imports_no_torch(script):
    code = (
        f"import runpy, sys; sys.argv = ['{script}', '--help']\n"
        f"try: runpy.run_path('{script}', run_name='__main__')\n"
        "except SystemExit: assert 'torch' not in sys.modules"
    )
    process = run_script("-c", code)
    assert process.returncode == 0, process.stderr
    assert "example" in process.stdout
    assert "--run DIR" in process.stdout


def test_a_killed_prediction_resumes_to_the_same_result(finished, tmp_path):
    finished_folder, _ = finished
    folder = tmp_path / "run"
    shutil.copytree(finished_folder, folder)
    predictions_folder = folder / "round2" / "predictions"
    for path in (*predictions_folder.iterdir(), folder / "round2" / "stack" / "scores.json"):
        path.unlink()
    command = ["predict.py", "--run", folder, "--set", "loader.predict_batch_size=2"]

    def logged_bytes() -> int:
        return sum(path.stat().st_size for path in predictions_folder.glob("*.resume_log"))

    kills = 0
    for _ in range(2):
        process = subprocess.Popen([sys.executable, *map(str, command)], cwd=ROOT, stdout=subprocess.DEVNULL)
        kill_at_bytes = logged_bytes() + random.randint(1, 1500)
        while process.poll() is None and logged_bytes() < kill_at_bytes:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
    assert kills
    assert run_script(*command).returncode == 0
    assert len(list(predictions_folder.iterdir())) == 4  # no resume log
    uninterrupted = tmp_path / "uninterrupted"
    shutil.copytree(folder, uninterrupted)
    for path in (uninterrupted / "round2" / "predictions").iterdir():
        path.unlink()
    assert run_script("predict.py", "--run", uninterrupted, "--set", "loader.predict_batch_size=2").returncode == 0
    for path in predictions_folder.iterdir():
        resumed = predictions.load(path)
        expected = predictions.load(uninterrupted / "round2" / "predictions" / path.name)
        np.testing.assert_array_equal(resumed.probs, expected.probs)
