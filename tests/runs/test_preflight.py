import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from melgpu.audio import quarantine
from melgpu.audio.quarantine import AudioError
from melgpu.data.manifest import MANIFEST_SPLITS, Split
from melgpu.data.pcm_cache import open_cache
from melgpu.errors import InputError
from melgpu.recipe import apply_overrides, load_recipe
from melgpu.runs import preflight
from tests.helpers import write_audio, write_list

SCRATCH = ["backbone.pretrained=false", "folds.num_folds=3"]


def make_recipe(*overrides):
    return load_recipe(
        ["demo"], [*SCRATCH, "rounds=[{backbones=['resnet50','xception'], folds=[0], blend={}}]", *overrides]
    )


def build_manifest(folder, recipe=None, **sources):
    recipe = recipe or make_recipe()
    source_lists = preflight.read_sources(
        {split: sources.get(split) for split in MANIFEST_SPLITS}, None, recipe.folds.column
    )
    preflight.check_before_decoding(source_lists, recipe)
    return preflight.build_manifest(source_lists, recipe, folder / "pcm_cache")


def test_every_problem_before_the_audio_is_listed_together(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(preflight, "check_files", lambda *args: pytest.fail("audio was decoded"))
    rows = [(write_audio(tmp_path / f"{i}.wav", 1, seed=i).name, "ab"[i % 2]) for i in range(6)]
    (tmp_path / "text.mp3").write_text("no music")
    (tmp_path / "empty.ogg").touch()
    rows += [("text.mp3", "a"), ("empty.ogg", "b"), ("absent.wav", "a"), ("0.wav", "a"), ("1.wav", "rare")]
    train = write_list(tmp_path / "train.csv", rows)
    weights = make_recipe("backbone.pretrained=true", f"backbone.weights_dir='{tmp_path}'", "mel.n_mels=512")
    with pytest.raises(InputError) as caught:
        build_manifest(tmp_path, weights, train=train)
    text = str(caught.value)
    for part in (
        f"train.csv, line 8: {tmp_path}/empty.ogg: the file is empty",
        f"train.csv, line 9: {tmp_path}/absent.wav: No such file",
        "0.wav is listed twice",
        "1 of 3 classes have fewer tracks (or artists) than 3 folds: rare (1)",
        "no weights of resnet50",
        "no weights of xception",
        "mel bands contain no bin",
    ):
        assert part in text
    assert len(caught.value.problems) == 8
    assert "The audio was not checked" in capsys.readouterr().out


def test_every_problem_of_the_audio_is_listed_together(tmp_path, capsys):
    rows = [(write_audio(tmp_path / f"{i}.wav", 1, seed=i).name, "ab"[i % 2]) for i in range(6)]
    for name in ("text.mp3", "more.ogg"):
        (tmp_path / name).write_text("no music")
        rows.append((name, "a"))
    train = write_list(tmp_path / "train.csv", rows)
    with pytest.raises(InputError) as caught:
        build_manifest(tmp_path, train=train)
    places = [problem.split(": not readable")[0] for problem in caught.value.problems]
    assert places == [f"{train}, line 7: {tmp_path}/text.mp3", f"{train}, line 8: {tmp_path}/more.ogg"]
    assert "loader.on_error=quarantine uses only their usable seconds" in capsys.readouterr().out


def test_files_that_are_not_there_are_counted_before_the_audio_is_checked(tmp_path, monkeypatch):
    rows = [(write_audio(tmp_path / f"{i}.wav", 1, seed=i).name, "ab"[i % 2]) for i in range(6)]
    train = write_list(tmp_path / "train.csv", [*rows, ("absent.wav", "a")])
    allowed = make_recipe("loader.on_error=quarantine", "loader.max_error_fraction=0.2")
    assert len(build_manifest(tmp_path, allowed, train=train)[0]) == 7
    monkeypatch.setattr(preflight, "check_files", lambda *args: pytest.fail("audio was decoded"))
    with pytest.raises(InputError, match="1 of 7 files have errors, more than"):
        build_manifest(tmp_path, make_recipe("loader.on_error=quarantine"), train=train)


def test_problems_of_the_format_of_all_lists_come_first(tmp_path):
    train = write_list(tmp_path / "train.csv", [("a.mp3", "1"), ("b.mp3",)])
    with pytest.raises(InputError) as caught:
        build_manifest(
            tmp_path, train=train, public=tmp_path / "absent.csv", private=write_list(tmp_path / "p.csv", [])
        )
    assert len(caught.value.problems) == 3


def test_dense_classes_that_are_not_in_the_data_are_noted(tmp_path, capsys):
    rows = [(write_audio(tmp_path / f"{i}.wav", 1, seed=i).name, "ab"[i % 2]) for i in range(6)]
    tracks, _, _ = build_manifest(tmp_path, train=write_list(tmp_path / "train.csv", rows))
    assert len(tracks) == 6
    assert "dense_classes names gamelan, which are not among the labels" in capsys.readouterr().out


def test_unusable_files_get_no_fold(tmp_path):
    rows = [(write_audio(tmp_path / f"{i}.wav", 1, seed=i).name, "ab"[i % 2]) for i in range(8)]
    (tmp_path / "3.wav").write_text("no music")
    train, test = write_list(tmp_path / "train.csv", rows), write_list(tmp_path / "test.csv", [("gone.wav",)])
    strict = make_recipe("loader.on_error=quarantine", "loader.max_error_fraction=0.2")
    with pytest.raises(InputError, match="2 of 9 files have errors, more than"):
        build_manifest(tmp_path, strict, train=train, public=test)
    recipe = make_recipe("loader.on_error=quarantine", "loader.max_error_fraction=0.3")
    tracks, audio_errors, _ = build_manifest(tmp_path, recipe, train=train, public=test)
    assert [audio_error.path for audio_error in audio_errors] == [str(tmp_path / "3.wav"), str(tmp_path / "gone.wav")]
    assert tracks.folds[3] == -1
    assert (np.delete(tracks.folds[:8], 3) >= 0).all()


def test_audio_errors_have_the_paths_of_the_manifest(tmp_path, monkeypatch):
    for number in range(6):
        (tmp_path / "music" / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        write_audio(tmp_path / "music" / "ab"[number % 2] / f"{number}.wav", 1, seed=number)
    (tmp_path / "music" / "a" / "text.wav").write_text("no music")
    monkeypatch.chdir(tmp_path)
    recipe = make_recipe("loader.on_error=quarantine", "loader.max_error_fraction=0.3")
    tracks, audio_errors, _ = build_manifest(tmp_path, recipe, train=Path("music"))
    assert [audio_error.path for audio_error in audio_errors] == [str(tmp_path / "music" / "a" / "text.wav")]
    assert audio_errors[0].path in tracks.paths


def test_the_cache_is_full_afterwards(tmp_path):
    rows = [(write_audio(tmp_path / f"{i}.wav", 1, seed=i).name, "ab"[i % 2]) for i in range(6)]
    build_manifest(tmp_path, make_recipe("loader.pcm_cache=disk"), train=write_list(tmp_path / "train.csv", rows))
    recipe = make_recipe("loader.pcm_cache=disk")
    cache = open_cache(tmp_path / "pcm_cache", recipe.audio, recipe.loader, 10)
    assert all(cache.find(str(tmp_path / name)) for name, _ in rows)
    paths = [str(write_audio(tmp_path / f"{name}.wav", 1)) for name in ("more", "unusable", "cut")] + [
        str(tmp_path / "0.wav")
    ]
    quarantine_path = tmp_path / "quarantine.csv"
    quarantine.record_errors(
        quarantine_path, [AudioError(paths[1], "not audio", 0.0), AudioError(paths[2], "cut off", 0.5)]
    )
    run = SimpleNamespace(
        pcm_cache=cache,
        manifest=SimpleNamespace(paths=paths),
        recipe=recipe,
        paths=SimpleNamespace(quarantine=quarantine_path),
    )
    preflight.fill_cache(run)
    assert [cache.find(path) is not None for path in paths] == [True, False, True, True]


def test_a_check_reports_on_the_data_set_and_writes_nothing(tmp_path, capsys):
    rows = [(write_audio(tmp_path / f"{i}.wav", 1, seed=i).name, "ab"[i % 2]) for i in range(6)]
    shutil.copy(tmp_path / "0.wav", tmp_path / "copy.wav")
    train, test = write_list(tmp_path / "train.csv", rows), write_list(tmp_path / "test.csv", [("copy.wav",)])
    before = set(tmp_path.iterdir())
    recipe = make_recipe()
    assert preflight.check_dataset(preflight.read_sources({Split.TRAIN: train, Split.PUBLIC: test}, None), recipe) == 0
    text = capsys.readouterr().out
    for part in (
        "7 files: 22,050 Hz: 7; mono: 7",
        "7 are shorter than a track of 0:18",
        "7 of them shorter than a window of 0:06",
        "silent: none",
    ):
        assert part in text
    assert "same content: 1" in text
    assert f"{tmp_path}/copy.wav (public test)" in text
    assert "labels: a: 3, b: 3" in text
    (tmp_path / "3.wav").write_text("no music")
    assert preflight.check_dataset(preflight.read_sources({Split.TRAIN: train, Split.PUBLIC: test}, None), recipe) == 1
    assert f"{tmp_path}/3.wav: not readable as audio" in capsys.readouterr().out
    assert set(tmp_path.iterdir()) == before


def test_networks_that_timm_does_not_know_are_named(tmp_path, capsys):
    rows = [(write_audio(tmp_path / f"{i}.wav", 1, seed=i).name, "ab"[i % 2]) for i in range(6)]
    recipe = make_recipe(
        "rounds=[{backbones=['resnet_50', 'resnet50'], folds=[0], blend={}}]",
        "optim_overrides.vgg61.lr=1e-3",
        "loader.pcm_cache=disk",
    )
    train = write_list(tmp_path / "train.csv", rows)
    with pytest.raises(InputError) as caught:
        build_manifest(tmp_path, recipe, train=train)
    assert not (tmp_path / "pcm_cache").exists()  # nothing is decoded for an invalid recipe
    capsys.readouterr()
    assert preflight.check_dataset(preflight.read_sources({Split.TRAIN: train}, None), recipe) == 2
    first, *_ = capsys.readouterr().out.splitlines()
    assert first.startswith("problem: there is no network resnet_50")  # before the audio
    text = str(caught.value)
    assert "there is no network resnet_50; did you mean resnet50" in text
    assert "there is no network vgg61" in text


def test_folders_in_which_no_run_can_be_created_are_rejected(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    for folder in ("file", "file/run"):
        with pytest.raises(InputError, match=r"file is not a folder; choose another"):
            preflight.check_writable(tmp_path / folder)
    preflight.check_writable(tmp_path / "new" / "run")
    monkeypatch.setattr(preflight.os, "access", lambda *args: False)
    with pytest.raises(InputError, match="is not writable"):
        preflight.check_writable(tmp_path / "new" / "run")


def test_too_few_validation_tracks_are_refused_before_training(tmp_path):
    rows = [(write_audio(tmp_path / f"{i}.wav", 1, seed=i).name, "ab"[i % 2]) for i in range(10)]
    train = write_list(tmp_path / "train.csv", rows)
    rounds = "rounds=[{backbones=['resnet50','xception'], folds=[0, 1], blend={cnn=1.0}}]"
    original = load_recipe(["demo"], ["backbone.pretrained=false", "folds.num_folds=5", rounds])
    with pytest.raises(InputError) as caught:
        build_manifest(tmp_path, original, train=train)
    assert [problem.split(":")[0] for problem in caught.value.problems] == ["round 1, fold 0", "round 1, fold 1"]
    assert "2 validation tracks, where 3 are needed" in str(caught.value)
    assert "folds.num_folds=2" in str(caught.value)
    together = apply_overrides(original, ["stacking.protocol=oof"])
    assert len(build_manifest(tmp_path, together, train=train)[0]) == 10  # four tracks of two folds
