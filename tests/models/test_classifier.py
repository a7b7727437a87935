import json
import pickle
import re

import pytest
import timm
import torch
from safetensors.torch import save_file

from melgpu.errors import InputError
from melgpu.models import checkpoint, classifier
from melgpu.models.metadata import NetworkMetadata, NetworkProvenance
from melgpu.recipe import Recipe, load_recipe
from melgpu.runs import environment
from tests.helpers.runs import write_checkpoint
from tests.helpers.training import PARITY, epoch_record

SCRATCH = load_recipe(["scratch"])


def recipe_with_weights(folder) -> Recipe:
    return load_recipe([], [f"backbone.weights_dir={folder}"])


def network_metadata(**changes) -> NetworkMetadata:
    """The metadata of a network's checkpoint."""
    recipe = load_recipe(["demo"])
    digests = {"recipe_digest": recipe.digest(), "pseudo_digest": "none"}
    metadata = NetworkMetadata(
        provenance=NetworkProvenance(round=1, backbone="resnet50", fold=0, **digests),
        class_names=["a", "b", "c"],
        recipe=recipe,
        scores=epoch_record(3),
        parity=PARITY,
        environment=environment.describe(torch.device("cpu")),
    )
    return metadata.model_copy(update=changes)


def imagenet_file(name: str, path) -> dict[str, torch.Tensor]:
    """A file as timm publishes it: all tensors with the 1,000-class head, here with random weights."""
    timm_name = classifier.BACKBONES[name].timm_name
    options = {"aux_logits": True} if timm_name == "inception_v3.tv_in1k" else {}
    weights = timm.create_model(timm_name, **options).state_dict()
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: value.contiguous() for key, value in weights.items()}, path)
    return weights


@pytest.mark.parametrize("name", classifier.BACKBONES)
def test_weights_are_loaded_from_a_local_file(name, tmp_path):
    weights = imagenet_file(name, tmp_path / f"{classifier.BACKBONES[name].timm_name}.safetensors")
    model = classifier.build(name, 7, recipe_with_weights(tmp_path))
    body_state = model.body.state_dict()
    assert len(body_state) > 100
    for key, value in body_state.items():
        assert torch.equal(value, weights[key]), key
    model.eval()
    with torch.inference_mode():
        assert model(torch.rand(2, 1, 80, 80).expand(-1, 3, -1, -1)).shape == (2, 7)


