"""Lists predicted in parts by real networks: equality with the plain call, refusals, odd lists, tasks that meet."""

import csv
import os
import shutil
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from melgpu.commands import predict
from melgpu.errors import InputError
from melgpu.prediction.parts import part as part_module
from melgpu.prediction.parts.file_list import write_list
from melgpu.prediction.parts.part_log import PartLog
from melgpu.prediction.parts.previous import PreviousAnswers
from tests.helpers import write_audio

ON_CPU = ("--device", "cpu", "--set", "loader.workers=0")
SMALL_BATCHES = ("--set", "loader.predict_batch_size=4")  # a chunk is four files, of three windows each


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def call(trained_run, monkeypatch):
    """Calls predict.py on the trained run, in this process; returns the exit code."""
    for name in ("SLURM_ARRAY_TASK_ID", "JOB_COMPLETION_INDEX", "RANK"):
        monkeypatch.delenv(name, raising=False)

    def call(*flags, run=trained_run) -> int:
        monkeypatch.setattr(sys, "argv", ["predict.py", "--run", str(run), *map(str, flags), *ON_CPU])
        return predict.main()

    return call


@pytest.fixture
def merge(monkeypatch):
    def merge(folder: Path, out: Path) -> list[list[str]]:
        monkeypatch.setattr(sys, "argv", ["predict.py", "--merge", str(folder), "--out", str(out)])
        assert predict.main() == 0
        return read_csv(out) if out.suffix == ".csv" else []

    return merge


