import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from mutagen.flac import FLAC

from melgpu.audio import duplicates, worker
from melgpu.errors import InputError
from melgpu.recipe import load_recipe
from melgpu.runs import preflight, run_request, setup
from melgpu.runs.checks import networks
from melgpu.runs.run_request import RunRequest, Sources
from tests.helpers import QUICK, write_audio, write_labelled_tracks, write_list

CPU = torch.device("cpu")


def request(folder, *overrides: str) -> RunRequest:
    return RunRequest(folder, ["quick"], [*QUICK, *overrides], without_pseudo=False)


@pytest.fixture
def sources(tmp_path) -> Sources:
    """Eight short tracks of two classes."""
    return Sources(write_labelled_tracks(tmp_path), None, None, None)


def test_without_weights_a_run_is_made_to_train_from_scratch(tmp_path, sources, monkeypatch, capsys):
    monkeypatch.setattr(networks, "load_weights", lambda recipe: ["no network"])
    made = setup.create(request(tmp_path / "run"), sources, CPU)
    output = capsys.readouterr().out
    assert "Training from scratch, which is less accurate: no network" in output
    assert "No GPU: smaller pictures" in output
    scratch = load_recipe(["quick", "scratch"], QUICK, on_cpu=True)
    assert made.recipe == scratch
    assert (made.recipe.backbone.pretrained, made.recipe.optim.lr) == (False, 1e-3)
    reopened = setup.reopen(request(tmp_path / "run", "loader.workers=1"))
    assert reopened.recipe.digest() == scratch.digest()
    assert reopened.recipe.loader.workers == 1


def test_a_folder_of_weights_that_was_named_is_meant(tmp_path, sources):
    with pytest.raises(InputError, match="absent"):
        setup.create(request(tmp_path / "run", f"backbone.weights_dir='{tmp_path / 'absent'}'"), sources, CPU)
    assert not (tmp_path / "run").exists()


def test_weights_are_tried_before_any_audio_is_decoded(tmp_path, sources, monkeypatch):
    monkeypatch.setattr(preflight, "check_files", lambda *args: pytest.fail("audio was decoded"))
    (tmp_path / "weights").mkdir()
    file = tmp_path / "weights" / "tf_efficientnet_lite0.in1k.safetensors"
    asked = request(tmp_path / "run", "backbone.pretrained=true", f"backbone.weights_dir='{file.parent}'")
    with pytest.raises(InputError, match=r"a file named tf_efficientnet_lite0\.in1k\.safetensors is expected there"):
        setup.create(asked, sources, CPU)
    file.write_text("no weights")
    with pytest.raises(InputError, match="not weights of tf_efficientnet_lite0"):
        setup.create(asked, sources, CPU)
    assert not (tmp_path / "run").exists()


def test_nothing_is_downloaded_for_lists_with_problems(tmp_path, sources, monkeypatch, capsys):
    monkeypatch.setattr(networks, "load_weights", lambda recipe: pytest.fail("a download"))
    asked = request(tmp_path / "run", "rounds=[{backbones=['resnet_50'], folds=[0], blend={}}]")
    with pytest.raises(InputError, match="there is no network resnet_50"):
        setup.create(asked, sources, CPU)
    assert "The audio was not checked" in capsys.readouterr().out


def test_the_weights_of_a_run_are_looked_for_where_it_goes_on(tmp_path, sources, monkeypatch):
    monkeypatch.setattr(networks, "load_weights", lambda recipe: [])
    setup.create(request(tmp_path / "run"), sources, CPU)
    monkeypatch.setattr(preflight, "fill_cache", lambda run: pytest.fail("audio was decoded"))
    monkeypatch.setattr(networks, "missing_weights", lambda recipe, names: [f"no weights of {names}"])
    again = RunRequest(tmp_path / "run", [], [], without_pseudo=False)
    with pytest.raises(InputError, match=r"no weights of \['tf_efficientnet_lite0'\]"):
        setup.open_or_create(again, Sources(None, None, None, None), CPU)


def test_with_weights_a_run_is_made_to_use_them(tmp_path, monkeypatch):
    monkeypatch.setattr(networks, "load_weights", lambda recipe: [])
    requested = run_request.read_recipe(request(tmp_path / "run"), on_cpu=False)
    recipe = run_request.resolve_weights(request(tmp_path / "run"), requested, on_cpu=False)
    assert recipe == load_recipe(["quick"], [*QUICK, "backbone.pretrained=true"])


