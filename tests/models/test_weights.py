import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from huggingface_hub import constants

from melgpu import console
from melgpu.errors import InputError
from melgpu.models import weights
from melgpu.models.backbones import find_backbone
from melgpu.recipe import load_recipe


def spec(folder="", pretrained="true"):
    return load_recipe([], [f"backbone.weights_dir='{folder}'", f"backbone.pretrained={pretrained}"]).backbone


@pytest.fixture
def hub(monkeypatch):
    """Makes an address the Hugging Face hub's, which must answer within a second."""

    def set_endpoint(endpoint: str) -> None:
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 1)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)

    return set_endpoint


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "tf_efficientnet_lite0.in1k"])
def test_weights_are_found_by_the_default_tag_of_their_model(tmp_path, name):
    assert find_backbone(name).timm_name == "tf_efficientnet_lite0.in1k"
    path = tmp_path / "tf_efficientnet_lite0.in1k.safetensors"
    path.touch()
    assert weights.find_local(name, spec(tmp_path)) == path


@pytest.mark.parametrize(
    "file",
    [
        "resnet18.a1_in1k.safetensors",
        "resnet18.a1_in1k/model.safetensors",
        "resnet18.a1_in1k.pth",
        "resnet18.safetensors",
        "resnet18/pytorch_model.bin",
    ],
)
def test_names_of_files_of_weights(tmp_path, file):
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).touch()
    assert weights.find_local("resnet18", spec(tmp_path)) == tmp_path / file


def test_of_several_files_the_most_specific_is_used_and_said(tmp_path, capsys):
    console.say_once.cache_clear()
    for name in ("resnet50.safetensors", "resnet50.tv_in1k.safetensors", "resnet50.pth"):
        (tmp_path / name).touch()
    for _ in range(2):
        used = weights.find_local("resnet50", spec(tmp_path))
        assert used == tmp_path / "resnet50.tv_in1k.safetensors"
    note = f"note: weights of resnet50: {used} is used, not resnet50.safetensors, resnet50.pth\n"
    assert capsys.readouterr().out == note


def test_weights_of_another_training_are_named_and_not_used(tmp_path):
    (tmp_path / "resnet18.tv_in1k.safetensors").touch()
    (tmp_path / "resnet18.fb_swsl_ig1b_ft_in1k").mkdir()
    (tmp_path / "resnet18d.ra2_in1k.safetensors").touch()
    with pytest.raises(InputError) as caught:
        weights.find_local("resnet18", spec(tmp_path))
    assert "a file named resnet18.a1_in1k.safetensors is expected there" in str(caught.value)
    assert "(it has resnet18.fb_swsl_ig1b_ft_in1k, resnet18.tv_in1k: to use other" in str(caught.value)


def test_weights_in_the_cache_of_the_hub_need_no_network(tmp_path, monkeypatch, hub):
    hub("http://127.0.0.1:9")  # nobody answers there
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert weights.find_local("resnet18", spec()) is None
    folder = tmp_path / "models--timm--resnet18.a1_in1k"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0" * 40)
    path = folder / "snapshots" / ("0" * 40) / "model.safetensors"
    path.parent.mkdir(parents=True)
    path.touch()
    assert weights.find_local("resnet18", spec()) == path


def test_a_hub_that_cannot_be_reached_is_told_with_all_networks_and_remedies(hub):
    hub("http://127.0.0.1:9")
    problem = weights.find_download_problem(["resnet50", "tf_efficientnet_lite0"], spec())
    for part in (
        "no ImageNet weights of resnet50, tf_efficientnet_lite0: http://127.0.0.1:9 cannot be reached (",
        "timm/resnet50.tv_in1k",
        "resnet50.tv_in1k.safetensors, tf_efficientnet_lite0.in1k.safetensors",
        "--set backbone.weights_dir=FOLDER",
        "--recipe scratch",
        "--set backbone.pretrained=auto",
    ):
        assert part in problem
    assert "\n" not in problem
    without = weights.find_download_problem(["resnet50"], spec(pretrained="auto"))
    assert "backbone.weights_dir" in without
    assert "scratch" not in without


def test_a_hub_that_never_answers_is_left(hub):
    with socket.create_server(("127.0.0.1", 0)) as server:
        endpoint = f"http://127.0.0.1:{server.getsockname()[1]}"
        hub(endpoint)
        problem = weights.find_download_problem(["resnet50"], spec())
    assert f"{endpoint} " in problem


def test_a_slow_name_server_is_not_waited_for(hub, monkeypatch):
    hub("http://127.0.0.1:9")
    released = threading.Event()
    monkeypatch.setattr(weights, "_request_metadata", lambda *args: released.wait(60))
    try:
        problem = weights.find_download_problem(["resnet50"], spec())
    finally:
        released.set()
    assert "http://127.0.0.1:9 did not answer within 1 s" in problem


@pytest.mark.parametrize("status", [401, 404, 429, 503])
def test_an_answer_is_left_to_the_download(hub, status):
    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_response(status)
            self.end_headers()

        def log_message(self, *args):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        hub(f"http://127.0.0.1:{server.server_port}")
        assert weights.find_download_problem(["resnet50"], spec()) is None
    finally:
        server.shutdown()
        server.server_close()
