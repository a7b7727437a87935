import pytest
from conftest import write_audio, write_list

from melgpu import preflight, recipe
from melgpu.errors import InputError

SCRATCH = ["backbone.pretrained=false", "folds.num_folds=3"]


def settings(*overrides):
    return recipe.load(
        ["demo"], [*SCRATCH, "rounds=[{backbones=['resnet50','xception'], folds=[0], blend={cnn=1.0}}]", *overrides]
    )


def gather(folder, wanted=None, **sources):
    return preflight.gather({"train": None, "public": None, "private": None, **sources}, None, wanted or settings())


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
        "text.mp3: not readable as audio",
        "empty.ogg: the file is empty",
        "absent.wav: no such file",
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
    tracks = gather(tmp_path, train=write_list(tmp_path / "train.csv", rows))
    assert len(tracks) == 6
    assert "dense_classes names gamelan, which the labels do not have" in capsys.readouterr().out


def test_weights_are_fetched_before_training(tmp_path, monkeypatch):
    asked = []

    def offline(name, num_classes, spec):
        asked.append(name)
        raise InputError(f"{name}: ImageNet weights could not be downloaded")

    monkeypatch.setattr(preflight.backbone, "build", offline)
    rows = [(write_audio(tmp_path / f"{i}.wav", 1, seed=i).name, "ab"[i % 2]) for i in range(6)]
    with pytest.raises(InputError, match="resnet50: ImageNet weights could not be downloaded"):
        gather(tmp_path, settings("backbone.pretrained=true"), train=write_list(tmp_path / "train.csv", rows))
    assert asked == ["resnet50"]
