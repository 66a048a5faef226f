"""Results sent to a peer that is away, slow, full or choosy."""

import contextlib
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event, Thread
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.uid import (
    Comprehensive3DSRStorage,
    CTImageStorage,
    ImplicitVRLittleEndian,
    ParametricMapStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)
from pynetdicom import AE

from bundle.listen.sender import PeerAwayError, RefusedError, Sender
from bundle.listen.settings import Peer
from scripts.dicom.results import write_dicom
from scripts.dicom.series import find_series, read_series
from scripts.model.algorithm import Algorithm
from scripts.results.result import Result


def test_a_peer_that_is_away_is_tried_until_it_is_back(
    listen: Callable[..., Any],
    pacs: Callable[..., Any],
    study: Callable[..., list[Path]],
    stand_in: Path,
    caplog: pytest.LogCaptureFixture,
    eventually: Callable[..., Any],
) -> None:
    peer = pacs().stop()
    node = listen(send_to=peer.port)
    node.send(study())
    eventually(lambda: caplog.text.count("cannot be reached; next try in 0.2 s") >= 2)
    assert "next try in 0.05 s" in caplog.text
    assert node.names("sending")
    peer.start()
    eventually(lambda: len(peer.received) == 3 and not node.names("sending"))
    assert len((stand_in / "runs").read_text().splitlines()) == 1


def test_what_was_acknowledged_is_not_sent_again(
    listen: Callable[..., Any],
    pacs: Callable[..., Any],
    study: Callable[..., list[Path]],
    caplog: pytest.LogCaptureFixture,
    eventually: Callable[..., Any],
) -> None:
    full = True
    peer = pacs(answer=lambda count: 0xA700 if full and count == 2 else 0)
    node = listen(send_to=peer.port)
    node.send(study())
    eventually(lambda: "PACS is out of resources (status 0xA700)" in caplog.text)
    full = False
    eventually(lambda: not node.names("sending"))
    assert len(peer.received) == len(set(peer.received)) == 3


def test_a_peer_that_rejects_is_tried_again(
    listen: Callable[..., Any],
    pacs: Callable[..., Any],
    study: Callable[..., list[Path]],
    caplog: pytest.LogCaptureFixture,
    eventually: Callable[..., Any],
) -> None:
    peer = pacs(title="OTHER")
    node = listen(send_to=peer.port)
    node.send(study())
    eventually(lambda: "rejects the association" in caplog.text)
    assert node.names("sending")
    peer.stop()
    peer.title = "PACS"
    peer.start()
    eventually(lambda: len(peer.received) == 3)


def test_an_association_that_breaks_off_is_made_again(
    listen: Callable[..., Any],
    pacs: Callable[..., Any],
    study: Callable[..., list[Path]],
    caplog: pytest.LogCaptureFixture,
    eventually: Callable[..., Any],
) -> None:
    broken = False

    def answer(count: int) -> int:
        nonlocal broken
        if count == 1 and not broken:
            broken = True
            for association in peer.server.active_associations:
                association.abort()
        return 0

    peer = pacs(answer=answer)
    node = listen(send_to=peer.port)
    node.send(study())
    eventually(lambda: "3 results sent" in caplog.text)
    assert "PACS does not answer, or ended the association" in caplog.text
    assert len(set(peer.received)) == 3


@pytest.mark.parametrize("status", [0xB000, 0x0111])
def test_a_warning_or_a_duplicate_is_as_good_as_taken(
    status: int,
    listen: Callable[..., Any],
    pacs: Callable[..., Any],
    study: Callable[..., list[Path]],
    caplog: pytest.LogCaptureFixture,
    eventually: Callable[..., Any],
) -> None:
    peer = pacs(answer=lambda count: status)
    node = listen(send_to=peer.port)
    node.send(study())
    eventually(lambda: "3 results sent" in caplog.text)


def test_an_object_that_is_refused_fails_the_study_after_the_others_were_sent(
    listen: Callable[..., Any],
    pacs: Callable[..., Any],
    study: Callable[..., list[Path]],
    stand_in: Path,
    eventually: Callable[..., Any],
) -> None:
    answers = iter([0, 0xC000, 0])
    peer = pacs(answer=lambda count: next(answers, 0))
    node = listen(send_to=peer.port)
    node.send(study())
    (name,) = eventually(lambda: node.names("failed"))
    reason = "PACS refuses 1 of 3: CT Image Storage with status 0xC000\n"
    assert (node.queue / "failed" / name / "reason.txt").read_text() == reason
    assert len(peer.received) == 2
    node.end()
    listen(send_to=peer.port, retry_failed=True)
    eventually(lambda: len(set(peer.received)) == 3)
    assert len((stand_in / "runs").read_text().splitlines()) == 1  # the same objects, not made anew


