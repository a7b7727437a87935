import json
import pickle
import re

import pytest
import timm
import torch
from safetensors.torch import save_file

from melgpu.errors import InputError
from melgpu.models import checkpoint, classifier
from melgpu.recipe import Recipe, load_recipe
from tests.helpers.training import PARITY

SCRATCH = load_recipe(["scratch"])


def with_weights(folder) -> Recipe:
    return load_recipe([], [f"backbone.weights_dir={folder}"])


def said(*overrides: str, **changes) -> dict:
    """What a network's checkpoint says of itself."""
    settings = load_recipe(["demo"], list(overrides))
    metadata = {"round": 1, "backbone": "resnet50", "fold": 0, "class_names": ["a", "b", "c"], "parity": PARITY}
    metadata |= {
        "recipe": json.loads(settings.to_json()),
        "recipe_digest": settings.digest(),
        "pseudo_digest": "none",
        "scores": {"loss": 0.5},
    }
    return metadata | {"environment": {"python": "3", "packages": {}, "git_commit": None}} | changes


def imagenet_file(name: str, path) -> dict[str, torch.Tensor]:
    """A file as timm publishes it: the whole network with its 1,000 classes, here with random weights."""
    timm_name = classifier.BACKBONES[name].timm_name
    extra = {"aux_logits": True} if timm_name == "inception_v3.tv_in1k" else {}
    weights = timm.create_model(timm_name, **extra).state_dict()
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: value.contiguous() for key, value in weights.items()}, path)
    return weights


@pytest.mark.parametrize("name", classifier.BACKBONES)
def test_weights_come_from_a_local_file(name, tmp_path):
    weights = imagenet_file(name, tmp_path / f"{classifier.BACKBONES[name].timm_name}.safetensors")
    model = classifier.build(name, 7, with_weights(tmp_path))
    own = model.body.state_dict()
    assert len(own) > 100
    for key, value in own.items():
        assert torch.equal(value, weights[key]), key
    model.eval()
    with torch.inference_mode():
        assert model(torch.rand(2, 1, 80, 80).expand(-1, 3, -1, -1)).shape == (2, 7)