def test_the_memory_format_changes_speed_only(tmp_path):
    recipes = [load_recipe(["demo"], [f"machine.channels_last={value}"]) for value in ("true", "false")]
    pictures = torch.rand(4, 3, 75, 75, generator=torch.Generator().manual_seed(1))
    results = []
    for recipe in recipes:
        torch.manual_seed(0)
        model = classifier.Classifier("resnet10t", 3, recipe).eval()
        logits = model(pictures)
        logits.square().sum().backward()
        results.append((model, logits, model.body.conv1[0].weight.grad))
    (first, logits, gradient), (second, other_logits, other_gradient) = results
    assert first.body.conv1[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert second.body.conv1[0].weight.is_contiguous()
    torch.testing.assert_close(logits, other_logits, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(gradient, other_gradient, atol=1e-5, rtol=1e-3)
    checkpoint.save(tmp_path / "x.safetensors", first.state_dict(), network_metadata())
    tensors, _ = checkpoint.load(tmp_path / "x.safetensors", NetworkMetadata)
    checkpoint.load_into(second, tensors, tmp_path)
    torch.testing.assert_close(second(pictures), logits, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(second.set_memory_format(True)(pictures), logits, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", classifier.BACKBONES)
def test_the_head(name):
    model = classifier.Classifier(name, 10, SCRATCH)
    hidden = 512 if name in ("inception_resnet_v2", "xception") else 256
    assert (model.head[0].out_features, model.head[3].in_features, model.head[3].out_features) == (hidden, hidden, 10)
    assert model.head[2].p == 0.25
    assert type(model.body.global_pool.pool).__name__ == "AdaptiveMaxPool2d"


def test_the_input_norm_gives_pictures_the_statistics_of_pretraining(tmp_path):
    spec = recipe_with_weights(tmp_path)
    for name, mean, std in (("resnet50", 0.0, 1.0), ("xception", -0.03, 0.452)):
        imagenet_file(name, tmp_path / name / "model.safetensors")
        norm = classifier.build(name, 3, spec).input_norm.train()
        normalized = norm(torch.randn(8, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 5 + 2)
        assert normalized.mean().item() == pytest.approx(mean, abs=0.08)
        assert normalized.std().item() == pytest.approx(std, abs=0.05)


def test_missing_and_wrong_weights_are_rejected(tmp_path):
    spec = recipe_with_weights(tmp_path)
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
def test_untrusted_weights_run_no_code(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    unpickled, load = [], torch.load
    monkeypatch.setattr(torch, "load", lambda *a, **k: unpickled.append(not k["weights_only"]) or load(*a, **k))
    spec = recipe_with_weights(tmp_path)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    for write in (lambda file: file.write_bytes(pickle.dumps(Payload())), lambda file: torch.save(Payload(), file)):
        write(tmp_path / name)
        with pytest.raises(InputError, match="not weights of resnet50"):
            classifier.build("resnet50", 3, spec)
    assert not any(unpickled)
    assert not (tmp_path / "ran").exists()


def test_a_failed_download_names_the_alternatives(monkeypatch):
    def cut_off(*args, **kwargs):
        raise ConnectionError("connection reset")

    monkeypatch.setattr(classifier.weights, "find_local", lambda name, spec: None)
    monkeypatch.setattr(classifier.weights, "find_download_problem", lambda names, spec: None)
    monkeypatch.setattr(classifier.timm, "create_model", cut_off)
    with pytest.raises(InputError) as exc_info:
        classifier.build("xception", 3, load_recipe([]))
    for text in ("connection reset", "backbone.weights_dir", "--recipe scratch", "legacy_xception.tf_in1k.safetensors"):
        assert text in str(exc_info.value)


def test_weights_that_cannot_be_had_are_not_asked_for(monkeypatch):
    monkeypatch.setattr(classifier.weights, "find_local", lambda name, spec: None)
    monkeypatch.setattr(classifier.weights, "find_download_problem", lambda names, spec: f"none of {names}")
    monkeypatch.setattr(classifier.timm, "create_model", lambda *args, **kwargs: pytest.fail("a download"))
    with pytest.raises(InputError, match=r"none of \['resnet50'\]"):
        classifier.build("resnet50", 3, load_recipe([]))


@pytest.mark.parametrize("name", [*classifier.BACKBONES, "tf_efficientnet_lite0"])
def test_weights_of_shipped_recipes_are_free(name):
    timm_name = classifier.find_backbone(name).timm_name
    assert timm.get_pretrained_cfg_value(timm_name, "license") in ("apache-2.0", "bsd-3-clause")


def test_files_of_networks_from_jax_are_read_as_those_of_torch(tmp_path):
    name = "vit_tiny_patch16_224.augreg_in21k_ft_in1k"
    assert timm.get_pretrained_cfg_value(name, "custom_load")
    weights = timm.create_model(name).state_dict()
    save_file(weights, tmp_path / f"{name}.safetensors")
    recipe = load_recipe([], [f"backbone.weights_dir={tmp_path}", "mel.image_size=224"])
    state = classifier.build(name, 3, recipe).body.state_dict()
    assert state.keys() - weights.keys() == {"fc_norm.weight", "fc_norm.bias"}
    assert all(torch.equal(state[key], weights[key]) for key in state.keys() & weights.keys())


def test_a_frozen_body_does_not_change():
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


def test_a_checkpoint_of_another_network_is_rejected(tmp_path):
    model = classifier.build("resnet50", 3, SCRATCH)
    checkpoint.save(tmp_path / "network", model.state_dict(), network_metadata())
    loaded = classifier.load(tmp_path / "network")
    assert loaded.metadata == network_metadata()
    state = model.state_dict()
    assert all(torch.equal(value, loaded.model.state_dict()[key]) for key, value in state.items())
    other = loaded.metadata.provenance.model_copy(update={"backbone": "xception"})
    for tensors, metadata, reason in (
        (state, network_metadata(class_names=["a"]), "size mismatch"),
        (state, network_metadata(provenance=other), "does not fit Classifier"),
        ({**state, "head.3.bias": state["head.3.bias"] / 0}, network_metadata(), "bias contains NaN or infinity"),
    ):
        checkpoint.save(tmp_path / "x", tensors, metadata)
        with pytest.raises(checkpoint.CheckpointError, match=f"x: .*{reason}"):
            classifier.load(tmp_path / "x")


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("provenance.backbone", "vgg; import os"),
        ("provenance.backbone", "hf-hub:someone/something"),
        ("provenance.backbone", "local-dir:/tmp/x"),
        ("provenance.backbone", "../../x"),
        ("provenance.backbone", ["resnet50"]),
        ("provenance.fold", "x"),
        ("provenance.fold", -1),
        ("provenance.round", True),
        ("provenance.recipe_digest", None),
        ("provenance.pseudo_digest", 3),
        ("class_names", 3),
        ("class_names", None),
        ("class_names", "abc"),
        ("class_names", ["a", 2]),
        ("class_names", ["a", "a"]),
        ("class_names", []),
        ("class_names", [str(index) for index in range(10_001)]),
        ("recipe", []),
        ("recipe.mel.n_fft", 2**40),
        ("recipe.mel.image_size", 10**9),
        ("recipe.mel.trainable", "mel"),
        ("scores.loss", "low"),
        ("scores.loss", float("nan")),
        ("environment", {}),
        ("parity", 3),
        ("parity", {}),
        ("parity.picture", ["black"]),
        ("parity.picture", [float("nan")] * 432),
        ("parity.max_db", float("inf")),
    ],
)
def test_invalid_metadata_is_rejected_before_a_network_is_built(tmp_path, monkeypatch, place, value):
    monkeypatch.delattr(classifier, "Classifier")
    metadata = json.loads(network_metadata().model_dump_json())
    *parents, last = place.split(".")
    table = metadata
    for parent in parents:
        table = table[parent]
    table[last] = value
    write_checkpoint(tmp_path / "x", {}, metadata)
    with pytest.raises(checkpoint.CheckpointError, match=rf"x: damaged, or no checkpoint of a network \({place}"):
        classifier.load(tmp_path / "x")


def test_a_recipe_of_another_digest_is_rejected(tmp_path):
    metadata = json.loads(network_metadata().model_dump_json())
    metadata["recipe"]["windows"]["window_s"] = 5.0
    write_checkpoint(tmp_path / "x", {}, metadata)
    with pytest.raises(checkpoint.CheckpointError, match=r"its recipe is not that of its provenance"):
        classifier.load(tmp_path / "x")


def test_precision():
    cpu = torch.device("cpu")
    assert classifier.use_bfloat16("bfloat16", cpu)
    assert not classifier.use_bfloat16("float32", cpu)
    assert classifier.use_bfloat16("auto", cpu) in (True, False)


def test_any_network_of_timm_by_name():
    recipe = load_recipe(["scratch"], ["mel.image_size=96"])
    for name in ("test_convnext.r160_in1k", "test_vit", "test_efficientnet"):
        model = classifier.build(name, 3, recipe).eval()
        with torch.inference_mode():
            assert model(torch.rand(1, 1, 96, 96).expand(-1, 3, -1, -1)).shape == (1, 3), name
    for unknown, near in (("resnet_50", "resnet50"), ("hf-hub:someone/model", ""), ("local-dir:x", ""), ("../x", "")):
        with pytest.raises(InputError, match=f"there is no network {re.escape(unknown)}.*{near}"):
            classifier.find_backbone(unknown)
    with pytest.raises(InputError) as caught:
        classifier.find_backbone("resnet_50")
    assert str(caught.value).count("resnet50,") == 1


def test_all_parameters_train_and_only_matrices_decay():
    model = classifier.build("densenet169", 3, load_recipe(["scratch"], ["mel.image_size=96"]))
    groups = classifier.parameter_groups(model, False, 0.05)
    assert {id(p) for group in groups for p in group["params"]} == {id(p) for p in model.parameters()}
    assert all((group["weight_decay"] > 0) == (p.ndim > 1) for group in groups for p in group["params"])
    assert len(classifier.parameter_groups(model, False, 0.0)) == 1
    head = classifier.parameter_groups(model, True, 0.05)
    assert sum(len(group["params"]) for group in head) == 4


def test_the_ema_follows_its_network():
    model = classifier.build("test_efficientnet", 3, SCRATCH)
    ema = classifier.make_ema(model, 0.9)
    before = ema.module.head[0].weight.clone()
    with torch.no_grad():
        model.head[0].weight += 1
    for step in range(1, 200):
        ema.update(model, step)
    assert torch.allclose(ema.module.head[0].weight, model.head[0].weight, atol=1e-3)
    assert not torch.allclose(before, model.head[0].weight, atol=0.5)


def test_networks_that_fail_on_pictures_are_rejected_before_training():
    recipe = load_recipe(["scratch"], ["mel.image_size=96"])
    for name in ("resnet10t", "mobilenetv3_small_050", "resnet50"):
        classifier.check_forward(name, recipe)
    with pytest.raises(InputError, match="no network resnet50"):
        classifier.check_forward("resnet50.nonsense", recipe)
    with pytest.raises(InputError, match="deit_tiny_distilled_patch16_224: this network cannot be used here"):
        classifier.check_forward("deit_tiny_distilled_patch16_224", recipe)
