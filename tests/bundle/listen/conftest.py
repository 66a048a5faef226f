"""Nodes, with senders and receivers for them to talk to."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts, build_context, evt
from pynetdicom.association import Association

from bundle.listen.node import Node
from bundle.listen.settings import Peer, Settings
from bundle.phantom.dicom import write_series

collect_ignore = ["application.py"]  # a program, which the search for examples would run
ROOT = Path(__file__).parents[3]
APPLICATION = str(Path(__file__).with_name("application.py"))
VERB = """
import argparse, sys
from bundle import listen
from bundle.listen.settings import read_settings
parser = argparse.ArgumentParser()
listen.configure(parser)
sys.exit(listen.serve(read_settings(parser.parse_args(sys.argv[2:])), [sys.executable, sys.argv[1]]))
"""
STORAGE = tuple(str(context.abstract_syntax) for context in AllStoragePresentationContexts)
LIMIT = 60.0  # s, far more than anything here takes


def wait_until(what: Callable[[], Any], limit: float = LIMIT) -> Any:
    """Waits for a true value and returns it."""
    deadline = time.monotonic() + limit
    while not (value := what()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)
    return value


@pytest.fixture(scope="session")
def eventually() -> Callable[..., Any]:
    """`wait_until` as a fixture."""
    return wait_until


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[Path]]:
    """``study(number=0, slices=3)``: the files of a CT study, the same for the same number."""

    def make(number: int = 0, slices: int = 3, syntax: str = ExplicitVRLittleEndian) -> list[Path]:
        array = np.random.default_rng(number).integers(-1000, 1000, (8, 8, slices)).astype(np.int16)
        folder = tmp_path_factory.mktemp("study")
        return write_series(folder, array, np.eye(4), study=number, transfer_syntax=syntax)

    return make


@dataclass
class Scanner:
    """Sender of objects; ``statuses`` are those of the latest ``send``."""

    port: int
    title: str = "CT1"
    called: str = "ANOMALY"
    tls: Any = None

    def associate(self, files: list[Path] = ()) -> Association:  # type: ignore[assignment]
        kinds = {
            (d.file_meta.MediaStorageSOPClassUID, d.file_meta.TransferSyntaxUID) for d in map(pydicom.dcmread, files)
        }
        contexts = [build_context(kind, syntax) for kind, syntax in kinds] + [build_context("1.2.840.10008.1.1")]
        entity = AE(self.title)
        entity.acse_timeout = entity.dimse_timeout = LIMIT
        return entity.associate("127.0.0.1", self.port, contexts, self.called, tls_args=self.tls)

    def send(self, files: list[Path]) -> list[int]:
        """Sends files and returns the statuses."""
        association = self.associate(files)
        assert association.is_established
        statuses = [association.send_c_store(file).Status for file in files]
        association.release()
        return statuses


@pytest.fixture(scope="session")
def scanner() -> type[Scanner]:
    """``scanner(port, title=..., called=...)``."""
    return Scanner


@dataclass
class Pacs:
    """Receiver that remembers the results it got; ``answer`` returns the status of the next objects."""

    title: str = "PACS"
    kinds: Sequence[str] = STORAGE
    syntaxes: Sequence[str] = tuple(ALL_TRANSFER_SYNTAXES)
    ssl_context: Any = None
    port: int = 0
    answer: Callable[[int], int] = lambda count: 0
    received: list[str] = field(default_factory=list)  # UIDs, in the order of coming
    datasets: list[pydicom.Dataset] = field(default_factory=list)
    callers: set[str] = field(default_factory=set)
    server: Any = None

    def _store(self, event: evt.Event) -> int:
        self.callers.add(event.assoc.requestor.ae_title)
        status = self.answer(len(self.received))
        if status == 0:
            self.received.append(str(event.request.AffectedSOPInstanceUID))
            dataset = event.dataset
            dataset.file_meta = event.file_meta
            self.datasets.append(dataset)
        return status

    def start(self) -> "Pacs":
        """Listens, on the same port as before if there was one."""
        entity = AE(self.title)
        entity.require_called_aet = True
        for kind in self.kinds:
            entity.add_supported_context(kind, list(self.syntaxes))
        self.server = entity.start_server(
            ("127.0.0.1", self.port),
            block=False,
            evt_handlers=[(evt.EVT_C_STORE, self._store)],
            ssl_context=self.ssl_context,
        )
        self.port = self.server.server_address[1]
        return self

    def stop(self) -> "Pacs":
        if self.server is not None:
            for association in self.server.active_associations:
                association.abort()
            self.server.shutdown()
            self.server = None
        return self


@pytest.fixture
def pacs() -> Iterator[Callable[..., Pacs]]:
    """``pacs(answer=...)``: a receiver that runs until the end of the test."""
    made: list[Pacs] = []

    def make(**options: Any) -> Pacs:
        made.append(Pacs(**options).start())
        return made[-1]

    yield make
    for one in made:
        one.stop()


@pytest.fixture
def stand_in(tmp_path: Path) -> Path:
    """Folder in the place of a model folder, which tells the application how to behave: to write three results."""
    folder = tmp_path / "stand_in"
    folder.mkdir()
    (folder / "behaviour").write_text("write")
    (folder / "runs").touch()
    return folder


@dataclass
class Running:
    """A node in this process."""

    node: Node
    thread: threading.Thread
    port: int
    queue: Path

    def names(self, state: str) -> list[str]:
        """Folders of studies in a state."""
        return sorted(path.name for path in (self.queue / state).iterdir())

    def send(self, files: list[Path]) -> list[int]:
        """Sends a whole study, in time on however slow a machine, and returns the statuses."""
        statuses = Scanner(self.port).send(files)
        self.complete()
        return statuses

    def complete(self) -> None:
        """Pretends that the quiet period of every study is over."""
        queue = self.node._queue
        with queue._lock:
            queue._due = dict.fromkeys(queue._due, 0.0)

    def end(self) -> None:
        self.node.stop.set()
        self.thread.join(LIMIT)
        assert not self.thread.is_alive()


@pytest.fixture
def listen(tmp_path: Path, stand_in: Path, caplog: pytest.LogCaptureFixture) -> Iterator[Callable[..., Running]]:
    """``listen(send_to=pacs.port, application=..., **settings)``: a node, until the end of the test; see
    ``Running.complete``."""
    made: list[Running] = []

    def start(
        send_to: int | None = None, application: Sequence[str] = (sys.executable, APPLICATION), **settings: Any
    ) -> Running:
        given: dict[str, Any] = {"model": stand_in, "queue": tmp_path / "queue", "port": 0}
        given |= {"quiet_seconds": 600.0, "min_free_gib": 0.0}
        peer = None if send_to is None else Peer("PACS", "127.0.0.1", send_to)
        node = Node(Settings(send_to=peer, **(given | settings)), application, back_off=(0.05, 0.2))
        caplog.set_level("INFO", "bundle.listen")
        seen = caplog.text.count(" listens on ")
        thread = threading.Thread(target=node.run)
        thread.start()
        wait_until(lambda: caplog.text.count(" listens on ") > seen or not thread.is_alive())
        assert thread.is_alive()
        port = int(re.findall(r"listens on \S+:(\d+)", caplog.text)[-1])
        made.append(Running(node, thread, port, tmp_path / "queue"))
        return made[-1]

    yield start
    for running in made:
        running.end()


@pytest.fixture(scope="session")
def is_alive() -> Callable[[int], bool]:
    """Whether a process runs; a zombie does not."""

    def look(pid: int) -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except FileNotFoundError:
            return False

    return look


@dataclass
class Process:
    """The verb, in a process of its own; it does not check the model folder."""

    process: subprocess.Popen[bytes]
    log: Path
    queue: Path

    @property
    def text(self) -> str:
        return self.log.read_text()

    @property
    def port(self) -> int:
        return int(wait_until(lambda: re.search(r"listens on \S+:(\d+)", self.text))[1])

    def names(self, state: str) -> list[str]:
        folder = self.queue / state
        return sorted(path.name for path in folder.iterdir()) if folder.exists() else []

    def kill(self) -> None:
        """Kills the node, as a power cut would, except that disk caches survive."""
        self.process.kill()
        self.process.wait()

    def terminate(self) -> int:
        """Asks the node to stop and returns its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(LIMIT)


