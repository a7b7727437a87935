import http.server
import shutil
import threading
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from melgpu.audio import quarantine
from melgpu.audio.quarantine import AudioError
from melgpu.data import manifest, manifest_builder
from melgpu.data.lists.sources import read_source
from melgpu.data.manifest import Split
from melgpu.errors import InputError
from melgpu.runs import relocation
from melgpu.runs.folder import create_run, open_run
from melgpu.runs.run import Run
from tests.helpers.runs import touch

CPU = torch.device("cpu")


@pytest.fixture
def music_run(tmp_path, small_recipe) -> Run:
    """A run of twelve training tracks below old/audio and of two test tracks, one of them absent."""
    names = [f"{i}.wav" for i in range(12)] + ["test é.wav"]
    for i, name in enumerate(names):
        touch(tmp_path / "old" / "audio", name)
        (tmp_path / "old" / "audio" / name).write_bytes(b"%d" % i * (i + 1))
    (tmp_path / "train.csv").write_text("".join(f"{name},{'ab'[i % 2]}\n" for i, name in enumerate(names[:12])))
    (tmp_path / "test.csv").write_text("test é.wav\nabsent.wav\n", encoding="utf-8")
    data = str(tmp_path / "old")
    source_lists = {
        Split.TRAIN: read_source(tmp_path / "train.csv", data, labelled=True),
        Split.PUBLIC: read_source(tmp_path / "test.csv", data, labelled=False),
    }
    tracks = manifest_builder.build(source_lists, small_recipe.folds.num_folds, 8)
    run = create_run(tmp_path / "run", small_recipe, manifest.with_contents(tracks), CPU)
    quarantine.record_errors(run.paths.quarantine, [AudioError(tracks.paths[3], "cut off", 1.5)])
    return run


def test_a_run_finds_its_moved_music_and_stays_the_same_run(music_run, tmp_path, capsys):
    shutil.move(tmp_path / "old", tmp_path / "new")
    moved = relocation.move_to(music_run, str(tmp_path / "new"))
    assert open_run(music_run.folder).manifest == music_run.manifest  # nothing is written yet
    relocation.save(music_run, moved)
    opened = open_run(music_run.folder)
    tracks, before = opened.manifest, music_run.manifest
    assert (tracks.ids, tracks.labels, tracks.splits, tracks.contents) == (
        before.ids,
        before.labels,
        before.splits,
        before.contents,
    )
    assert (tracks.folds == before.folds).all()
    assert opened.recipe == music_run.recipe
    assert tracks.paths[:13] == tuple(path.replace("/old/", "/new/") for path in before.paths[:13])
    assert tracks.paths[13] == before.paths[13]
    assert [error.path for error in quarantine.load_errors(opened.paths.quarantine)] == [tracks.paths[3]]
    assert "13 of its files have a new place, 1 stay where they are" in capsys.readouterr().out
    assert relocation.move_to(opened, str(tmp_path / "new")) is opened
    assert "are in" in capsys.readouterr().out


def test_other_files_are_refused_with_the_difference(music_run, tmp_path):
    shutil.copytree(tmp_path / "old", tmp_path / "new")
    (tmp_path / "new" / "audio" / "2.wav").write_bytes(b"222222")
    (tmp_path / "new" / "audio" / "5.wav").write_bytes(b"666666")
    with pytest.raises(InputError) as caught:
        relocation.move_to(music_run, str(tmp_path / "new"))
    path = tmp_path / "new" / "audio"
    assert caught.value.problems == [
        f"2.wav: {path}/2.wav is not the file that the run was made of (6 bytes instead of 3)",
        f"5.wav: {path}/5.wav is not the file that the run was made of (another beginning)",
    ]


def test_a_file_that_is_nowhere_is_a_problem_and_one_that_stays_is_none(music_run, tmp_path):
    shutil.copytree(tmp_path / "old", tmp_path / "new")
    (tmp_path / "new" / "audio" / "2.wav").unlink()
    moved = relocation.move_to(music_run, str(tmp_path / "new"))
    assert moved.manifest.paths[2] == music_run.manifest.paths[2]
    (tmp_path / "old" / "audio" / "2.wav").unlink()
    with pytest.raises(InputError) as caught:
        relocation.move_to(music_run, str(tmp_path / "new"))
    assert caught.value.problems == [f"2.wav: neither in {tmp_path}/new nor at {music_run.manifest.paths[2]}"]
    with pytest.raises(InputError, match=r"--data .*/nowhere: no such folder"):
        relocation.move_to(music_run, str(tmp_path / "nowhere"))


