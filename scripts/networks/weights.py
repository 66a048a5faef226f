"""Weight files of the teachers: where they are released, fetching them, reading them, naming them by their hash."""

import hashlib
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

TIMEOUT_S = (10, 60)  # to connect, between two chunks
RETRIES = 4
BACKOFF_S = 0.5  # doubled at every retry
CHUNK = 1 << 14  # a dropped connection loses what it had of one

_log = logging.getLogger(__name__)
_DROPPED = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)


class WeightsError(RuntimeError):
    """A weight file cannot be had or read; the message names the file and the remedy."""


class Release(NamedTuple):
    """A released weight file; `sha256` is None where the authors publish none."""

    url: str
    sha256: str | None
    filename: str


def _vmamba(tag: str, filename: str, sha256: str | None = None) -> Release:
    return Release(f"https://github.com/MzeroMiko/VMamba/releases/download/%23{tag}/{filename}", sha256, filename)


RELEASES: dict[str, Release] = {
    # The hash is one that a third party pinned; the authors publish none, and we have not verified it ourselves.
    "vmamba_tiny_v0": _vmamba(
        "v0cls",
        "vssmtiny_dp01_ckpt_epoch_292.pth",
        "dbc0cc4f5ec0e45db5fba7c939d2c7d9b617e891ac10766912a8d604c37c5e47",
    ),
    "vmamba_tiny_s2l5": _vmamba("v2cls", "vssm_tiny_0230_ckpt_epoch_262.pth"),
    "vmamba_tiny_s1l8": _vmamba("v2cls", "vssm1_tiny_0230s_ckpt_epoch_264.pth"),
}


def teacher_weights(name: str, models_dir: str | Path, progress: bool = True) -> Path:
    """Local weight file of a teacher, by its name in `RELEASES` or timm; fetched into `models_dir` if not there yet.

    Raises:
        WeightsError: no such teacher, or its file cannot be had.
    """
    if name in RELEASES:
        release = RELEASES[name]
        return fetch(release.url, Path(models_dir) / release.filename, release.sha256, progress)
    return timm_weights(name, models_dir, progress)


def timm_weights(name: str, models_dir: str | Path, progress: bool = True) -> Path:
    """Local weight file of a timm model; fetched into `models_dir` if not there yet.

    timm's release URL comes first: its file name mostly carries the start of the file's SHA-256, which is checked.
    Models without one, or with one in another framework's format (.npz), come from their Hugging Face repository.

    Raises:
        WeightsError: timm does not know the model, releases no weights for it, or they cannot be had.
    """
    try:
        cfg = timm.get_pretrained_cfg(name)
    except RuntimeError:  # a known model, but none of its tags
        cfg = None
    if cfg is None:
        raise WeightsError(
            f"'{name}' is none of {', '.join(RELEASES)} and no pretrained model of timm {timm.__version__}: "
            "correct the name (timm.list_pretrained() lists them) or give a local file as teacher.weights."
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
        "give a local file as teacher.weights, or ask for 'untrained'."
    )


def fetch(url: str, path: str | Path, sha256: str | None = None, progress: bool = True) -> Path:
    """Download `url` to `path`, unless it is there already.

    The bytes go to `path` + ".part", which a later call continues after a killed one; `path` itself appears only
    when complete and verified. Processes that fetch the same file wait for each other.

    Args:
        sha256: lower-case hex digits of the file's SHA-256, all 64 or the first of them; None if unknown.
        progress: show a progress bar where stderr is a terminal.

    Raises:
        WeightsError: offline, refused by the server, cut short, disk full, or not the file of that hash.
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
            f"{path}, or give a local file as teacher.weights, or ask for 'untrained'."
        ) from error
    return path


def _download(url: str, path: Path, sha256: str | None, progress: bool) -> None:
    """Bring `url` to `path` by way of a .part file, resuming what an earlier call left of it."""
    part = path.with_name(f"{path.name}.part")
    validator = path.with_name(f"{path.name}.part.etag")
    connected = False
    attempt = 0
    while True:
        # What cannot be checked against the old half, by validator or hash, is not appended to it.
        etag = validator.read_text() if validator.exists() else ""
        offset = part.stat().st_size if part.exists() and (etag or sha256) else 0
        try:
            with _get(url, offset, etag) as response:
                connected = True
                resumed = offset > 0 and response.status_code == requests.codes.partial_content
                _receive(response, resumed, part, validator, progress)
        except _DROPPED as error:
            attempt += 1
            if not connected or attempt > RETRIES:  # offline is told at once
                raise
            _log.warning("%s: connection lost (%s), retry %d of %d", path.name, _cause(error), attempt, RETRIES)
            time.sleep(BACKOFF_S * 2 ** (attempt - 1))
            continue
        try:
            _verify(part, sha256)
        except WeightsError:
            _discard(part, validator)
            if resumed:  # perhaps the two halves are of different files: once more, from the start
                continue
            raise
        os.replace(part, path)
        _discard(validator)
        return


def _get(url: str, offset: int, etag: str) -> requests.Response:
    """Response to a GET of `url` from byte `offset` on, or of the whole where the server prefers to send that."""
    headers = {"Accept-Encoding": "identity"}  # lengths and offsets are those of the file
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
        raise WeightsError("the server, perhaps a proxy's login page, answered with a web page")
    return response


def _receive(response: requests.Response, resumed: bool, part: Path, validator: Path, progress: bool) -> None:
    """Write the body of `response` into `part`: appended where it is the rest, in place of it where it is the whole."""
    if not resumed:
        _discard(part)  # before its validator changes: a kill in between must not pair old bytes with a new validator
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
    """Compare a file with the known digits of its SHA-256.

    Raises:
        WeightsError: another hash.
    """
    if sha256 and not (found := file_sha256(path)).startswith(sha256):
        raise WeightsError(f"{path} has the SHA-256 {found}, not {sha256}; if it is left from before, delete it")


def _discard(*paths: Path) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def _cause(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0]}" if str(error) else type(error).__name__


def load_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Read a weight file, .safetensors or a pickle of `torch.save`, to CPU tensors; a pickle runs no code.

    A state dict under a top-level key "model" or "state_dict" is unwrapped.

    Raises:
        WeightsError: no such file, or not a weight file of tensors alone.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(
            f"No weight file at {path}: correct teacher.weights, or fetch the released files with "
            "`python -m bundle weights`, or ask for 'untrained'."
        )
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle can raise almost anything
        raise WeightsError(
            f"Cannot read the weights {path} ({_cause(error)}): the file is damaged, or not a weight file, or a pickle "
            "with more than tensors. Delete it and fetch it again, or save its state dict as .safetensors."
        ) from error
    for key in ("model", "state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise WeightsError(
            f"The weights {path} are no state dict, neither at the top nor under 'model' or 'state_dict': "
            "save `model.state_dict()` alone and give that file as teacher.weights."
        )
    return dict(content)


def weights_hash(state_dict: Mapping[str, Tensor]) -> str:
    """SHA-256, 64 hex digits, of a state dict: its keys, dtypes, shapes and values, whatever their order and device."""
    digest = hashlib.sha256()
    for key, tensor in sorted(state_dict.items()):
        flat = tensor.detach().cpu().reshape(-1).contiguous()
        digest.update(repr((key, str(flat.dtype), tuple(tensor.shape))).encode())
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
