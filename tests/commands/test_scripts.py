"""The three scripts as a user calls them: the whole recipe made small, interruptions, bad input."""

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

from melgpu.models import checkpoint, classifier
from melgpu.runs import predictions
from melgpu.stacking import evaluation
from tests.helpers import ROOT, SMALL, call, write_audio, write_list


def sets() -> list[str]:
    return [part for override in SMALL for part in ("--set", override)]


def rows_of(path) -> list[list[str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def lists(corpus) -> list[str]:
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
    """A run taken through both rounds, and what each call printed."""
    folder = tmp_path_factory.mktemp("runs") / "small"
    calls = [call("train.py", "--run", folder, "--recipe", "demo", *sets(), *lists(corpus))]
    for script in ("predict.py", "stack.py", "train.py", "predict.py", "stack.py"):
        calls.append(call(script, "--run", folder))
    for one in calls:
        assert one.returncode == 0, one.stderr + one.stdout
        assert "Traceback" not in one.stderr
    return folder, [one.stdout for one in calls]


def test_each_script_says_what_comes_next(finished):
    folder, printed = finished
    for text, following in zip(printed, ["predict.py", "stack.py", "train.py", "predict.py", "stack.py"], strict=False):
        assert f"Next: python {following} --run {folder}" in text
    assert f"Submission: {folder / 'submission.csv'}" in printed[-1]
    assert f"python predict.py --run {folder} song.mp3" in printed[-1]
    assert f"Report: {folder / 'report.html'}" in printed[-1]
    assert "</html>" in (folder / "report.html").read_text()
    assert all(name in printed[-1] for name in ("inception_v3", "resnet50", "mean", "skip_cnn", "lightgbm", "blend"))


def test_submissions_have_every_test_track_in_order(finished, corpus):
    folder, _ = finished
    for split, name in (("test", "submission.csv"), ("private", "submission-private.csv")):
        rows = rows_of(folder / name)
        listed = rows_of(corpus / f"{split}.csv")[1:]
        assert rows[0] == ["Id", "Genre"]
        assert [row[0] for row in rows[1:]] == [row[0] for row in listed]
        assert {row[1] for row in rows[1:]} <= {"aria", "breakbeat", "waltz"}


def test_checkpoints_and_predictions_say_what_made_them(finished):
    folder, _ = finished
    path = folder / "round2" / "resnet50" / "fold1" / "best.safetensors"
    _, about = classifier.load(path)
    assert (about["round"], about["fold"], about["class_names"]) == (2, 1, ["aria", "breakbeat", "waltz"])
    assert about["recipe"]["mel"]["image_size"] == 75
    assert about["environment"].keys() >= {"python", "device", "packages", "git_commit"}
    assert about["scores"].keys() >= {"epoch", "loss", "window_accuracy"}
    assert about["parity"]["max_db"] < 0.05
    assert not (path.parent / "last.safetensors").exists()
    made = predictions.load(folder / "round2" / "predictions" / "resnet50-fold1.npz")
    assert made.provenance["checkpoint"] == checkpoint.digest(path)
    assert made.splits.count("valid") == 6
    assert len(made.probs) == 27 * 3
    assert made.provenance["pseudo_digest"] not in ("none", "")
    scores = json.loads((folder / "round2" / "stack" / "scores.json").read_text())
    assert json.loads(json.dumps(evaluation.load(folder / "round2" / "stack" / "evaluation.npz").scores())) == scores
    pseudo = rows_of(folder / "round1" / "pseudo.csv")
    assert pseudo[0] == ["id", "label", "probability", "votes", "round", "recipe"]


def test_finished_rounds_are_left_alone(finished):
    folder, _ = finished
    kept = [path for path in folder.rglob("*") if path.is_file() and path.name != "report.html"]
    before = {path: path.stat().st_mtime_ns for path in kept}
    for script in ("train.py", "predict.py", "stack.py"):
        again = call(script, "--run", folder)
        assert again.returncode == 0
    assert "blend" in again.stdout
    assert {path: path.stat().st_mtime_ns for path in kept} == before


def test_a_run_takes_other_ways_to_work_from_a_recipe_and_no_other_results(finished, tmp_path):
    folder, _ = finished
    (tmp_path / "tuned.toml").write_text('[machine]\nchannels_last = true\ntuned_on = "a Cray-1"\n')
    named = ["--recipe", "demo", *sets(), "--recipe", tmp_path / "tuned.toml"]
    done = call("train.py", "--run", folder, *named)
    assert done.returncode == 0, done.stderr
    (tmp_path / "tuned.toml").write_text("[optim]\nlr = 0.5\n")
    refused = call("train.py", "--run", folder, *named)
    assert refused.returncode == 2
    assert "optim.lr: 0.001, now 0.5" in refused.stderr


def test_a_round_without_pseudo_labels_is_trained_beside_the_other(finished):
    folder, _ = finished
    before = {path: path.stat().st_mtime_ns for path in (folder / "round2").rglob("*") if path.is_file()}
    for script in ("train.py", "predict.py", "stack.py"):
        done = call(script, "--run", folder, "--without-pseudo")
        assert done.returncode == 0, done.stderr
    assert "Round 2 without pseudo labels" in done.stdout
    assert "Submission" not in done.stdout
    made = folder / "round2-without-pseudo"
    assert predictions.load(made / "predictions" / "resnet50-fold1.npz").provenance["pseudo_digest"] == "none"
    assert (made / "stack" / "evaluation.npz").exists()
    assert {path: path.stat().st_mtime_ns for path in (folder / "round2").rglob("*") if path.is_file()} == before
    one, other = (checkpoint.load(root / "resnet50/fold1/best.safetensors")[0] for root in (made, folder / "round2"))
    assert any((one[key] != other[key]).any() for key in one)
    assert len(rows_of(folder / "round1" / "pseudo.csv")) > 1  # so there was something to leave out


def test_new_music_gets_three_classes_and_all_probabilities(finished, corpus, tmp_path):
    folder, _ = finished
    (tmp_path / "album").mkdir()
    for number, name in enumerate(("short.mp3", "nhạc số 1.ogg", "long.flac")):
        write_audio(tmp_path / "album" / name, 1 + 15 * number, 44_100, 2)
    song = shutil.copy(corpus / "audio" / "private0.mp3", tmp_path)
    answer = call(
        "predict.py", "--run", folder, song, tmp_path / "album", "--out", tmp_path / "o.csv", env={"COLUMNS": "300"}
    )
    assert answer.returncode == 0, answer.stderr
    rows = rows_of(tmp_path / "o.csv")
    assert rows[0] == ["file", "aria", "breakbeat", "waltz", "error"]
    assert [os.path.basename(row[0]) for row in rows[1:]] == ["private0.mp3", "long.flac", "nhạc số 1.ogg", "short.mp3"]
    probs = np.array([row[1:-1] for row in rows[1:]], float)
    np.testing.assert_allclose(probs.sum(1), 1, atol=1e-5)
    assert "nhạc số 1.ogg" in answer.stdout
    assert "4 networks listen to 4 files" in answer.stdout


def test_new_music_that_was_a_test_track_gets_the_same_answer(finished, corpus, tmp_path):
    folder, _ = finished
    answers = dict(rows_of(folder / "submission-private.csv")[1:])
    tuned = ["machine.channels_last=false", "machine.feature_batch=2", "loader.predict_batch_size=5"]  # speed only
    more = [part for setting in (*tuned, "machine.tuned_on='a GPU'") for part in ("--set", setting)]
    told = call("predict.py", "--run", folder, corpus / "audio" / "private0.mp3", "--out", tmp_path / "o.csv", *more)
    assert "machine settings were tuned on a GPU" in told.stdout.replace("\n", " ")
    header, row = rows_of(tmp_path / "o.csv")
    assert header[1 + int(np.argmax([float(p) for p in row[1:-1]]))] == answers["private0.mp3"]


def test_unreadable_music_is_named_and_the_rest_answered(finished, corpus, tmp_path):
    folder, _ = finished
    (tmp_path / "broken.mp3").write_text("no music")
    out = tmp_path / "o.csv"
    answer = call("predict.py", "--run", folder, tmp_path, corpus / "audio" / "test0.mp3", "--out", out)
    assert answer.returncode == 2
    assert "broken.mp3: not readable as audio" in answer.stdout
    broken, well = rows_of(out)[1:]
    assert broken[1:-1] == [""] * 3
    assert broken[-1].startswith("not readable as audio")
    assert well[-1] == ""
    for given, reason in ((tmp_path / "broken.mp3", "not readable"), (tmp_path / "absent", "No such file")):
        refused = call("predict.py", "--run", folder, given)
        assert refused.returncode == 2
        assert reason in refused.stderr
        assert "Traceback" not in refused.stderr


def test_a_timeline_says_what_is_heard_when(finished, tmp_path):
    folder, _ = finished
    (tmp_path / "album").mkdir()
    write_audio(tmp_path / "album" / "song.mp3", 40, 44_100, 2)
    whole = write_audio(tmp_path / "album" / "song.flac", 30).read_bytes()
    (tmp_path / "album" / "song.flac").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "album" / "text.ogg").write_text("no music")
    told = call("predict.py", "--run", folder, tmp_path / "album", "--timeline", tmp_path / "when")
    assert told.returncode == 2, told.stderr
    assert f"song.mp3: {tmp_path / 'when' / 'song.mp3'}.csv and .png" in told.stdout
    assert "song.flac: broken after 14." in told.stdout
    assert "text.ogg: not readable as audio" in told.stdout
    made = ["song.flac.csv", "song.flac.png", "song.mp3.csv", "song.mp3.png"]
    assert sorted(os.listdir(tmp_path / "when")) == made
    header, *rows = rows_of(tmp_path / "when" / "song.mp3.csv")
    assert header == ["start_s", "end_s", "aria", "breakbeat", "waltz"]
    table = np.array(rows, float)
    assert table[:-1, 0].tolist() == [0, 6, 12, 18, 24, 30]
    assert table[-1, 1] == pytest.approx(40, abs=0.1)
    np.testing.assert_allclose(table[:, 2:].sum(1), 1, atol=1e-5)
    assert rows_of(tmp_path / "when" / "song.flac.csv")[-1][1].startswith("14.")
    refused = call("predict.py", "--run", folder, tmp_path / "album" / "text.ogg", "--timeline", tmp_path / "no")
    assert refused.returncode == 2
    assert "text.ogg: not readable" in refused.stderr
    for wrong in (["--timeline", tmp_path], ["x.mp3", "--timeline", tmp_path, "--out", tmp_path / "o.csv"]):
        assert "--timeline needs music files" in call("predict.py", "--run", folder, *wrong).stderr


def test_a_run_without_test_sets_reaches_new_music(corpus, tmp_path):
    folder = tmp_path / "run"
    rounds = "rounds=[{backbones=['inception_v3', 'resnet50'], folds=[0], blend={cnn=0.9, lightgbm=0.1}}]"
    more = ["--set", rounds, "--set", "machine.tuned_on='a GPU'"]
    calls = [call("train.py", "--run", folder, "--recipe", "demo", *sets(), *more, *lists(corpus)[:4])]
    assert "machine settings were tuned on a GPU" in calls[0].stdout.replace("\n", " ")
    calls += [call(script, "--run", folder) for script in ("predict.py", "stack.py")]
    calls.append(call("predict.py", "--run", folder, "--set", "loader.workers=0", corpus / "audio" / "test0.mp3"))
    for one in calls:
        assert one.returncode == 0, one.stderr + one.stdout
    assert "test0.mp3" in calls[-1].stdout
    assert not (folder / "submission.csv").exists()
    assert "Submission" not in calls[-2].stdout


def test_broken_files_go_into_quarantine_and_no_test_track_is_lost(corpus, tmp_path):
    data, folder = tmp_path / "data", tmp_path / "run"
    shutil.copytree(corpus, data)
    for name in ("train5.flac", "test1.ogg"):
        (data / "audio" / name).write_text("no music")
    rounds = "rounds=[{backbones=['inception_v3', 'resnet50'], folds=[0], blend={cnn=0.9, lightgbm=0.1}}]"
    safe = ["--set", "loader.on_error=quarantine", "--set", "loader.max_error_fraction=0.2"]
    calls = [call("train.py", "--run", folder, "--recipe", "demo", *sets(), "--set", rounds, *safe, *lists(data))]
    (data / "audio" / "private0.mp3").unlink()  # broken only after the check; not so in the bank, which is deleted
    shutil.rmtree(folder / "pcm_cache")
    calls += [call(script, "--run", folder) for script in ("predict.py", "stack.py")]
    for one in calls:
        assert one.returncode == 0, one.stderr + one.stdout
    recorded = {os.path.basename(row[0]): row[1] for row in rows_of(folder / "quarantine.csv")[1:]}
    assert sorted(recorded) == ["private0.mp3", "test1.ogg", "train5.flac"]
    assert "3 broken files in quarantine" in calls[-1].stdout
    made = predictions.load(folder / "round1" / "predictions" / "resnet50-fold0.npz")
    assert [made.ids[row] for row in np.flatnonzero(made.unusable)] == ["train5.flac", "test1.ogg", "private0.mp3"]
    np.testing.assert_allclose(made.track_probs[made.unusable], [[6 / 17, 6 / 17, 5 / 17]] * 3, atol=1e-6)
    answered, listed = rows_of(folder / "submission.csv"), rows_of(corpus / "test.csv")
    assert [row[0] for row in answered[1:]] == [row[0] for row in listed[1:]]
    assert dict(rows_of(folder / "submission-private.csv"))["private0.mp3"] in ("aria", "breakbeat")


def bad_calls(corpus, folder):
    """(name, arguments, what standard error must say)"""
    run = ["--run", folder / "run", "--recipe", "demo"]
    labels = rows_of(corpus / "train.csv")
    few = write_list(folder / "few.csv", [*labels, ("test0.mp3", "polka")])
    twice = write_list(folder / "twice.csv", [*labels, labels[1]])
    missing = write_list(folder / "missing.csv", [*labels, ("gone.mp3", "aria"), ("away.ogg", "waltz")])
    unlabelled = write_list(folder / "unlabelled.csv", [*labels, ("test0.mp3", "")])
    ragged = write_list(folder / "ragged.csv", [*labels, ("test0.mp3",)])
    (folder / "none").mkdir()
    data = ["--data", corpus]
    return [
        ("no labels", run, ["a new run needs --labels"]),
        ("absent list", [*run, "--labels", folder / "nothing.csv"], ["nothing.csv: no such file or folder"]),
        (
            "missing files",
            [*run, *data, "--labels", missing],
            ["gone.mp3: No such file", "away.ogg: No such file", "2 problems"],
        ),
        ("missing label", [*run, *data, "--labels", unlabelled], ["line 20: test0.mp3 has no label"]),
        ("ragged row", [*run, *data, "--labels", ragged], ["line 20: 1 fields instead of 2"]),
        ("few tracks", [*run, *data, "--labels", few], ["class 'polka' has 1 training tracks, fewer than 5 folds"]),
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


def test_bad_input_is_explained_before_anything_is_made(corpus, tmp_path, monkeypatch, capsys):
    before = signal.getsignal(signal.SIGTERM)
    for name, arguments, expected in bad_calls(corpus, tmp_path):
        monkeypatch.setattr(sys, "argv", ["train.py", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:  # in this process: a new one takes seconds to import torch
            runpy.run_path(str(ROOT / "train.py"), run_name="__main__")
        signal.signal(signal.SIGTERM, before)
        said = capsys.readouterr().err
        assert ended.value.code == 2, (name, said)
        for part in expected:
            assert part in said, (name, said)
        assert not (tmp_path / "run" / "recipe.toml").exists(), name


def test_scripts_out_of_turn_say_what_to_do(corpus, tmp_path):
    for script in ("predict.py", "stack.py"):
        refused = call(script, "--run", tmp_path / "nothing")
        assert refused.returncode == 2
        assert "no run there" in refused.stderr


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_training_interrupted_at_random_moments_ends_with_the_same_weights(finished, corpus, tmp_path, number):
    whole, _ = finished
    folder = tmp_path / "cut"
    more = ["--set", "machine.save_every=1"]
    command = [sys.executable, "train.py", "--run", folder, "--recipe", "demo", *sets(), *more, *lists(corpus)]
    start_s = 0.0
    for _ in range(3):
        process = subprocess.Popen(
            list(map(str, command)), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        begun = time.monotonic()
        while not (folder / "recipe.toml").exists() and process.poll() is None:
            time.sleep(0.02)
        start_s = max(start_s, time.monotonic() - begun)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(random.uniform(0.2, 1.5) * start_s)  # it may well have ended
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
        assert process.returncode in (0, 130, -number), errors
        assert "Traceback" not in errors
    again = call("train.py", "--run", folder)
    assert again.returncode == 0, again.stderr
    for job in ("resnet50/fold0", "inception_v3/fold0"):
        one, other = (checkpoint.load(root / "round1" / job / "best.safetensors")[0] for root in (whole, folder))
        assert all((one[key] == other[key]).all() for key in one)


def test_asked_to_stop_a_training_keeps_its_very_step(corpus, tmp_path):
    command = [sys.executable, "train.py", "--run", tmp_path / "run", "--recipe", "demo", *sets(), *lists(corpus)]
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
    assert "the same command goes on from there" in errors
    kept = list((tmp_path / "run" / "round1").glob("*/fold0/last.safetensors"))
    _, about = checkpoint.load(kept[0])
    assert about["training"]["progress"]["step"] > 0 or about["training"]["progress"]["epoch"] > 0


@pytest.mark.parametrize("script", ["train.py", "predict.py", "stack.py"])
def test_help_teaches_and_needs_no_torch(script):
    code = (
        f"import runpy, sys; sys.argv = ['{script}', '--help']\n"
        f"try: runpy.run_path('{script}', run_name='__main__')\n"
        "except SystemExit: assert 'torch' not in sys.modules"
    )
    shown = call("-c", code)
    assert shown.returncode == 0, shown.stderr
    assert "example" in shown.stdout
    assert "--run DIR" in shown.stdout


def test_a_killed_prediction_goes_on_to_the_same_answers(finished, tmp_path):
    whole, _ = finished
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    made = folder / "round2" / "predictions"
    for path in (*made.iterdir(), folder / "round2" / "stack" / "scores.json"):
        path.unlink()
    command = ["predict.py", "--run", folder, "--set", "loader.predict_batch_size=2"]

    def kept() -> int:
        return sum(path.stat().st_size for path in made.glob("*.journal"))

    kills = 0
    for _ in range(3):
        process = subprocess.Popen([sys.executable, *map(str, command)], cwd=ROOT, stdout=subprocess.DEVNULL)
        enough = kept() + random.randint(1, 1500)
        while process.poll() is None and kept() < enough:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
    assert kills
    assert call(*command).returncode == 0
    assert len(list(made.iterdir())) == 4  # no journal
    again = tmp_path / "again"
    shutil.copytree(folder, again)
    for path in (again / "round2" / "predictions").iterdir():
        path.unlink()
    assert call("predict.py", "--run", again, "--set", "loader.predict_batch_size=2").returncode == 0
    for path in made.iterdir():
        one, other = predictions.load(path), predictions.load(again / "round2" / "predictions" / path.name)
        np.testing.assert_array_equal(one.probs, other.probs)
