import re

import pytest
import timm
import torch
from safetensors.torch import save_file

from melgpu import backbone, checkpoint, recipe
from melgpu.errors import InputError
from melgpu.recipe import BackboneSpec

SCRATCH = BackboneSpec(pretrained=False, weights_dir="", dropout=0.25)


def imagenet_file(name: str, path) -> dict[str, torch.Tensor]:
    """A file as timm publishes it: the whole network with its 1,000 classes, here with random weights."""
    timm_name = backbone.BACKBONES[name].timm_name
    extra = {"aux_logits": True} if timm_name == "inception_v3.tv_in1k" else {}
    weights = timm.create_model(timm_name, **extra).state_dict()
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: value.contiguous() for key, value in weights.items()}, path)
    return weights


@pytest.mark.parametrize("name", backbone.BACKBONES)
def test_weights_come_from_a_local_file(name, tmp_path):
    weights = imagenet_file(name, tmp_path / f"{backbone.BACKBONES[name].timm_name}.safetensors")
    model = backbone.build(name, 7, BackboneSpec(pretrained=True, weights_dir=str(tmp_path), dropout=0.25))
    own = model.body.state_dict()
    assert len(own) > 100
    for key, value in own.items():
        assert torch.equal(value, weights[key]), key
    model.eval()
    with torch.inference_mode():
        assert model(torch.rand(2, 1, 80, 80).expand(-1, 3, -1, -1)).shape == (2, 7)


@pytest.mark.parametrize("name", backbone.BACKBONES)
def test_the_head_is_the_recipes(name):
    model = backbone.Classifier(name, 10, 0.25)
    hidden = 512 if name in ("inception_resnet_v2", "xception") else 256
    assert (model.head[0].out_features, model.head[3].in_features, model.head[3].out_features) == (hidden, hidden, 10)
    assert model.head[2].p == 0.25
    assert type(model.body.global_pool.pool).__name__ == "AdaptiveMaxPool2d"


def test_a_standardized_picture_meets_the_statistics_of_the_pretraining(tmp_path):
    spec = BackboneSpec(pretrained=True, weights_dir=str(tmp_path), dropout=0.25)
    for name, mean, std in (("resnet50", 0.0, 1.0), ("xception", -0.03, 0.452)):
        imagenet_file(name, tmp_path / name / "model.safetensors")
        norm = backbone.build(name, 3, spec).input_norm.train()
        seen = norm(torch.randn(8, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 5 + 2)
        assert seen.mean().item() == pytest.approx(mean, abs=0.08)
        assert seen.std().item() == pytest.approx(std, abs=0.05)


def test_missing_and_foreign_weights_are_named(tmp_path):
    spec = BackboneSpec(pretrained=True, weights_dir=str(tmp_path), dropout=0.25)
    with pytest.raises(InputError, match=re.escape("resnet50.tv_in1k.safetensors")):
        backbone.build("resnet50", 3, spec)
    save_file({"x": torch.zeros(3)}, tmp_path / "resnet50.safetensors")
    with pytest.raises(InputError, match="not weights of resnet50"):
        backbone.build("resnet50", 3, spec)
    (tmp_path / "resnet50.safetensors").write_text("no weights")
    with pytest.raises(InputError, match="not weights of resnet50"):
        backbone.build("resnet50", 3, spec)


def test_no_download_says_how_to_go_on(monkeypatch):
    def offline(*args, **kwargs):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(backbone.timm, "create_model", offline)
    spec = BackboneSpec(pretrained=True, weights_dir="", dropout=0.25)
    with pytest.raises(InputError) as caught:
        backbone.build("xception", 3, spec)
    for part in ("no route to host", "backbone.weights_dir", "--recipe scratch", "legacy_xception.tf_in1k.safetensors"):
        assert part in str(caught.value)


def test_a_frozen_body_stays_as_it_is():
    model = backbone.build("resnet50", 3, SCRATCH)
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
    model = backbone.build("resnet50", 3, SCRATCH)
    about = {"backbone": "resnet50", "class_names": ["a", "b", "c"], "fold": 0, "front_end": {}}
    about["recipe"] = recipe.load(["demo"]).model_dump(mode="json", exclude_none=True)
    checkpoint.save(tmp_path / "good", model.state_dict(), about)
    again, said = backbone.load(tmp_path / "good")
    assert said == about
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in model.state_dict().items())
    for name, wrong in (("classes", {**about, "class_names": ["a"]}), ("network", {**about, "backbone": "vgg"})):
        checkpoint.save(tmp_path / name, model.state_dict(), wrong)
        with pytest.raises(checkpoint.CheckpointError, match=name):
            backbone.load(tmp_path / name)


def test_precision():
    cpu = torch.device("cpu")
    assert backbone.use_bfloat16("bfloat16", cpu)
    assert not backbone.use_bfloat16("float32", cpu)
    assert backbone.use_bfloat16("auto", cpu) in (True, False)


@pytest.mark.parametrize(("trainable", "learns"), [("mel", "mel_basis"), ("fourier", "stft.wcos")])
def test_a_front_end_that_learns_is_trained_and_saved_with_its_network(tmp_path, trainable, learns):
    settings = recipe.load(["demo"], [f"mel.trainable='{trainable}'", "mel.engine='nnaudio'"])
    model = backbone.build("resnet50", 3, SCRATCH, backbone.own_front_end(settings))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    before = {key: value.clone() for key, value in model.front_end.named_parameters()}
    assert all(learns.split(".")[0] in key for key in before)
    waves = torch.randn(2, 66_150, generator=torch.Generator().manual_seed(0))
    torch.nn.functional.cross_entropy(model(model.front_end(waves)), torch.tensor([0, 1])).backward()
    optimizer.step()
    changed = {key for key, value in model.front_end.named_parameters() if not torch.equal(value, before[key])}
    assert any(learns in key for key in changed)
    about = {"backbone": "resnet50", "class_names": ["a", "b", "c"], "fold": 0, "front_end": {}}
    about["recipe"] = settings.model_dump(mode="json", exclude_none=True)
    checkpoint.save(tmp_path / "x", model.state_dict(), about)
    again, _ = backbone.load(tmp_path / "x")
    with torch.no_grad():
        assert torch.equal(again.front_end(waves), model.front_end(waves))


def test_shared_front_ends_are_not_saved():
    assert backbone.own_front_end(recipe.load(["demo"])) is None
    assert not any("front_end" in key for key in backbone.build("resnet50", 3, SCRATCH).state_dict())
