"""`python -m bundle weights`: what it prints, where the files end, and what happens when one cannot be had."""

import argparse
import hashlib
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from bundle import weights as verb
from scripts.networks.weights import RELEASES, Release

BODY = b"weights" * 1000


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "net.pth").write_bytes(BODY)
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path / "served"))
    http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=http.serve_forever, args=(0.02,))
    thread.start()
    yield f"http://127.0.0.1:{http.server_port}"
    http.shutdown()
    http.server_close()
    thread.join()


def run(*args: str) -> int:
    parser = argparse.ArgumentParser()
    verb.configure(parser)
    return verb.run(parser.parse_args(args))


def test_fetches_and_prints(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sha256 = hashlib.sha256(BODY).hexdigest()
    monkeypatch.setitem(RELEASES, "vmamba_tiny_v0", Release(f"{url}/net.pth", sha256, "net.pth"))
    path = tmp_path / "models" / "net.pth"
    assert run("vmamba_tiny_v0", "--models-dir", str(path.parent)) == 0
    assert path.read_bytes() == BODY
    assert capsys.readouterr().out == f"vmamba_tiny_v0: {path}, 0.0 MB, sha256 {sha256}\n"


def test_a_failure_is_told_and_the_others_fetched(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(RELEASES, "vmamba_tiny_s2l5", Release(f"{url}/missing.pth", None, "missing.pth"))
    monkeypatch.setitem(RELEASES, "vmamba_tiny_s1l8", Release(f"{url}/net.pth", None, "net.pth"))
    assert run("vmamba_tiny_s2l5", "no_such_net", "vmamba_tiny_s1l8", "--models-dir", str(tmp_path)) == 1
    out, err = capsys.readouterr()
    assert out.startswith("vmamba_tiny_s1l8: ")
    assert "404" in err
    assert "'no_such_net'" in err


def test_defaults_are_the_teachers_of_the_paper() -> None:
    parser = argparse.ArgumentParser()
    verb.configure(parser)
    args = parser.parse_args([])
    assert args.names == ["wide_resnet50_2", "vmamba_tiny_v0"]
    assert args.models_dir == Path("models")


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        run("--help")
    assert "vmamba_tiny_v0" in capsys.readouterr().out