def test_other_tracks_are_refused_with_the_command_for_a_new_run(tmp_path, sources, monkeypatch, capsys):
    monkeypatch.setattr(networks, "load_weights", lambda recipe: ["no network"])
    made = setup.open_or_create(request(tmp_path / "my run"), sources, CPU)
    assert setup.open_or_create(request(tmp_path / "my run"), sources, CPU).manifest == made.manifest
    capsys.readouterr()
    setup.open_or_create(request(tmp_path / "my run"), Sources(None, sources.labels, None, None), CPU)
    assert f"has its tracks already; ignored: --test {sources.labels}" in capsys.readouterr().out
    other = write_list(tmp_path / "other.csv", [("file", "label"), *((f"{i}.wav", "ab"[i // 4]) for i in range(8))])
    with pytest.raises(InputError) as caught:
        setup.open_or_create(request(tmp_path / "my run"), Sources(other, None, None, None), CPU)
    assert f"train.py --run NEW_FOLDER --labels {other}" in str(caught.value)
    assert f"--run '{tmp_path / 'my run'}'" in str(caught.value)  # quoted for the shell


def test_a_run_goes_on_with_music_that_was_moved(tmp_path, sources, monkeypatch, capsys):
    monkeypatch.setattr(networks, "load_weights", lambda recipe: ["no network"])
    made = setup.open_or_create(request(tmp_path / "run"), sources, CPU)
    assert all(made.manifest.contents)
    new = tmp_path / "new"
    new.mkdir()
    for path in made.manifest.paths:
        Path(path).rename(new / Path(path).name)
    moved = setup.open_or_create(request(tmp_path / "run"), Sources(None, None, None, str(new)), CPU)
    assert moved.manifest.paths == tuple(str(new / name) for name in made.manifest.ids)
    reopened = setup.open_or_create(request(tmp_path / "run"), Sources(None, None, None, None), CPU)
    assert reopened.manifest == moved.manifest
    for path in moved.manifest.paths:
        Path(path).rename(tmp_path / Path(path).name)
    assert setup.check_dataset(request(tmp_path / "run"), Sources(None, None, None, str(tmp_path)), CPU) == 0
    back = setup.open_or_create(request(tmp_path / "run"), sources, CPU)  # by the same lists
    assert back.manifest == made.manifest
    assert "8 of its files have a new place" in capsys.readouterr().out


def test_labels_and_artists_come_from_tags(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(networks, "load_weights", lambda recipe: ["no network"])
    folder = tmp_path / "music"
    folder.mkdir()
    for i in range(10):
        file = FLAC(write_audio(folder / f"{i}.flac", 6, 11_025, seed=i))
        file["artist"] = f"artist {i // 2}"
        if i < 8:
            file["genre"] = ["Rock", "rock ", "Pop", "pop"][i // 4 * 2 + i % 2]
        file.save()
    tagged = Sources(folder, None, None, None, "genre")
    made = setup.open_or_create(request(tmp_path / "run"), tagged, CPU)
    assert made.class_names == ["Pop", "Rock"]
    assert made.manifest.ids == tuple(f"{i}.flac" for i in range(8))
    folds = made.manifest.folds.reshape(4, 2)
    assert (folds[:, 0] == folds[:, 1]).all()  # both tracks of an artist
    output = capsys.readouterr().out
    assert f"note: {folder}: left out: 2 files without a genre, such as {folder}/8.flac" in output
    assert output.index("Rock      ") < output.index("audio")  # before any file is decoded
    assert setup.open_or_create(request(tmp_path / "run"), tagged, CPU).manifest == made.manifest
    with pytest.raises(InputError, match="not in a sub-folder"):
        setup.open_or_create(request(tmp_path / "run"), Sources(folder, None, None, None), CPU)
    assert tagged.arguments == ["--labels", str(folder), "--labels-from-tags", "genre"]
    assert setup.check_dataset(request(tmp_path / "run"), tagged, CPU) == 0


def test_the_folds_of_a_list_are_those_of_the_run(tmp_path, sources, monkeypatch, capsys):
    monkeypatch.setattr(networks, "load_weights", lambda recipe: ["no network"])
    rows = [("file", "label", "fold")] + [(f"{i}.wav", "ab"[i % 2], str(1 + i // 2 % 2)) for i in range(8)]
    listed = Sources(write_list(tmp_path / "folds.csv", rows), None, None, None)
    setup.create(request(tmp_path / "drawn"), listed, CPU)
    assert "--set folds.column=fold takes the folds from it" in capsys.readouterr().out
    by_column = request(tmp_path / "run", "folds.column=fold")
    made = setup.create(by_column, listed, CPU)
    assert made.manifest.folds.tolist() == [0, 0, 1, 1, 0, 0, 1, 1]
    assert "its folds 1, 2 are the folds 0 to 1" in capsys.readouterr().out
    assert setup.open_or_create(by_column, listed, CPU).recipe.folds.column == "fold"
    rows[1] = ("0.wav", "a", "2")
    write_list(tmp_path / "folds.csv", rows)
    with pytest.raises(InputError, match="is of other tracks or labels than these lists"):
        setup.open_or_create(by_column, listed, CPU)


def test_a_new_run_tells_of_the_same_recordings_and_a_check_finds_the_same(tmp_path, sources, monkeypatch, capsys):
    monkeypatch.setattr(networks, "load_weights", lambda recipe: ["no network"])
    test_list = write_list(tmp_path / "test.csv", [("again.flac",)])
    write_audio(tmp_path / "again.flac", 6, 11_025, seed=3)  # the recording of 3.wav in another format
    listed = replace(sources, test=test_list)
    made = setup.create(request(tmp_path / "run"), listed, CPU)
    pair = (
        f"{tmp_path}/3.wav (fold {made.manifest.folds[3]}) ~ {tmp_path}/again.flac (public test): 0% of the bits differ"
    )
    note = "1 pair of files with the same recording, 1 of them in two folds or sets, which makes scores too good"
    output = capsys.readouterr().out
    assert f"{note}: leave one of each out: {pair}: {made.paths.duplicates}" in output
    setup.open_or_create(request(tmp_path / "run"), listed, CPU)
    assert "same recording" not in capsys.readouterr().out  # said once, and not searched for again
    for sources_of_check in (listed, Sources(None, None, None, None)):
        assert setup.check_dataset(request(tmp_path / "run"), sources_of_check, CPU) == 0
        output = capsys.readouterr().out
        assert "pairs of near-duplicates by audio fingerprint: 1" in output
        assert pair in output


def test_an_interrupted_start_finds_the_recordings_of_what_was_decoded_before(tmp_path, sources, monkeypatch):
    monkeypatch.setattr(networks, "load_weights", lambda recipe: ["no network"])
    rows = [("file", "label"), *((f"{i}.wav", "ab"[i % 2]) for i in range(8)), ("copy.flac", "a")]
    write_audio(tmp_path / "copy.flac", 6, 11_025, seed=5)
    listed = replace(sources, labels=write_list(tmp_path / "train.csv", rows))
    cached = request(tmp_path / "run", "loader.pcm_cache=disk")
    with monkeypatch.context() as patch:
        patch.setattr(setup, "create_run", interrupt)
        with pytest.raises(KeyboardInterrupt):
            setup.create(cached, listed, CPU)
    with monkeypatch.context() as patch:
        patch.setattr(worker, "check_to_file", interrupt)  # nothing is decoded again
        made = setup.create(cached, listed, CPU)
    (pair,) = duplicates.load(made.paths.duplicates)
    assert (pair.path, pair.other) == (f"{tmp_path}/5.wav", f"{tmp_path}/copy.flac")


def interrupt(*arguments):
    raise KeyboardInterrupt


def test_of_tracks_that_are_too_short_for_fingerprints_the_same_files_are_found(tmp_path, sources, monkeypatch, capsys):
    monkeypatch.setattr(networks, "load_weights", lambda recipe: ["no network"])
    shutil.copy(tmp_path / "3.wav", tmp_path / "copy.wav")
    listed = replace(sources, test=write_list(tmp_path / "test.csv", [("copy.wav",)]))
    short = request(tmp_path / "run", "audio.track_s=4", "windows.window_s=3")
    made = setup.create(short, listed, CPU)
    output = capsys.readouterr().out
    assert "note: near-duplicates are not searched for" in output
    pair = f"{tmp_path}/3.wav (fold {made.manifest.folds[3]}) = {tmp_path}/copy.wav (public test)"
    assert "1 pair of files with the same recording, 1 of them in two folds or sets" in output
    assert pair in output
    assert setup.check_dataset(short, Sources(None, None, None, None), CPU) == 0
    assert pair in capsys.readouterr().out


def test_the_lists_of_a_run_are_checked_with_its_lengths(tmp_path, sources, monkeypatch, capsys):
    monkeypatch.setattr(networks, "load_weights", lambda recipe: ["no network"])
    setup.create(request(tmp_path / "run", "audio.track_s=8"), sources, CPU)
    capsys.readouterr()
    plain = RunRequest(tmp_path / "run", [], [], without_pseudo=False)
    assert setup.check_dataset(plain, sources, CPU) == 0
    output = capsys.readouterr().out
    assert "8 are shorter than a track of 0:08" in output
    assert "0 of them shorter than a window of 0:03" in output