def test_the_layout_changes_speed_only(tmp_path):
    settings = [load_recipe(["demo"], [f"machine.channels_last={way}"]) for way in ("true", "false")]
    images = torch.rand(4, 3, 75, 75, generator=torch.Generator().manual_seed(1))
    found = []
    for one in settings:
        torch.manual_seed(0)
        model = classifier.Classifier("resnet10t", 3, one).eval()
        logits = model(images)
        logits.square().sum().backward()
        found.append((model, logits, model.body.conv1[0].weight.grad))
    (first, logits, gradient), (second, others, other_gradient) = found
    assert first.body.conv1[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert second.body.conv1[0].weight.is_contiguous()
    torch.testing.assert_close(logits, others, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(gradient, other_gradient, atol=1e-5, rtol=1e-3)
    checkpoint.save(tmp_path / "x.safetensors", first.state_dict(), {})
    checkpoint.load_into(second, checkpoint.load(tmp_path / "x.safetensors")[0], tmp_path)
    torch.testing.assert_close(second(images), logits, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(second.set_memory_format(True)(images), logits, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", classifier.BACKBONES)
def test_the_head_is_the_recipes(name):
    model = classifier.Classifier(name, 10, SCRATCH)
    hidden = 512 if name in ("inception_resnet_v2", "xception") else 256
    assert (model.head[0].out_features, model.head[3].in_features, model.head[3].out_features) == (hidden, hidden, 10)
    assert model.head[2].p == 0.25
    assert type(model.body.global_pool.pool).__name__ == "AdaptiveMaxPool2d"


def test_a_standardized_picture_meets_the_statistics_of_the_pretraining(tmp_path):
    spec = with_weights(tmp_path)
    for name, mean, std in (("resnet50", 0.0, 1.0), ("xception", -0.03, 0.452)):
        imagenet_file(name, tmp_path / name / "model.safetensors")
        norm = classifier.build(name, 3, spec).input_norm.train()
        seen = norm(torch.randn(8, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 5 + 2)
        assert seen.mean().item() == pytest.approx(mean, abs=0.08)
        assert seen.std().item() == pytest.approx(std, abs=0.05)


def test_missing_and_foreign_weights_are_named(tmp_path):
    spec = with_weights(tmp_path)
    with pytest.raises(InputError, match=re.escape("resnet50.tv_in1k.safetensors")):
        classifier.build("resnet50", 3, spec)
    save_file({"x": torch.zeros(3)}, tmp_path / "resnet50.safetensors")
    with pytest.raises(InputError, match="not weights of resnet50"):
        classifier.build("resnet50", 3, spec)
    (tmp_path / "resnet50.safetensors").write_text("no weights")
    with pytest.raises(InputError, match="not weights of resnet50"):
        classifier.build("resnet50", 3, spec)


class Payload:
    def __reduce__(self):
        return (open, ("ran", "w"))


@pytest.mark.parametrize("name", ["resnet50.pth", "resnet50/pytorch_model.bin", "resnet50.safetensors"])
def test_weights_that_would_run_code_do_not(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    trusted, load = [], torch.load
    monkeypatch.setattr(torch, "load", lambda *a, **k: trusted.append(not k["weights_only"]) or load(*a, **k))
    spec = with_weights(tmp_path)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    for write in (lambda file: file.write_bytes(pickle.dumps(Payload())), lambda file: torch.save(Payload(), file)):
        write(tmp_path / name)
        with pytest.raises(InputError, match="not weights of resnet50"):
            classifier.build("resnet50", 3, spec)
    assert not any(trusted)
    assert not (tmp_path / "ran").exists()


def test_no_download_says_how_to_go_on(monkeypatch):
    def offline(*args, **kwargs):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(classifier.timm, "create_model", offline)
    spec = load_recipe([])
    with pytest.raises(InputError) as caught:
        classifier.build("xception", 3, spec)
    for part in ("no route to host", "backbone.weights_dir", "--recipe scratch", "legacy_xception.tf_in1k.safetensors"):
        assert part in str(caught.value)


def test_a_frozen_body_stays_as_it_is():
    model = classifier.build("resnet50", 3, SCRATCH)
    model.freeze_body(True)
    model.train()
    before = {key: value.clone() for key, value in model.body.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    model(torch.rand(2, 3, 80, 80)).square().mean().backward()
    optimizer.step()
    assert all(torch.equal(value, before[key]) for key, value in model.body.state_dict().items())
    assert not torch.equal(model.input_norm.running_mean, torch.zeros(3))
    assert model.head.training
    model.freeze_body(False)
    assert all(p.requires_grad for p in model.parameters())
    assert model.train().body.training


def test_a_checkpoint_of_something_else_is_refused(tmp_path):
    model = classifier.build("resnet50", 3, SCRATCH)
    checkpoint.save(tmp_path / "good", model.state_dict(), said())
    again, metadata = classifier.load(tmp_path / "good")
    assert metadata == said()
    good = model.state_dict()
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in good.items())
    for tensors, wrong, reason in (
        (good, said(class_names=["a"]), "size mismatch"),
        (good, said(backbone="xception"), "does not fit Classifier"),
        ({**good, "head.3.bias": good["head.3.bias"] / 0}, said(), "head.3.bias holds what is no number"),
    ):
        checkpoint.save(tmp_path / "x", tensors, wrong)
        with pytest.raises(checkpoint.CheckpointError, match=f"x: .*{reason}"):
            classifier.load(tmp_path / "x")


def test_a_checkpoint_that_claims_the_impossible_is_refused_before_a_network_is_built(tmp_path, monkeypatch):
    monkeypatch.delattr(classifier, "Classifier")
    for change in (
        {"backbone": "vgg; import os"},
        {"backbone": "hf-hub:someone/something"},
        {"backbone": "local-dir:/tmp/x"},
        {"backbone": "../../x"},
        {"backbone": ["resnet50"]},
        {"class_names": 3},
        {"class_names": None},
        {"class_names": "abc"},
        {"class_names": ["a", 2]},
        {"class_names": ["a", "a"]},
        {"class_names": []},
        {"class_names": [str(number) for number in range(10_001)]},
        {"fold": "x"},
        {"fold": -1},
        {"round": True},
        {"recipe_digest": None},
        {"pseudo_digest": 3},
        {"recipe": []},
        {"scores": {"loss": "low"}},
        {"environment": {}},
        {"parity": 3},
        {"parity": {}},
        {"parity": {**PARITY, "picture": ["black"]}},
        {"parity": {**PARITY, "picture": [float("nan")] * 432}},
    ):
        checkpoint.save(tmp_path / "x", {}, said(**change))
        (name,) = change
        with pytest.raises(checkpoint.CheckpointError, match=rf"x: a checkpoint, but not of one of .*\({name}"):
            classifier.load(tmp_path / "x")
    huge = json.loads(load_recipe(["demo"]).to_json())
    huge["mel"] |= {"n_fft": 2**40, "image_size": 10**9}
    checkpoint.save(tmp_path / "x", {}, said(recipe=huge))
    with pytest.raises(InputError) as caught:
        classifier.load(tmp_path / "x")
    assert [problem.split(": ")[:2] for problem in caught.value.problems] == [
        [f"recipe of {tmp_path / 'x'}", "mel.n_fft"],
        [f"recipe of {tmp_path / 'x'}", "mel.image_size"],
    ]


def test_precision():
    cpu = torch.device("cpu")
    assert classifier.use_bfloat16("bfloat16", cpu)
    assert not classifier.use_bfloat16("float32", cpu)
    assert classifier.use_bfloat16("auto", cpu) in (True, False)


@pytest.mark.parametrize(("trainable", "learns"), [("mel", "mel_basis"), ("fourier", "stft.wcos")])
def test_a_front_end_that_learns_is_trained_and_saved_with_its_network(tmp_path, trainable, learns):
    settings = load_recipe(["demo"], [f"mel.trainable='{trainable}'", "mel.engine='nnaudio'"])
    model = classifier.build("resnet50", 3, settings)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    before = {key: value.clone() for key, value in model.front_end.named_parameters()}
    assert all(learns.split(".")[0] in key for key in before)
    waves = torch.randn(2, 66_150, generator=torch.Generator().manual_seed(0))
    torch.nn.functional.cross_entropy(model(model.front_end(waves)), torch.tensor([0, 1])).backward()
    optimizer.step()
    changed = {key for key, value in model.front_end.named_parameters() if not torch.equal(value, before[key])}
    assert any(learns in key for key in changed)
    metadata = said(f"mel.trainable='{trainable}'", "mel.engine='nnaudio'")
    checkpoint.save(tmp_path / "x", model.state_dict(), metadata)
    again, _ = classifier.load(tmp_path / "x")
    with torch.no_grad():
        assert torch.equal(again.front_end(waves), model.front_end(waves))


@pytest.mark.parametrize("trainable", ["mel", "fourier"])
def test_a_front_end_that_learns_is_averaged_and_frozen_with_its_network(trainable):
    settings = load_recipe(["demo"], [f"mel.trainable='{trainable}'", "mel.engine='nnaudio'"])
    model = classifier.build("resnet50", 3, settings)
    average = classifier.make_ema(model, 0.9).module
    waves = torch.randn(1, 66_150, generator=torch.Generator().manual_seed(0))
    assert torch.equal(average.front_end(waves), model.front_end(waves))
    model.freeze_body(True)
    assert not model.front_end(waves).requires_grad
    model.freeze_body(False)
    assert model.front_end(waves).requires_grad


def test_shared_front_ends_are_not_saved():
    model = classifier.build("resnet50", 3, SCRATCH)
    assert model.front_end is None
    assert not any("front_end" in key for key in model.state_dict())


def test_any_network_of_timm_by_its_name():
    settings = load_recipe(["scratch"], ["mel.image_size=96"])
    for name in ("test_convnext.r160_in1k", "test_vit", "test_efficientnet"):
        model = classifier.build(name, 3, settings).eval()
        with torch.inference_mode():
            assert model(torch.rand(1, 1, 96, 96).expand(-1, 3, -1, -1)).shape == (1, 3), name
    for wrong, near in (("resnet_50", "resnet50"), ("hf-hub:someone/model", ""), ("local-dir:x", ""), ("../x", "")):
        with pytest.raises(InputError, match=f"there is no network {re.escape(wrong)}.*{near}"):
            classifier.find_backbone(wrong)


@pytest.mark.parametrize("name", ["densenet169", "inception_v3", "test_vit"])
def test_first_layers_learn_at_their_share_of_the_rate(name):
    model = classifier.build(name, 3, load_recipe(["scratch"], ["mel.image_size=96"]))
    groups = classifier.parameter_groups(model, False, 0.05, 0.1)
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    shares = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    names = {n: shares[id(p)] for n, p in model.named_parameters()}
    body = [share for n, share in names.items() if n.startswith("body.")]
    assert min(body) == pytest.approx(0.1)
    assert names[next(n for n in names if n.startswith("body."))] == pytest.approx(0.1)
    assert 0.5 < max(body) < 1
    assert {share for n, share in names.items() if not n.startswith("body.")} == {1.0}
    assert len(classifier.parameter_groups(model, False, 0.0, 1.0)) == 1
    head = classifier.parameter_groups(model, True, 0.05, 0.1)
    assert sum(len(group["params"]) for group in head) == 4


def test_an_average_follows_its_network():
    model = classifier.build("test_efficientnet", 3, SCRATCH)
    average = classifier.make_ema(model, 0.9)
    before = average.module.head[0].weight.clone()
    with torch.no_grad():
        model.head[0].weight += 1
    for step in range(1, 200):
        average.update(model, step)
    assert torch.allclose(average.module.head[0].weight, model.head[0].weight, atol=1e-3)
    assert not torch.allclose(before, model.head[0].weight, atol=0.5)


def test_networks_that_see_no_pictures_are_refused_before_training():
    settings = load_recipe(["scratch"], ["mel.image_size=96"])
    for name in ("resnet10t", "mobilenetv3_small_050", "resnet50"):
        classifier.check_forward(name, settings)
    with pytest.raises(InputError, match="no network resnet50"):
        classifier.check_forward("resnet50.nonsense", settings)
    with pytest.raises(InputError, match="deit_tiny_distilled_patch16_224: this network cannot be used here"):
        classifier.check_forward("deit_tiny_distilled_patch16_224", settings)
