"""The way that real ImageNet weights take, with those of a network of 4 million parameters."""

import csv

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file
from sklearn.datasets import load_sample_image
from torch import nn

from melgpu.audio.decode import decode
from melgpu.data.batch import Batch
from melgpu.data.targets import Targets
from melgpu.features.log_mel import LogMel
from melgpu.models import classifier
from melgpu.recipe import Recipe, apply_overrides, load_recipe
from melgpu.training import loop
from melgpu.training.loop import EpochDone, TrainingData
from melgpu.training.state import Training, start_training
from tests.helpers import run_script

NAME = "tf_efficientnet_lite0"
CLASSES = ("aria", "breakbeat", "waltz")
WARM_UP = ["optim.warmup_epochs=3", "optim.max_epochs=1", "optim.warmup_lr=3e-3", "optim.batch_norm_batches=0"]
BASE = load_recipe(["demo"], [*WARM_UP, "optim.batch_size=8", "optim.precision=float32", "mel.image_size=75"])


def read_table(path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def with_weights(folder, recipe: Recipe = BASE) -> Recipe:
    return apply_overrides(recipe, ["backbone.pretrained=true", f"backbone.weights_dir='{folder}'"])


@pytest.fixture(scope="module")
def file_tensors(imagenet_weights) -> dict[str, torch.Tensor]:
    return load_file(imagenet_weights / f"{NAME}.in1k.safetensors")


@pytest.fixture(scope="module")
def windows(corpus) -> Batch:
    """The pictures of three windows of each of 27 tracks, the last nine of which are test tracks."""
    audio = BASE.audio
    rows = [row for split in ("train", "test", "private") for row in read_table(corpus / f"{split}.csv")]
    paths = [corpus / "audio" / row["filename"] for row in rows]
    waves = [np.resize(decode(path, audio.sample_rate, audio.track_s), 198_450) for path in paths]
    pictures = LogMel(BASE.mel, audio.sample_rate)(torch.from_numpy(np.concatenate(waves).reshape(81, -1)))
    labels = torch.tensor([CLASSES.index(row["label"]) for row in rows]).repeat_interleave(3)
    return Batch(pictures, labels, labels * 0, labels >= 0)  # a track of each class is enough


def test_the_weights_are_those_of_imagenet(file_tensors):
    """They see a daisy and a palace in the photographs of scikit-learn, out of a thousand classes."""
    model = timm.create_model(NAME)
    model.load_state_dict(file_tensors)
    model.eval()
    for name, expected in (("flower.jpg", 985), ("china.jpg", 698)):
        photograph = torch.from_numpy(load_sample_image(name).copy()).permute(2, 0, 1)[None] / 127.5 - 1
        square = photograph[..., 106:533]
        with torch.inference_mode():
            logits = model(nn.functional.interpolate(square, (224, 224), mode="bicubic", antialias=True))
        assert logits.argmax() == expected


@pytest.mark.parametrize("name", [NAME, f"{NAME}.in1k"])
def test_a_network_starts_from_the_weights_of_the_folder(imagenet_weights, file_tensors, name):
    model = classifier.build(name, 3, with_weights(imagenet_weights))
    state = model.body.state_dict()
    assert len(state) == 294  # all but the classifier of the thousand classes
    assert all(torch.equal(value, file_tensors[key]) for key, value in state.items())


def test_pictures_reach_the_weights_with_the_statistics_of_photographs(imagenet_weights, windows):
    model = classifier.build(NAME, 3, with_weights(imagenet_weights)).train()
    with torch.no_grad():
        normalized = model.input_norm(windows.waves.contiguous())
    # timm gives this network (photograph - 0.5) / 0.5.
    expected_mean = (torch.tensor(classifier.IMAGENET_MEAN) - 0.5) / 0.5
    expected_std = torch.tensor(classifier.IMAGENET_STD) / 0.5
    torch.testing.assert_close(normalized.mean((0, 2, 3)), expected_mean, atol=1e-3, rtol=0)
    torch.testing.assert_close(normalized.std((0, 2, 3)), expected_std, atol=1e-2, rtol=0)


def shuffled(windows: Batch, rows: torch.Tensor, seed: int) -> list[Batch]:
    order = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))]
    return [
        Batch(windows.waves[part], windows.tracks[part], windows.starts[part], windows.valid[part])
        for part in order.split(8)
    ]