def test_results_that_are_made_anew_after_a_refusal_are_all_sent(
    pacs: Callable[..., Any], study: Callable[..., list[Path]]
) -> None:
    refuses = True
    peer = pacs(answer=lambda count: 0xC000 if refuses and count == 1 else 0)
    sender = Sender("ANOMALY", Peer("PACS", "127.0.0.1", peer.port), None)
    files = study(0, slices=2)
    with pytest.raises(RefusedError):
        sender.send(files, Event())
    refuses = False
    for file, new in zip(files, study(1, slices=2), strict=True):
        new.replace(file)
    uids = [pydicom.dcmread(file).SOPInstanceUID for file in files]
    assert sender.send(files, Event())
    assert peer.received[1:] == uids


@pytest.fixture
def results(study: Callable[..., list[Path]], tmp_path: Path) -> list[Path]:
    """Every kind of object that inference writes."""
    (series,) = find_series(study(slices=6)[0].parent, progress=False).series
    volume = read_series(series)
    anomaly_map = (volume.array - volume.array.min()).astype(np.float32)
    result = Result(
        score=0.5,
        scan_threshold=0.4,
        slice_threshold=0.4,
        mask_threshold=1000.0,
        p_value=0.05,
        false_positive_rate=0.05,
        slice_scores=[0.5] * 6,
        slice_p_values=[0.05] * 6,
        top_slices=[0],
        plane="axial",
        anomaly_map=anomaly_map,
        mask=anomaly_map > 1000,
    )
    algorithm = Algorithm("PDD", "1", "0123456789abcdef")
    return write_dicom(volume, result, algorithm, tmp_path / "out", secondary_capture=True)


def test_every_kind_of_result_is_taken_by_dcmtk_as_it_was_written(
    results: list[Path], storescp: Callable[..., Any]
) -> None:
    port, folder = storescp()
    assert Sender("ANOMALY", Peer("PACS", "127.0.0.1", port), None).send(results, Event())
    sent = {dataset.SOPInstanceUID: dataset for dataset in map(pydicom.dcmread, results)}
    stored = {dataset.SOPInstanceUID: dataset for dataset in map(pydicom.dcmread, folder.iterdir())}
    assert {dataset.SOPClassUID for dataset in sent.values()} == {
        SegmentationStorage,
        ParametricMapStorage,
        Comprehensive3DSRStorage,
        SecondaryCaptureImageStorage,
    }
    assert stored == sent


def test_a_peer_that_knows_implicit_vr_alone_gets_that(results: list[Path], pacs: Callable[..., Any]) -> None:
    peer = pacs(syntaxes=[ImplicitVRLittleEndian])
    assert Sender("ANOMALY", Peer("PACS", "127.0.0.1", peer.port), None).send(results, Event())
    assert {dataset.file_meta.TransferSyntaxUID for dataset in peer.datasets} == {ImplicitVRLittleEndian}
    assert {dataset.SOPInstanceUID: pixels(dataset) for dataset in peer.datasets} == {
        dataset.SOPInstanceUID: pixels(dataset) for dataset in map(pydicom.dcmread, results)
    }


def pixels(dataset: pydicom.Dataset) -> bytes | None:
    return dataset.get("PixelData", dataset.get("FloatPixelData"))


def test_results_that_cannot_be_read_fail_their_study_alone(
    listen: Callable[..., Any],
    pacs: Callable[..., Any],
    study: Callable[..., list[Path]],
    eventually: Callable[..., Any],
) -> None:
    peer = pacs().stop()
    node = listen(send_to=peer.port)
    node.send(study(0))
    (name,) = eventually(lambda: node.names("sending"))
    for path in (node.queue / "sending" / name / "output").rglob("*.dcm"):
        path.write_bytes(b"torn")
    node.send(study(1))
    peer.start()
    eventually(lambda: len(peer.received) == 3)
    assert eventually(lambda: node.names("failed")) == [name]
    reason = (node.queue / "failed" / name / "reason.txt").read_text()
    assert reason == "its results cannot be read: InvalidDicomError\n"


def test_a_kind_that_the_peer_does_not_accept_is_named_after_the_others_were_sent(
    results: list[Path], pacs: Callable[..., Any]
) -> None:
    peer = pacs(kinds=[SegmentationStorage, Comprehensive3DSRStorage, SecondaryCaptureImageStorage])
    sender = Sender("ANOMALY", Peer("PACS", "127.0.0.1", peer.port), None)
    with pytest.raises(
        RefusedError, match="^PACS refuses 1 of [0-9]+: Parametric Map Storage is not among what it acc"
    ):
        sender.send(results, Event())
    assert len(peer.received) == len(results) - 1