def test_names_of_another_unicode_form_and_absolute_names_are_found(music_run, tmp_path, small_recipe):
    shutil.move(tmp_path / "old" / "audio", tmp_path / "new")
    (tmp_path / "new" / "test é.wav").rename(tmp_path / "new" / "test e\u0301.wav")
    moved = relocation.move_to(music_run, str(tmp_path / "new"))
    assert moved.manifest.paths[12] == str(tmp_path / "new" / "test e\u0301.wav")
    touch(tmp_path, *(f"here/deep/{i}.wav" for i in range(6)))
    (tmp_path / "absolute.csv").write_text("".join(f"{tmp_path}/here/deep/{i}.wav,{'ab'[i % 2]}\n" for i in range(6)))
    train = read_source(tmp_path / "absolute.csv", None, labelled=True)
    tracks = manifest.with_contents(manifest_builder.build({Split.TRAIN: train}, 3, 8))
    run = create_run(tmp_path / "second", small_recipe, tracks, CPU)
    shutil.move(tmp_path / "here", tmp_path / "there")
    moved = relocation.move_to(run, str(tmp_path / "there"))
    assert moved.manifest.paths == tuple(f"{tmp_path}/there/deep/{i}.wav" for i in range(6))
    assert moved.manifest.ids == tracks.ids


def test_runs_without_contents_are_moved_with_a_note(made, tmp_path, capsys):
    files = [*(f"{i}.wav" for i in range(12)), "x.wav", "y.wav"]
    for name in files:
        touch(tmp_path / "new", name)
        (tmp_path / name).unlink()
    moved = relocation.move_to(made, str(tmp_path / "new"))
    assert [Path(path).parent.name for path in moved.manifest.paths] == ["new"] * 14
    assert "14 could not be compared" in capsys.readouterr().out


def test_files_that_lists_find_elsewhere_are_moved_unless_they_are_others(music_run, tmp_path):
    paths = [path.replace("/old/", "/new/") for path in music_run.manifest.paths]
    assert relocation.move_to_listed(music_run, paths) is music_run  # nothing is there
    shutil.copytree(tmp_path / "old", tmp_path / "new")
    moved = relocation.move_to_listed(music_run, paths)
    assert moved.manifest.paths[:13] == tuple(paths[:13])
    (tmp_path / "new" / "audio" / "7.wav").write_bytes(b"")
    with pytest.raises(InputError, match=r"7\.wav is not the file that the run was made of \(0 bytes instead of 8\)"):
        relocation.move_to_listed(music_run, paths)


def test_a_run_without_its_music_says_how_to_go_on(music_run, tmp_path):
    relocation.check_present(music_run)
    shutil.move(tmp_path / "old", tmp_path / "new")
    with pytest.raises(InputError) as caught:
        relocation.check_present(music_run)
    assert "none of the 14 files that were tried is there any more, such as" in str(caught.value)
    assert f"python train.py --run {music_run.folder} --data NEW_FOLDER" in str(caught.value)
    (tmp_path / "old" / "audio").mkdir(parents=True)
    shutil.copy(tmp_path / "new" / "audio" / "5.wav", tmp_path / "old" / "audio")
    relocation.check_present(music_run)  # single files are a matter of the loader
    urls = tuple("https://x.org/a.wav" for _ in music_run.manifest.paths)
    relocation.check_present(replace(music_run, manifest=replace(music_run.manifest, paths=urls)))


def test_music_that_was_moved_to_a_web_server_is_compared(music_run, tmp_path):
    class QuietHandler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=tmp_path / "old/audio"))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    touch(tmp_path / "old" / "audio", "absent.wav")
    try:
        moved = relocation.move_to(music_run, url)
        assert moved.manifest.paths[:2] == (f"{url}/0.wav", f"{url}/1.wav")
        (tmp_path / "old" / "audio" / "1.wav").unlink()
        with pytest.raises(InputError, match=r"1\.wav: http.*: cannot be downloaded \(404 Not Found"):
            relocation.move_to(music_run, url)
    finally:
        server.shutdown()
