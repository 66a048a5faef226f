"""A study is received, processed, and its results are sent."""

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pydicom
import pytest

from bundle.listen.application import Application
from bundle.listen.node import LOG, Node
from bundle.listen.settings import Settings


def test_results_reach_the_peer_and_nothing_stays(
    listen: Callable[..., Any],
    pacs: Callable[..., Any],
    study: Callable[..., list[Path]],
    stand_in: Path,
    eventually: Callable[..., Any],
) -> None:
    peer = pacs()
    node = listen(send_to=peer.port)
    assert node.send(study()) == [0, 0, 0]
    eventually(lambda: len(peer.received) == 3)
    eventually(
        lambda: not any(node.names(state) for state in ("receiving", "waiting", "processing", "sending", "done"))
    )
    assert not node.names("failed")
    assert len(set(peer.received)) == 3
    assert peer.callers == {"ANOMALY"}
    source = pydicom.dcmread(study()[0])
    assert {result.StudyInstanceUID for result in peer.datasets} == {source.StudyInstanceUID}
    (run,) = (stand_in / "runs").read_text().splitlines()
    assert run.split()[1:] == ["3"]


def test_rules_and_secondary_capture_are_handed_on(
    listen: Callable[..., Any], study: Callable[..., list[Path]], stand_in: Path, eventually: Callable[..., Any]
) -> None:
    node = listen(rules=Path("brain.json"), secondary_capture=True)
    node.send(study())
    eventually(lambda: node.names("results"))
    (run,) = (stand_in / "runs").read_text().splitlines()
    assert run.split()[1:] == ["3", "--rules", "brain.json", "--secondary-capture"]


def test_without_a_peer_the_results_stay_and_the_images_go(
    listen: Callable[..., Any],
    study: Callable[..., list[Path]],
    eventually: Callable[..., Any],
) -> None:
    node = listen()
    node.send(study())
    (name,) = eventually(lambda: node.names("results"))
    folder = node.queue / "results" / name
    eventually(lambda: not (folder / "images").exists())
    assert len(list(folder.glob("output/dicom/series/*.dcm"))) == 3


def test_done_studies_are_kept_for_as_long_as_asked(
    listen: Callable[..., Any],
    pacs: Callable[..., Any],
    study: Callable[..., list[Path]],
    eventually: Callable[..., Any],
) -> None:
    peer = pacs()
    node = listen(send_to=peer.port, keep_days=1.0)
    node.send(study())
    (name,) = eventually(lambda: node.names("done"))
    assert len(list((node.queue / "done" / name / "images").iterdir())) == 3


def test_a_study_without_a_wanted_series_ends_normally(
    listen: Callable[..., Any],
    pacs: Callable[..., Any],
    study: Callable[..., list[Path]],
    stand_in: Path,
    caplog: pytest.LogCaptureFixture,
    eventually: Callable[..., Any],
) -> None:
    (stand_in / "behaviour").write_text("4")
    peer = pacs()
    node = listen(send_to=peer.port)
    node.send(study())
    eventually(lambda: "none of its series match the rules" in caplog.text)
    eventually(lambda: not node.names("processing"))
    assert not node.names("failed")
    assert not peer.received


def test_what_could_be_written_is_sent_where_some_series_are_unreadable(
    listen: Callable[..., Any],
    pacs: Callable[..., Any],
    study: Callable[..., list[Path]],
    stand_in: Path,
    caplog: pytest.LogCaptureFixture,
    eventually: Callable[..., Any],
) -> None:
    (stand_in / "behaviour").write_text("write 3")
    peer = pacs()
    node = listen(send_to=peer.port)
    node.send(study())
    eventually(lambda: len(peer.received) == 3)
    assert "some series could not be read" in caplog.text


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        ("write 1", "the application ended with exit code 1; see log.txt"),
        ("0", "the application wrote no results; see log.txt"),
        ("hang", "the application was killed: it took longer than 0.01 minutes"),
    ],
)
def test_a_failing_application_stops_neither_the_node_nor_the_next_study(
    behaviour: str,
    reason: str,
    listen: Callable[..., Any],
    pacs: Callable[..., Any],
    study: Callable[..., list[Path]],
    stand_in: Path,
    eventually: Callable[..., Any],
) -> None:
    (stand_in / "behaviour").write_text(behaviour)
    peer = pacs()
    node = listen(send_to=peer.port, **({"time_limit_minutes": 0.01} if behaviour == "hang" else {}))
    node.send(study(0))
    (name,) = eventually(lambda: node.names("failed"))
    folder = node.queue / "failed" / name
    assert (folder / "reason.txt").read_text() == f"{reason}\n"
    assert len(list((folder / "images").iterdir())) == 3
    if behaviour != "hang":
        assert (folder / LOG).read_text() == "said by the application\n"
        (stand_in / "behaviour").write_text("write")
        node.send(study(1))
        eventually(lambda: len(peer.received) == 3)
        assert node.names("failed") == [name]