def test_a_peer_that_accepts_nothing_is_tried_again(results: list[Path], pacs: Callable[..., Any]) -> None:
    peer = pacs(kinds=[CTImageStorage])
    with pytest.raises(PeerAwayError, match="accepts none of these kinds of objects"):
        Sender("ANOMALY", Peer("PACS", "127.0.0.1", peer.port), None).send(results, Event())


def test_a_peer_whose_name_is_not_known_is_away(
    study: Callable[..., list[Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    sender = Sender("ANOMALY", Peer("PACS", "pacs.example", 104), None)
    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(PeerAwayError, match="PACS at pacs.example:104 cannot be reached: Name or service not known"):
        sender.send(study(), Event())


ACCEPTANCE, ANSWER, RELEASE = 2, 4, 6  # types of PDU, which are the first bytes


@pytest.fixture
def swallow() -> Iterator[Callable[[int, int], tuple[int, Event]]]:
    """``swallow(port, kind)``: port of a relay to a peer that lets nothing back from the first PDU of a
    kind on, and an event that says that it came."""
    sockets: list[socket.socket] = []

    def pass_on(source: socket.socket, sink: socket.socket, until: int, came: Event) -> None:
        while content := source.recv(2**16):
            if content[0] == until:
                came.set()
            if not came.is_set():
                sink.sendall(content)

    def start(port: int, kind: int) -> tuple[int, Event]:
        came = Event()
        listener = socket.create_server(("127.0.0.1", 0))
        sockets.append(listener)

        def serve() -> None:
            near, far = listener.accept()[0], socket.create_connection(("127.0.0.1", port))
            sockets.extend((near, far))
            for source, sink, until in ((near, far, -1), (far, near, kind)):
                Thread(target=pass_on, args=(source, sink, until, came), daemon=True).start()

        Thread(target=serve, daemon=True).start()
        return listener.getsockname()[1], came

    yield start
    for one in sockets:
        one.close()


def test_a_large_object_has_time_to_be_sent(
    pacs: Callable[..., Any], study: Callable[..., list[Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    files = study(slices=1)
    monkeypatch.setattr("bundle.listen.sender._ANSWER", 0.5)
    monkeypatch.setattr("bundle.listen.sender._SLOWEST", files[0].stat().st_size / 60.0)
    peer = pacs(answer=lambda count: int(Event().wait(1.5)))  # as long as a slow line takes
    assert Sender("ANOMALY", Peer("PACS", "127.0.0.1", peer.port), None).send(files, Event())


def test_a_peer_that_stops_reading_is_away(
    pacs: Callable[..., Any],
    study: Callable[..., list[Path]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    eventually: Callable[..., Any],
) -> None:
    monkeypatch.setattr("bundle.listen.sender._ANSWER", 0.5)
    dataset = pydicom.dcmread(study()[0])
    dataset.PixelData = bytes(2**25)  # more than is on the way
    dataset.save_as(tmp_path / "large.dcm")
    port, caught = pacs().port, []

    def accept_and_read_no_more() -> None:
        near, far = listener.accept()[0], socket.create_connection(("127.0.0.1", port))
        sockets.extend((near, far))
        far.sendall(near.recv(2**16))
        near.sendall(far.recv(2**16))

    def send() -> None:
        try:
            Sender("ANOMALY", Peer("PACS", *listener.getsockname()), None).send([tmp_path / "large.dcm"], Event())
        except PeerAwayError as error:
            caught.append(str(error))

    with socket.create_server(("127.0.0.1", 0)) as listener, contextlib.ExitStack() as stack:
        sockets: list[socket.socket] = []
        stack.callback(lambda: [one.close() for one in sockets])
        for target in (accept_and_read_no_more, send):
            Thread(target=target, daemon=True).start()
        assert eventually(lambda: caught) == ["PACS does not answer, or ended the association"]


@pytest.mark.parametrize("kind", [ACCEPTANCE, ANSWER, RELEASE])
def test_the_end_of_a_node_waits_for_no_peer(
    kind: int,
    swallow: Callable[[int, int], tuple[int, Event]],
    pacs: Callable[..., Any],
    study: Callable[..., list[Path]],
    eventually: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Patient(AE):
        def __init__(self, title: str) -> None:
            super().__init__(title)
            self.acse_timeout = None  # for ever

    monkeypatch.setattr("bundle.listen.sender.AE", Patient)
    port, came = swallow(pacs().port, kind)
    sender, stop = Sender("ANOMALY", Peer("PACS", "127.0.0.1", port), None), Event()
    ended = Event()

    def send() -> None:
        with contextlib.suppress(PeerAwayError):
            sender.send(study(), stop)
        ended.set()

    thread = Thread(target=send, daemon=True)
    thread.start()
    eventually(came.is_set)
    assert not ended.is_set()
    stop.set()
    sender.abort()
    eventually(ended.is_set)