def train(recipe: Recipe, windows: Batch, epochs: int) -> tuple[Training, list[float]]:
    """A training of some epochs, and its accuracies on windows of the test tracks."""
    torch.manual_seed(recipe.seed)
    training = start_training(classifier.build(NAME, 3, recipe), recipe.optim, recipe.machine)
    rows = torch.arange(81)
    data = TrainingData(
        lambda epoch, step: shuffled(windows, rows[:54], epoch),
        lambda: shuffled(windows, rows[54:], 0),
        Targets(torch.arange(3), torch.ones(3)),
    )
    accuracies = []
    for event in loop.fit(training, nn.Identity(), data, recipe.optim, recipe.augment, recipe.seed):
        if isinstance(event, EpochDone):
            accuracies.append(event.record.window_accuracy)
        if len(accuracies) == epochs:
            break
    return training, accuracies


def test_the_warm_up_freezes_the_weights_and_the_epochs_after_it_train_them(imagenet_weights, file_tensors, windows):
    recipe = apply_overrides(with_weights(imagenet_weights), ["optim.warmup_epochs=1"])
    for epochs, is_frozen in ((1, True), (2, False)):
        training, _ = train(recipe, windows, epochs)
        state = training.model.body.state_dict()
        assert all(torch.equal(value, file_tensors[key]) for key, value in state.items()) == is_frozen
    assert [record.lr for record in training.log] == [recipe.optim.warmup_lr, recipe.optim.lr]


def test_real_weights_beat_random_ones(imagenet_weights, windows):
    """A head on frozen features: over six seeds 1.00 with ImageNet weights, 0.33 with random ones."""
    _, accuracies = train(with_weights(imagenet_weights), windows, 3)
    _, random_accuracies = train(BASE, windows, 3)
    assert accuracies[-1] > 0.75
    assert accuracies[-1] > random_accuracies[-1] + 0.2


def test_the_script_takes_weights_from_a_folder(imagenet_weights, corpus, tmp_path):
    folder = tmp_path / "run"
    overrides = [
        f"backbone.weights_dir={imagenet_weights}",
        f"rounds=[{{backbones=['{NAME}'], folds=[0], blend={{}}}}]",
        "optim.max_epochs=1",
        "optim.warmup_lr=3e-3",
        "optim.batch_size=8",
        "folds.num_folds=3",
        "audio.sample_rate=11025",
        "audio.track_s=18.0",
        "windows.window_s=6.0",
        "windows.hop_s=12.0",
        "windows.predict_hop_s=12.0",
        "predict.flip=false",
        "mel.n_fft=1024",
        "mel.n_mels=80",
        "mel.image_size=75",
        "loader.workers=0",
    ]
    flags = [part for override in overrides for part in ("--set", override)]
    sources = ["--labels", corpus / "train.csv", "--data", corpus / "audio"]
    finished = run_script("train.py", "--run", folder, "--recipe", "quick", *flags, *sources)
    assert finished.returncode == 0, finished.stderr + finished.stdout
    assert "from scratch" not in finished.stdout  # `quick` leaves it open
    assert "epoch 1/2: loss" in finished.stdout
    assert "epoch 2/2: loss" in finished.stdout
    job = folder / "round1" / NAME / "fold0"
    assert [(row["epoch"], float(row["lr"])) for row in read_table(job / "log.csv")] == [("1", 3e-3), ("2", 5e-4)]
    loaded = classifier.load(job / "best.safetensors")
    assert loaded.metadata.recipe.backbone.pretrained is True
    assert (folder / "report.html").exists()