@pytest.fixture(scope="module")
def music(tmp_path_factory) -> list[str]:
    """Nine files that differ, one that is cut, one without audio, and one that is absent."""
    folder = tmp_path_factory.mktemp("music")
    paths = [write_audio(folder / f"{i}.{'ogg' if i % 2 else 'wav'}", 5 + 2 * i, seed=i) for i in range(9)]
    whole = write_audio(folder / "cut.flac", 30, seed=9).read_bytes()
    (folder / "cut.flac").write_bytes(whole[: len(whole) // 2])
    (folder / "text.ogg").write_text("no music")
    return [*map(str, paths[:5]), f"{folder}/cut.flac", f"{folder}/text.ogg", f"{folder}/no.mp3", *map(str, paths[5:])]


@pytest.fixture
def tracks(music, tmp_path) -> Path:
    write_list(tmp_path / "tracks.txt", music)
    return tmp_path / "tracks.txt"


def read_csv(path: Path) -> list[list[str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


@pytest.mark.parametrize("part_format", ["parquet", "csv"])
def test_parts_together_are_the_plain_call_to_the_bit(call, merge, music, tracks, tmp_path, part_format):
    parquet = pytest.importorskip("pyarrow.parquet")
    assert call(*music, "--out", tmp_path / "plain.csv") == 2
    assert call(*music, "--out", tmp_path / "plain.parquet") == 2
    expected = parquet.read_table(tmp_path / "plain.parquet")
    assert np.ptp(expected["confidence"].to_numpy()[~np.isnan(expected["confidence"].to_numpy())]) > 0.01
    for count in (1, 3, 8) if part_format == "parquet" else (8,):
        folder = tmp_path / f"parts{count}"
        for index in reversed(range(count)):
            assert call("--list", tracks, "--part", f"{index}/{count}", "--out", folder, "--format", part_format) == 0
        merge(folder, tmp_path / f"{count}.csv")
        assert (tmp_path / f"{count}.csv").read_bytes() == (tmp_path / "plain.csv").read_bytes()
        if part_format == "parquet":
            merge(folder, tmp_path / f"{count}.parquet")
            assert parquet.read_table(tmp_path / f"{count}.parquet").equals(expected)
        names = sorted(path.name for path in folder.iterdir())
        assert names == [*(f"part-{index:05d}.{part_format}" for index in range(count)), "parts.json"]


def test_a_finished_part_is_skipped_and_an_unfinished_one_resumed(
    call, merge, music, tracks, tmp_path, capsys, monkeypatch
):
    folder = tmp_path / "parts"
    call(*music, "--out", tmp_path / "plain.csv")
    flags = ["--list", tracks, "--part", "0/1", "--out", folder, *SMALL_BATCHES]
    monkeypatch.setattr(part_module, "CHUNK_FILES", 1)
    calls = []
    predict_chunk = part_module._predict

    def stop_after_two(*arguments):
        calls.append(arguments[2])
        if len(calls) == 3:
            raise KeyboardInterrupt
        return predict_chunk(*arguments)

    monkeypatch.setattr(part_module, "_predict", stop_after_two)
    with pytest.raises(KeyboardInterrupt):
        call(*flags)
    assert not (folder / "part-00000.parquet").exists()
    assert call(*flags) == 0
    assert [len(paths) for paths in calls] == [4, 4, 4, 4]
    assert calls[2] == calls[3]
    rows = zip(merge(folder, tmp_path / "all.csv"), read_csv(tmp_path / "plain.csv"), strict=True)
    for actual, expected in rows:
        assert actual[:2] + actual[-4:] == expected[:2] + expected[-4:]
        if expected[1] not in ("label", ""):
            np.testing.assert_allclose(np.array(actual[2:6], float), np.array(expected[2:6], float), atol=1e-5)
    before = (folder / "part-00000.parquet").stat()
    capsys.readouterr()
    monkeypatch.setattr(part_module, "load_ensemble", lambda run: 1 / 0)
    assert call(*flags) == 0
    assert f"part 0 of 1 is finished: {folder}/part-00000.parquet" in capsys.readouterr().out
    assert (folder / "part-00000.parquet").stat() == before


def test_the_index_of_a_scheduler_is_said(call, tracks, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "2")
    monkeypatch.setenv("LOCAL_RANK", "0")  # no process group is joined
    assert call("--list", tracks, "--parts", 12, "--out", tmp_path / "parts") == 0
    assert "part 2 of 12, from JOB_COMPLETION_INDEX" in capsys.readouterr().out.splitlines()
    assert call("--list", tracks, "--out", tmp_path / "parts") == 0  # the number is that of the folder
    with pytest.raises(InputError, match=r"part 2 of 3, from --part: .*parts\.json has 12 parts"):
        call("--list", tracks, "--part", "2/3", "--out", tmp_path / "parts")


def test_odd_lists_have_a_row_for_each_line(call, merge, music, tmp_path):
    pytest.importorskip("fsspec")
    name = f'{tmp_path}/line\nbreak, "a".wav'
    shutil.copy(music[0], name)
    lines = [music[1], name, music[1], music[-1], f"file://{music[0]}", name, music[1]]
    write_list(tmp_path / "tracks.csv", lines)
    for index in range(2):
        assert call("--list", tmp_path / "tracks.csv", "--part", f"{index}/2", "--out", tmp_path / "parts") == 0
    _, *rows = merge(tmp_path / "parts", tmp_path / "all.csv")
    assert [row[0] for row in rows] == lines
    answers = [row[1:6] for row in rows]
    assert answers[0] == answers[2] == answers[6]
    assert answers[1] == answers[4] == answers[5]  # the URL is of the same file
    assert len({tuple(answer) for answer in answers}) == 3
    assert rows[4][-2:] == ["", ""]
    assert all(row[-1] for row in rows[:4])


def test_more_parts_than_rows_and_a_part_without_any(call, merge, music, tmp_path):
    write_list(tmp_path / "tracks.txt", music[:2])
    for index in range(3):
        assert call("--list", tmp_path / "tracks.txt", "--part", f"{index}/3", "--out", tmp_path / "parts") == 0
    assert [row[0] for row in merge(tmp_path / "parts", tmp_path / "all.csv")] == ["path", *music[:2]]


def test_another_list_or_run_is_refused(call, music, tracks, trained_run, tmp_path):
    folder = tmp_path / "parts"
    assert call("--list", tracks, "--part", "0/8", "--out", folder) == 0
    write_list(tmp_path / "others.txt", music[:3])
    with pytest.raises(InputError, match=r"parts has parts of another list \(.*tracks\.txt, 12 rows\)"):
        call("--list", tmp_path / "others.txt", "--part", "0/8", "--out", folder)
    shutil.copytree(trained_run, tmp_path / "run")
    assert call("--list", tracks, "--part", "0/8", "--out", folder, run=tmp_path / "run") == 0  # a copy is the same
    next((tmp_path / "run").rglob("stack/*.safetensors")).write_bytes(b"another")
    with pytest.raises(InputError, match="has parts by another run, or by networks that have changed since"):
        call("--list", tracks, "--part", "0/8", "--out", folder, run=tmp_path / "run")
    with pytest.raises(InputError, match="has parts with --min-confidence 0"):
        call("--list", tracks, "--part", "0/8", "--out", folder, "--min-confidence", "0.9")


def test_a_part_of_files_that_are_all_absent_is_refused(call, tmp_path, monkeypatch):
    write_list(tmp_path / "tracks.txt", [f"/not mounted/{i}.mp3" for i in range(part_module.MIN_ABSENT_FILES)])
    with pytest.raises(
        InputError, match=r"none of 20 files of .* is here, as /not mounted/0\.mp3: is their folder mounted"
    ):
        call("--list", tmp_path / "tracks.txt", "--part", "0/1", "--out", tmp_path / "parts")
    assert not (tmp_path / "parts" / "part-00000.parquet").exists()


def test_a_second_task_of_a_part_waits_and_leaves_what_is_finished(call, tracks, tmp_path, capsys, monkeypatch):
    folder = tmp_path / "parts"
    assert call("--list", tracks, "--part", "0/8", "--out", folder) == 0
    finished = folder / "part-00000.parquet"
    other = finished.rename(tmp_path / "finished")
    capsys.readouterr()
    with PartLog(folder / ".part-00000.log", {"of": "the first task"}):
        second = threading.Thread(target=call, args=("--list", tracks, "--part", "0/8", "--out", folder))
        second.start()
        output = ""
        while "part 0 of 8: another process predicts it; waiting for it" not in output:
            time.sleep(0.02)
            output += capsys.readouterr().out
        assert second.is_alive()
        other.rename(finished)  # the first task is finished
    second.join()
    assert "part 0 of 8 is finished" in output + capsys.readouterr().out


def test_only_new_and_changed_files_are_predicted(call, merge, music, tmp_path, capsys, monkeypatch):
    pytest.importorskip("pyarrow")
    copies = [shutil.copy2(path, tmp_path) for path in music if os.path.exists(path)]
    old, new = tmp_path / "old.txt", tmp_path / "new.txt"
    write_list(old, copies[:-2])
    for index in range(2):
        assert call("--list", old, "--part", f"{index}/2", "--out", tmp_path / "old") == 0
    merge(tmp_path / "old", tmp_path / "old.parquet")
    shutil.copy2(music[-1], copies[0])  # changed
    write_list(new, [copies[-1], *copies[:-1]])
    predicted = []
    predict_chunk = part_module._predict
    monkeypatch.setattr(part_module, "_predict", lambda *a: (predicted.extend(a[2]), predict_chunk(*a))[1])
    capsys.readouterr()
    for index in range(3):
        flags = ["--list", new, "--part", f"{index}/3", "--previous", tmp_path / "old.parquet"]
        assert call(*flags, "--out", tmp_path / "new") == 0
    unusable = next(path for path in copies if path.endswith("text.ogg"))
    assert sorted(predicted) == sorted([copies[-1], copies[0], unusable, copies[-2]])
    assert f"answers copied from {tmp_path}/old.parquet" in capsys.readouterr().out
    with_previous = merge(tmp_path / "new", tmp_path / "new.csv")
    assert call("--list", new, "--part", "0/1", "--out", tmp_path / "whole") == 0
    assert with_previous == merge(tmp_path / "whole", tmp_path / "whole.csv")


def test_a_table_of_another_run_is_no_previous_one(call, tracks, music, trained_run, tmp_path):
    pytest.importorskip("pyarrow")
    call(*music, "--out", tmp_path / "plain.parquet")
    shutil.copytree(trained_run, tmp_path / "run")
    next((tmp_path / "run").rglob("stack/*.safetensors")).write_bytes(b"another")
    flags = ["--list", tracks, "--part", "0/1", "--out", tmp_path / "parts", "--previous"]
    with pytest.raises(
        InputError, match=r"plain\.parquet: made by another run, or by networks that have changed since"
    ):
        call(*flags, tmp_path / "plain.parquet", run=tmp_path / "run")
    call(*music, "--out", tmp_path / "plain.csv")
    for name, reason in (("plain.csv", "not a .parquet"), ("none.parquet", "no such file")):
        with pytest.raises(InputError, match=reason):
            call(*flags, tmp_path / name)
    assert call(*flags, tmp_path / "plain.parquet") == 0  # of the plain call


def test_previous_answers_are_those_of_the_wanted_paths(tmp_path, music, call):
    pytest.importorskip("pyarrow")
    call(*music, "--out", tmp_path / "plain.parquet")
    classes = ["aria", "breakbeat", "waltz"]
    with PreviousAnswers(tmp_path / "plain.parquet", classes, iter(music[:2]), 2) as previous:
        found = [previous.find(path, part_module.file_status(path)) is not None for path in music]
    assert found == [True, True] + [False] * (len(music) - 2)


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--list", "l.txt"], "--list needs --out"),
        (["--list", "l.txt", "--out", "d", "song.mp3"], "--list goes without music files"),
        (["--list", "l.txt", "--out", "d", "--timeline", "when"], "--list goes without --timeline"),
        (["--merge", "d"], "--merge needs --out"),
        (["--merge", "d", "--out", "o.parquet", "--part", "0/1"], "--merge goes without --part"),
        (["--write-list", "l.txt"], "--write-list needs --list"),
        (["--write-list", "l.txt", "--list", "d", "--out", "x"], "--write-list goes without --out"),
        (["song.mp3", "--part", "0/1"], "--part needs --list"),
        (["song.mp3", "--gpus", "all"], "--gpus needs --out"),
        (["--merge", "d", "--out", "o.txt"], "o.txt: give it the suffix of a format"),
    ],
)
def test_flags_that_do_not_go_together(call, flags, reason):
    with pytest.raises(InputError, match=reason):
        call(*flags)


def test_a_call_without_a_run_is_refused(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["predict.py", "song.mp3"])
    with pytest.raises(InputError, match="--run DIR is needed"):
        predict.main()
