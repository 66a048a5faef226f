"""Fetching weight files from a server that misbehaves: whole and verified, or an error that names the remedy."""

import hashlib
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from scripts.networks import downloads
from scripts.networks.downloads import WeightsError, fetch
from tests.networks.conftest import BODY, Server

ROOT = Path(__file__).parents[2]
SHA256 = hashlib.sha256(BODY).hexdigest()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "models" / "net.pth"


def leave_part(path: Path, content: bytes, etag: str | None = '"one"') -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_name("net.pth.part").write_bytes(content)
    if etag is not None:
        path.with_name("net.pth.part.etag").write_text(etag)


def test_fetches_the_whole_file_and_then_asks_no_more(server: Server, path: Path) -> None:
    assert fetch(server.url, path, SHA256) == path
    assert path.read_bytes() == BODY
    assert {p.name for p in path.parent.iterdir()} <= {"net.pth", "net.pth.lock"}
    fetch(server.url, path, SHA256)
    assert server.log == [("/%23tag/net.pth", None, 200, len(BODY))]


@pytest.mark.parametrize("sha256", [SHA256, SHA256[:8], None])
@pytest.mark.parametrize("validator", ["etag", "last_modified"])
def test_resumes_a_part(server: Server, path: Path, sha256: str | None, validator: str) -> None:
    server.etag, server.last_modified = None, None
    setattr(server, validator, "v1")
    leave_part(path, BODY[:100_000], "v1")
    fetch(server.url, path, sha256)
    assert path.read_bytes() == BODY
    assert server.log == [("/%23tag/net.pth", "bytes=100000-", 206, len(BODY) - 100_000)]


def test_restarts_where_the_server_knows_no_ranges(server: Server, path: Path) -> None:
    server.ranges = False
    leave_part(path, BODY[:100_000])
    fetch(server.url, path, SHA256)
    assert path.read_bytes() == BODY
    assert [entry[2:] for entry in server.log] == [(200, len(BODY))]


def test_a_part_that_is_already_whole(server: Server, path: Path) -> None:
    leave_part(path, BODY)
    fetch(server.url, path)
    assert path.read_bytes() == BODY
    assert [entry[2] for entry in server.log] == [416, 200]


def test_without_validator_and_hash_nothing_is_resumed(server: Server, path: Path) -> None:
    server.etag = 'W/"weak"'
    leave_part(path, b"other" * 1000, "")
    fetch(server.url, path)
    assert path.read_bytes() == BODY
    assert server.log[0][1] is None


def test_a_file_changed_between_the_halves_is_noticed_by_its_etag(server: Server, path: Path) -> None:
    leave_part(path, bytes(100_000), etag='"old"')
    fetch(server.url, path)
    assert path.read_bytes() == BODY
    assert [entry[2] for entry in server.log] == [200]


def test_a_file_changed_between_the_halves_is_noticed_by_its_hash(server: Server, path: Path) -> None:
    server.etag = None
    leave_part(path, bytes(100_000), etag=None)
    fetch(server.url, path, SHA256)
    assert path.read_bytes() == BODY
    assert [entry[2] for entry in server.log] == [206, 200]


def test_resumes_after_dropped_connections(server: Server, path: Path) -> None:
    server.drop_after = [3 * downloads.CHUNK, 2 * downloads.CHUNK]
    fetch(server.url, path, SHA256)
    assert path.read_bytes() == BODY
    assert [entry[1] for entry in server.log] == [
        None,
        f"bytes={3 * downloads.CHUNK}-",
        f"bytes={5 * downloads.CHUNK}-",
    ]


def test_a_truncated_file_never_ends_at_its_path(server: Server, path: Path) -> None:
    server.drop_after = [1000] * 99
    with pytest.raises(WeightsError, match=r"net\.pth from http.*put it at .*configs/teachers/light.json"):
        fetch(server.url, path)
    assert not path.exists()
    assert len(server.log) == 1 + downloads.RETRIES
    server.drop_after = []
    fetch(server.url, path, SHA256)
    assert path.read_bytes() == BODY


def test_not_found(server: Server, path: Path) -> None:
    server.status = 404
    with pytest.raises(WeightsError, match="404"):
        fetch(server.url, path)
    assert not path.exists()
    assert len(server.log) == 1


def test_a_web_page_is_no_weight_file(server: Server, path: Path) -> None:
    server.content_type = "text/html; charset=utf-8"
    with pytest.raises(WeightsError, match="web page"):
        fetch(server.url, path)
    assert not path.exists()


def test_wrong_hash(server: Server, path: Path) -> None:
    with pytest.raises(WeightsError, match=f"{SHA256}, not 00"):
        fetch(server.url, path, "00")
    assert {p.name for p in path.parent.iterdir()} <= {"net.pth.lock"}
    assert len(server.log) == 1


def test_wrong_hash_of_a_file_already_there(server: Server, path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"mine")
    with pytest.raises(WeightsError, match="delete it"):
        fetch(server.url, path, SHA256)
    assert path.read_bytes() == b"mine"
    assert not server.log


def test_server_down(path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        with pytest.raises(WeightsError, match="put it at"):
            fetch(f"http://127.0.0.1:{free.getsockname()[1]}/net.pth", path)
    assert not path.exists()


def test_folder_that_cannot_be_made(server: Server, tmp_path: Path) -> None:
    (tmp_path / "models").write_text("a file")
    with pytest.raises(WeightsError, match="put it at"):
        fetch(server.url, tmp_path / "models" / "net.pth")


def test_disk_full(server: Server, path: Path) -> None:
    resource = pytest.importorskip("resource")  # a limit on the size of files stands for the full disk
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(WeightsError, match=r"net\.pth.*File too large.*put it at"):
            fetch(server.url, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not path.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_a_killed_process_leaves_a_part_that_is_continued(server: Server, path: Path) -> None:
    server.pause = 0.02
    part = path.with_name("net.pth.part")
    call = "import sys; from scripts.networks.downloads import fetch; fetch(*sys.argv[1:])"
    with subprocess.Popen([sys.executable, "-c", call, server.url, path], cwd=ROOT) as process:
        while process.poll() is None and not (part.exists() and part.stat().st_size):
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert not path.exists()
    size = part.stat().st_size
    server.pause = 0.0
    fetch(server.url, path)
    assert path.read_bytes() == BODY
    assert server.log[-1][1:] == (f"bytes={size}-", 206, len(BODY) - size)


def test_two_at_once_fetch_once(server: Server, path: Path) -> None:
    server.pause = 0.002
    threads = [threading.Thread(target=fetch, args=(server.url, path, SHA256)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_bytes() == BODY
    assert len(server.log) == 1