@pytest.fixture
def start_verb(tmp_path: Path, stand_in: Path) -> Iterator[Callable[..., Process]]:
    """``start_verb("--send-to", ...)``: the verb with the application of the tests, until the end of the test."""
    made: list[Process] = []

    def start(*options: str) -> Process:
        log, queue = tmp_path / f"log{len(made)}.txt", tmp_path / "queue"
        words = [str(stand_in), "--queue", str(queue), "--port", "0", "--min-free-gib", "0", *options]
        with open(log, "wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-c", VERB, APPLICATION, *words],
                cwd=ROOT,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
                stdout=file,
                stderr=file,
            )
        made.append(Process(process, log, queue))
        return made[-1]

    yield start
    for one in made:
        if one.process.poll() is None:
            one.kill()


@pytest.fixture(scope="session")
def dcmtk(program: Callable[[str], str]) -> Callable[[str], str]:
    """``dcmtk("storescu")``: path of a program of DCMTK, not of pynetdicom's of the same name."""

    def find(name: str) -> str:
        return str(Path(program("dcmdump")).with_name(name))

    return find


@pytest.fixture
def storescp(tmp_path: Path, dcmtk: Callable[[str], str]) -> Iterator[Callable[[], tuple[int, Path]]]:
    """``storescp()``: DCMTK's receiver, as port and folder."""
    made: list[subprocess.Popen[bytes]] = []

    def start() -> tuple[int, Path]:
        folder = tmp_path / "storescp"
        folder.mkdir()
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        made.append(subprocess.Popen([dcmtk("storescp"), "-od", str(folder), "-aet", "PACS", str(port)]))

        def is_up() -> bool:
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        wait_until(is_up)
        return port, folder

    yield start
    for process in made:
        process.kill()
        process.wait()
