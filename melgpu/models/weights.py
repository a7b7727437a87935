"""A network's name to its file of ImageNet weights: in a folder, in the cache of the Hugging Face hub, or not here yet.

Nothing is downloaded here.
"""

import threading
from collections.abc import Sequence
from pathlib import Path

from melgpu import console
from melgpu.errors import InputError, one_line
from melgpu.models.backbones import find_backbone, find_repository
from melgpu.recipe_schema import BackboneSpec

FILE_PATTERNS = ("{}.safetensors", "{}/model.safetensors", "{}.pth", "{}/pytorch_model.bin")
HUB_FILE = "model.safetensors"
MAX_NAMED = 5  # files of other weights in a message


def find_local(name: str, spec: BackboneSpec) -> Path | None:
    """The file of a network's weights; None where it is to be downloaded.

    Raises InputError where `backbone.weights_dir` is set and lacks it, with the expected name.
    """
    if spec.weights_dir:
        return _find_in_folder(name, Path(spec.weights_dir))
    repository = find_repository(name)
    return _find_in_cache(repository) if repository else None


def _find_in_folder(name: str, folder: Path) -> Path:
    """The file of the most specific name, if there are several, which is said."""
    timm_name = find_backbone(name).timm_name
    model = timm_name.split(".")[0]
    stems = dict.fromkeys((timm_name, model, name))  # the most specific first
    candidates = [folder / pattern.format(stem) for stem in stems for pattern in FILE_PATTERNS]
    existing = [path for path in candidates if path.is_file()]
    if not existing:
        problem = f"{folder}: no weights of {name}; a file named {candidates[0].name} is expected there"
        raise InputError(problem + _other_weights(timm_name, folder))
    used, *others = existing
    if others:
        named = ", ".join(str(path.relative_to(folder)) for path in others)
        console.say_once(f"note: weights of {name}: {used} is used, not {named}")
    return used


def _other_weights(timm_name: str, folder: Path) -> str:
    """A hint where a folder has weights of the same model from another training, which have another name."""
    model = timm_name.split(".")[0]
    stems = {path.name.removesuffix(path.suffix if path.is_file() else "") for path in folder.glob(f"{model}.*")}
    others = sorted(stem for stem in stems if stem.count(".") == 1)[:MAX_NAMED]
    return f" (it has {', '.join(others)}: to use other weights, name them in `rounds`)" if others else ""


def _find_in_cache(repository: str) -> Path | None:
    """A repository's weights in the hub's cache, which need no network."""
    from huggingface_hub import try_to_load_from_cache  # only here and below: most networks are trained already

    path = try_to_load_from_cache(repository, HUB_FILE)
    return Path(path) if isinstance(path, str) else None  # it may also be a mark that the hub has no such file


def find_download_problem(names: Sequence[str], spec: BackboneSpec) -> str | None:
    """The message that weights of networks cannot be downloaded, if the hub cannot be reached."""
    repositories = [repository for repository in map(find_repository, names) if repository]
    reason = _unreachable(repositories[0]) if repositories else None
    return download_problem(names, reason, spec) if reason else None


def _unreachable(repository: str) -> str | None:
    """Why the hub cannot be reached, by one request: a download would repeat its own for a minute."""
    from huggingface_hub import constants

    limit_s = constants.HF_HUB_ETAG_TIMEOUT
    errors: list[Exception] = []
    request = threading.Thread(target=_request_metadata, args=(repository, limit_s, errors), daemon=True)
    request.start()
    request.join(limit_s)  # its own limit counts for each address of the host, and not for finding these
    if request.is_alive():
        return f"{constants.ENDPOINT} did not answer within {limit_s} s"
    # A refusal is an answer, too: the download tells what it means, or tries again.
    if errors and getattr(errors[0], "response", None) is None:
        return f"{constants.ENDPOINT} cannot be reached ({one_line(errors[0])})"
    return None


def _request_metadata(repository: str, limit_s: float, errors: list[Exception]) -> None:
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    try:
        get_hf_file_metadata(hf_hub_url(repository, HUB_FILE), timeout=limit_s)
    except Exception as error:  # the hub and its HTTP library have their own
        errors.append(error)


def download_problem(names: Sequence[str], reason: str, spec: BackboneSpec) -> str:
    """The message that weights of networks cannot be downloaded, with the remedies."""
    timm_names = [find_backbone(name).timm_name for name in names]
    files = ", ".join(f"{timm_name}.safetensors" for timm_name in timm_names)
    problem = (
        f"no ImageNet weights of {', '.join(names)}: {reason}. Fetch them elsewhere (from the hub: "
        f"timm/{timm_names[0]}, {HUB_FILE}), put them into a folder as {files} and add "
        "--set backbone.weights_dir=FOLDER"
    )
    if spec.pretrained == "auto":  # goes on without
        return problem
    return (
        f"{problem}; or train without, which is less accurate: --recipe scratch (other learning rates, no warm-up), "
        "or --set backbone.pretrained=auto, which does that only where weights cannot be had"
    )