def test_an_error_of_the_disk_is_tried_again(
    listen: Callable[..., Any],
    pacs: Callable[..., Any],
    study: Callable[..., list[Path]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    eventually: Callable[..., Any],
) -> None:
    def fail(*_: Any) -> int:
        raise OSError(28, "No space left on device", "/of/a/patient")

    peer = pacs()
    node = listen(send_to=peer.port)
    with monkeypatch.context() as patch:
        patch.setattr(Application, "run", fail)
        node.send(study())
        eventually(lambda: caplog.text.count("will try again: OSError (No space left on device) in process_one") > 1)
    eventually(lambda: len(peer.received) == 3)
    assert "/of/a/patient" not in caplog.text
    assert not node.names("failed")


def test_a_port_that_is_taken_is_told_at_the_start(listen: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"Cannot listen on 127\.0\.0\.1:\d+: .*Choose another --host or --port"):
        Node(Settings(tmp_path, tmp_path / "other", port=listen().port), []).run()


@pytest.mark.parametrize("by", ["option", "hand"])
def test_a_failed_study_is_tried_again_when_asked_alone(
    by: str,
    listen: Callable[..., Any],
    pacs: Callable[..., Any],
    study: Callable[..., list[Path]],
    stand_in: Path,
    eventually: Callable[..., Any],
) -> None:
    (stand_in / "behaviour").write_text("1")
    peer = pacs()
    node = listen(send_to=peer.port)
    node.send(study())
    (name,) = eventually(lambda: node.names("failed"))
    (stand_in / "behaviour").write_text("write")
    if by == "option":
        node.end()
        listen(send_to=peer.port).end()
        assert node.names("failed") == [name]
        listen(send_to=peer.port, retry_failed=True)
    else:
        (node.queue / "failed" / name).rename(node.queue / "waiting" / name)
    eventually(lambda: len(peer.received) == 3)
    assert not node.names("failed")


def test_a_queue_is_of_one_node_alone(listen: Callable[..., Any], start_verb: Callable[..., Any]) -> None:
    listen()
    second = start_verb()
    assert second.process.wait(60) == 1
    assert "is in use by another node" in second.text


def test_the_log_names_no_patient(
    listen: Callable[..., Any],
    pacs: Callable[..., Any],
    study: Callable[..., list[Path]],
    caplog: pytest.LogCaptureFixture,
    eventually: Callable[..., Any],
) -> None:
    peer = pacs()
    node = listen(send_to=peer.port, keep_days=1.0)
    node.send(study())
    (name,) = eventually(lambda: node.names("done"))
    logged = "\n".join(record.getMessage() for record in caplog.records if record.name.startswith("bundle"))
    for text in ("receiving", "complete, 3 objects", "processing", "3 results sent"):
        assert f"study {name}: {text}" in logged
    source = pydicom.dcmread(study()[0])
    secrets = [source.PatientID, str(source.PatientName), source.StudyInstanceUID, source.SOPInstanceUID]
    paths = "\n".join(str(path) for path in node.queue.rglob("*"))
    assert not [secret for secret in secrets if secret in logged or secret in paths]


def test_dcmtk_sends_to_the_node_and_takes_its_results(
    listen: Callable[..., Any],
    dcmtk: Callable[[str], str],
    storescp: Callable[..., Any],
    study: Callable[..., list[Path]],
    eventually: Callable[..., Any],
) -> None:
    port, folder = storescp()
    node = listen(send_to=port)
    peer = ["-aet", "CT1", "-aec", "ANOMALY", "127.0.0.1", str(node.port)]
    subprocess.run([dcmtk("echoscu"), *peer], check=True, timeout=60)
    subprocess.run([dcmtk("storescu"), *peer, *map(str, study())], check=True, timeout=60)
    node.complete()
    eventually(lambda: len(list(folder.iterdir())) == 3)
    eventually(lambda: not node.names("sending"))
    assert not node.names("failed")
    results = [pydicom.dcmread(path) for path in folder.iterdir()]
    assert {result.StudyInstanceUID for result in results} == {pydicom.dcmread(study()[0]).StudyInstanceUID}
