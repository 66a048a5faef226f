"""What golden values are made with, and a server on this machine that misbehaves in every way it can."""

import math
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from scripts.networks import downloads

BODY = bytes(range(256)) * 1024

Hashed = Callable[[str, Sequence[int]], np.ndarray]


@pytest.fixture(scope="session")
def hashed() -> Hashed:
    """``hashed(key, shape)``: float64 numbers in [-1, 1) that follow from key and shape alone."""

    def make(key: str, shape: Sequence[int]) -> np.ndarray:
        index = np.arange(math.prod(shape), dtype=np.uint64)
        t = ((index * np.uint64(2654435761) + np.uint64(zlib.crc32(key.encode()))) % np.uint64(2**32)) / 2.0**32
        t = np.abs(np.fmod(np.sin(t * 1298.98 + 0.5) * 43758.5453, 1.0))
        return (2 * t - 1).reshape(shape)

    return make


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
    monkeypatch.setattr(downloads, "BACKOFF_S", 0.0)
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
