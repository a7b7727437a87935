import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from melgpu.audio import quarantine
from melgpu.audio.quarantine import AudioError
from melgpu.data.pcm_cache import open_cache
from melgpu.errors import InputError
from melgpu.recipe import load_recipe
from melgpu.runs import preflight
from tests.helpers import write_audio, write_list

SCRATCH = ["backbone.pretrained=false", "folds.num_folds=3"]


def settings(*overrides):
    return load_recipe(
        ["demo"], [*SCRATCH, "rounds=[{backbones=['resnet50','xception'], folds=[0], blend={cnn=1.0}}]", *overrides]
    )


def gather(folder, wanted=None, **sources):
    wanted = wanted or settings()
    cache = open_cache(folder / "pcm_cache", wanted.audio, wanted.loader)
    return preflight.build_manifest({"train": None, "public": None, "private": None, **sources}, None, wanted, cache)


def test_every_problem_of_the_tracks_is_listed_together(tmp_path):
    rows = [(write_audio(tmp_path / f"{i}.wav", 1, seed=i).name, "ab"[i % 2]) for i in range(6)]
    (tmp_path / "text.mp3").write_text("no music")
    (tmp_path / "empty.ogg").touch()
    rows += [("text.mp3", "a"), ("empty.ogg", "b"), ("absent.wav", "a"), ("0.wav", "a"), ("1.wav", "rare")]
    train = write_list(tmp_path / "train.csv", rows)
    weights = settings("backbone.pretrained=true", f"backbone.weights_dir='{tmp_path}'", "mel.n_mels=512")
    with pytest.raises(InputError) as caught:
        gather(tmp_path, weights, train=train)
    text = str(caught.value)
    for part in (
        f"train.csv, line 7: {tmp_path}/text.mp3: not readable as audio",
        f"train.csv, line 8: {tmp_path}/empty.ogg: the file is empty",
        f"train.csv, line 9: {tmp_path}/absent.wav: No such file",
        "0.wav is listed twice",
        "class 'rare' has 1 training tracks",
        "no weights of resnet50",
        "no weights of xception",
        "mel bands contain no bin",
    ):
        assert part in text
    assert len(caught.value.problems) == 9


def test_problems_of_all_lists_come_first(tmp_path):
    train = write_list(tmp_path / "train.csv", [("a.mp3", "1"), ("b.mp3",)])
    with pytest.raises(InputError) as caught:
        gather(tmp_path, train=train, public=tmp_path / "absent.csv", private=write_list(tmp_path / "p.csv", []))
    assert len(caught.value.problems) == 3


def test_dense_classes_that_the_data_lacks_are_noted(tmp_path, capsys):
    rows = [(write_audio(tmp_path / f"{i}.wav", 1, seed=i).name, "ab"[i % 2]) for i in range(6)]
    tracks, _ = gather(tmp_path, train=write_list(tmp_path / "train.csv", rows))
    assert len(tracks) == 6
    assert "dense_classes names gamelan, which the labels do not have" in capsys.readouterr().out


def test_weights_are_fetched_before_training(tmp_path, monkeypatch):
    asked = []

    def offline(name, num_classes, spec):
        asked.append(name)
        raise InputError(f"{name}: ImageNet weights could not be downloaded")

    monkeypatch.setattr(preflight.classifier, "build", offline)
    rows = [(write_audio(tmp_path / f"{i}.wav", 1, seed=i).name, "ab"[i % 2]) for i in range(6)]
    with pytest.raises(InputError, match="resnet50: ImageNet weights could not be downloaded"):
        gather(tmp_path, settings("backbone.pretrained=true"), train=write_list(tmp_path / "train.csv", rows))
    assert asked == ["resnet50"]


def test_in_quarantine_broken_files_get_no_fold(tmp_path):
    rows = [(write_audio(tmp_path / f"{i}.wav", 1, seed=i).name, "ab"[i % 2]) for i in range(8)]
    (tmp_path / "3.wav").write_text("no music")
    train, test = write_list(tmp_path / "train.csv", rows), write_list(tmp_path / "test.csv", [("gone.wav",)])
    with pytest.raises(InputError, match="2 of 9 files are broken, more than"):
        gather(tmp_path, settings("loader.on_error=quarantine"), train=train, public=test)
    wanted = settings("loader.on_error=quarantine", "loader.max_error_fraction=0.3")
    tracks, audio_errors = gather(tmp_path, wanted, train=train, public=test)
    assert [audio_error.path for audio_error in audio_errors] == [str(tmp_path / "3.wav"), str(tmp_path / "gone.wav")]
    assert tracks.folds[3] == -1
    assert (np.delete(tracks.folds[:8], 3) >= 0).all()


