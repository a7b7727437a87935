from importlib import metadata

from melgpu import environment


def test_it_names_the_packages_the_device_and_the_commit():
    found = environment.describe("cuda:1")
    assert found["device"] == "cuda:1"
    assert found["packages"]["torch"] == metadata.version("torch")
    assert found["git_commit"] is None or len(found["git_commit"]) == 40
