"""Downloads of weight files: resumed where they broke off, verified, and whole or not there at all."""

import logging
import os
import re
import time
from pathlib import Path

import requests
from filelock import FileLock
from tqdm import tqdm

from scripts.errors import in_one_line
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
        check_sha256(path, sha256)
    except (OSError, WeightsError) as error:  # requests' errors are OSErrors too
        raise WeightsError(
            f"Cannot fetch the weights {path.name} from {url}: {error}. Download the file elsewhere and put it at "
            f"{path}, or take the teachers that are installed already: add {LIGHT} to --config_file."
        ) from error
    return path


def check_sha256(path: Path, sha256: str | None) -> None:
    """Compares a file with its SHA-256.

    Args:
        path: Path of the file.
        sha256: SHA-256 of the file in lower-case hex digits, all 64 or the leading ones; None checks nothing.

    Raises:
        WeightsError: If the hash differs.
    """
    if sha256 and not (found := file_sha256(path)).startswith(sha256):
        raise WeightsError(f"{path} has the SHA-256 {found}, not {sha256}; if it is an old copy, delete it")


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
            _log.warning("%s: connection lost (%s), retry %d of %d", path.name, in_one_line(error), attempt, RETRIES)
            time.sleep(BACKOFF_S * 2 ** (attempt - 1))
            continue
        try:
            check_sha256(part, sha256)
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


def _discard(*paths: Path) -> None:
    for path in paths:
        path.unlink(missing_ok=True)