def test_flaws_name_files_as_the_manifest_does(tmp_path, monkeypatch):
    for number in range(6):
        (tmp_path / "music" / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        write_audio(tmp_path / "music" / "ab"[number % 2] / f"{number}.wav", 1, seed=number)
    (tmp_path / "music" / "a" / "text.wav").write_text("no music")
    monkeypatch.chdir(tmp_path)
    wanted = settings("loader.on_error=quarantine", "loader.max_error_fraction=0.3")
    tracks, audio_errors = gather(tmp_path, wanted, train=Path("music"))
    assert [audio_error.path for audio_error in audio_errors] == [str(tmp_path / "music" / "a" / "text.wav")]
    assert audio_errors[0].path in tracks.paths


def test_a_bank_is_full_afterwards(tmp_path):
    rows = [(write_audio(tmp_path / f"{i}.wav", 1, seed=i).name, "ab"[i % 2]) for i in range(6)]
    gather(tmp_path, settings("loader.pcm_cache=disk"), train=write_list(tmp_path / "train.csv", rows))
    wanted = settings("loader.pcm_cache=disk")
    cache = open_cache(tmp_path / "pcm_cache", wanted.audio, wanted.loader)
    assert all(cache.find(str(tmp_path / name)) for name, _ in rows)
    paths = [str(write_audio(tmp_path / f"{name}.wav", 1)) for name in ("more", "unusable", "cut")] + [
        str(tmp_path / "0.wav")
    ]
    record = tmp_path / "quarantine.csv"
    quarantine.record_errors(record, [AudioError(paths[1], "broken", 0.0), AudioError(paths[2], "cut off", 0.5)])
    run = SimpleNamespace(pcm_cache=cache, manifest=SimpleNamespace(paths=paths), recipe=wanted, quarantine_path=record)
    preflight.fill_cache(run)
    assert [cache.find(path) is not None for path in paths] == [True, False, True, True]


def test_a_check_tells_what_is_there_and_makes_nothing(tmp_path, capsys):
    rows = [(write_audio(tmp_path / f"{i}.wav", 1, seed=i).name, "ab"[i % 2]) for i in range(6)]
    shutil.copy(tmp_path / "0.wav", tmp_path / "copy.wav")
    train, test = write_list(tmp_path / "train.csv", rows), write_list(tmp_path / "test.csv", [("copy.wav",)])
    before = set(tmp_path.iterdir())
    wanted = settings()
    assert preflight.check_dataset(preflight.read_sources({"train": train, "public": test}, None), wanted) == 0
    told = capsys.readouterr().out
    for part in ("7 files: 22,050 Hz: 7; mono: 7", "7 are shorter than a track of 0:18", "silent: none"):
        assert part in told
    assert "same content: 1" in told
    assert f"{tmp_path}/copy.wav (public test)" in told
    assert "labels: a: 3, b: 3" in told
    (tmp_path / "3.wav").write_text("no music")
    assert preflight.check_dataset(preflight.read_sources({"train": train, "public": test}, None), wanted) == 1
    assert f"{tmp_path}/3.wav: not readable as audio" in capsys.readouterr().out
    assert set(tmp_path.iterdir()) == before


def test_networks_that_timm_does_not_know_are_named(tmp_path):
    rows = [(write_audio(tmp_path / f"{i}.wav", 1, seed=i).name, "ab"[i % 2]) for i in range(6)]
    wanted = settings(
        "rounds=[{backbones=['resnet_50', 'resnet50'], folds=[0], blend={cnn=1.0}}]",
        "optim_overrides.vgg61.lr=1e-3",
        "loader.pcm_cache=disk",
    )
    train = write_list(tmp_path / "train.csv", rows)
    with pytest.raises(InputError) as caught:
        gather(tmp_path, wanted, train=train)
    assert not (tmp_path / "pcm_cache").exists()  # nothing is decoded for a run that cannot be
    assert preflight.check_dataset(preflight.read_sources({"train": train}, None), wanted) == 2
    told = str(caught.value)
    assert "there is no network resnet_50; did you mean resnet50" in told
    assert "there is no network vgg61" in told


def test_folders_in_which_no_run_can_be_made_are_refused(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    for folder in ("file", "file/run"):
        with pytest.raises(InputError, match=r"file is no folder; choose another"):
            preflight.check_writable(tmp_path / folder)
    preflight.check_writable(tmp_path / "new" / "run")
    monkeypatch.setattr(preflight.os, "access", lambda *args: False)
    with pytest.raises(InputError, match="is not yours to write to"):
        preflight.check_writable(tmp_path / "new" / "run")
