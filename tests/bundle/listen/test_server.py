"""What a node accepts, from whom, and when a study is complete."""

import socket
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.uid import ExplicitVRBigEndian, JPEGLSLossless, RLELossless

from bundle.listen.queue import StudyQueue
from bundle.listen.server import _Server
from bundle.listen.settings import Caller

CALLING_AE_TITLE, CALLED_AE_TITLE = 3, 7  # diagnostics of a rejection, PS3.8 table 9-21


def kept(node: Any, state: str = "receiving") -> list[list[Path]]:
    """Files of every study in a state."""
    return [sorted((node.queue / state / name / "images").iterdir()) for name in node.names(state)]


def test_verification_is_answered(listen: Callable[..., Any], scanner: Callable[..., Any]) -> None:
    association = scanner(listen().port).associate()
    assert association.send_c_echo().Status == 0
    association.release()


def test_the_studies_of_one_association_are_kept_apart(
    listen: Callable[..., Any], scanner: Callable[..., Any], study: Callable[..., list[Path]]
) -> None:
    node = listen()
    first, second = study(0, slices=2), study(1, slices=3)
    scanner(node.port).send([second[0], first[0], second[1], first[1], second[2]])
    found = [{pydicom.dcmread(path).StudyInstanceUID for path in paths} for paths in kept(node)]
    assert sorted(map(len, kept(node))) == [2, 3]
    assert found == [{pydicom.dcmread(paths[0]).StudyInstanceUID} for paths in (second, first)]


def test_a_study_may_come_over_several_associations(
    listen: Callable[..., Any], scanner: Callable[..., Any], study: Callable[..., list[Path]]
) -> None:
    node = listen()
    for file in study():
        scanner(node.port).send([file])
    (files,) = kept(node)
    assert len(files) == 3


def test_an_object_that_comes_twice_is_one_file(
    listen: Callable[..., Any], scanner: Callable[..., Any], study: Callable[..., list[Path]]
) -> None:
    node = listen()
    files = study()
    assert scanner(node.port).send([*files, *files]) == [0] * 6
    (found,) = kept(node)
    assert sorted(pydicom.dcmread(path).SOPInstanceUID for path in found) == sorted(
        pydicom.dcmread(path).SOPInstanceUID for path in files
    )


@pytest.mark.parametrize("syntax", [JPEGLSLossless, RLELossless, ExplicitVRBigEndian])
def test_an_object_is_stored_as_it_was_sent(
    syntax: str, listen: Callable[..., Any], scanner: Callable[..., Any], study: Callable[..., list[Path]]
) -> None:
    node = listen()
    (file,) = study(slices=1, syntax=syntax)
    scanner(node.port).send([file])
    ((found,),) = kept(node)
    sent, stored = pydicom.dcmread(file), pydicom.dcmread(found)
    assert stored.file_meta.TransferSyntaxUID == syntax
    assert stored.PixelData == sent.PixelData
    assert stored == sent


def test_an_object_without_a_study_is_not_understood(
    listen: Callable[..., Any], scanner: Callable[..., Any], study: Callable[..., list[Path]], tmp_path: Path
) -> None:
    node = listen()
    dataset = pydicom.dcmread(study()[0])
    del dataset.StudyInstanceUID
    dataset.save_as(tmp_path / "no_study.dcm")
    assert scanner(node.port).send([tmp_path / "no_study.dcm"]) == [0xC000]
    assert not node.names("receiving")


def test_a_full_queue_refuses_a_further_study_until_there_is_room(
    listen: Callable[..., Any],
    scanner: Callable[..., Any],
    study: Callable[..., list[Path]],
    stand_in: Path,
    eventually: Callable[..., Any],
) -> None:
    (stand_in / "behaviour").write_text("hang")
    node = listen(max_studies=1)
    assert scanner(node.port).send(study(0)) == [0, 0, 0]
    assert scanner(node.port).send(study(1)) == [0xA700] * 3
    node.complete()
    eventually(lambda: node.names("processing"))
    assert scanner(node.port).send(study(1)) == [0xA700] * 3
    node.end()
    node = listen(max_studies=2)
    assert scanner(node.port).send(study(1)) == [0, 0, 0]


def test_dcmtk_is_told_that_a_full_queue_is_out_of_resources(
    listen: Callable[..., Any],
    scanner: Callable[..., Any],
    study: Callable[..., list[Path]],
    dcmtk: Callable[[str], str],
) -> None:
    node = listen(max_studies=1)
    scanner(node.port).send(study(0))
    command = [dcmtk("storescu"), "-v", "-aec", "ANOMALY", "127.0.0.1", str(node.port), str(study(1)[0])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert "Refused: OutOfResources" in done.stdout + done.stderr


def test_a_disk_without_room_refuses(
    listen: Callable[..., Any], scanner: Callable[..., Any], study: Callable[..., list[Path]]
) -> None:
    node = listen(min_free_gib=2.0**40)
    assert scanner(node.port).send(study()) == [0xA700] * 3
    assert not node.names("receiving")


def test_another_called_ae_title_is_rejected(
    listen: Callable[..., Any],
    scanner: Callable[..., Any],
    caplog: pytest.LogCaptureFixture,
    eventually: Callable[..., Any],
) -> None:
    association = scanner(listen().port, called="OTHER").associate()
    assert association.is_rejected
    assert association.acceptor.primitive.diagnostic == CALLED_AE_TITLE
    message = "'CT1' at 127.0.0.1 to 'OTHER' rejected: Called AE title not recognised"
    eventually(lambda: message in caplog.text)


def test_connections_that_ask_for_nothing_keep_nobody_out(
    listen: Callable[..., Any], scanner: Callable[..., Any]
) -> None:
    node = listen()
    for _ in range(12):  # as monitors make them
        socket.create_connection(("127.0.0.1", node.port)).close()
    association = scanner(node.port).associate()
    assert association.send_c_echo().Status == 0
    association.release()


@pytest.mark.parametrize(
    ("allowed", "title", "enters"),
    [
        ("CT1", "CT1", True),
        ("CT1", "CT2", False),
        ("CT1@127.0.0.1", "CT1", True),
        ("CT1@127.0.0.0/8", "CT1", True),
        ("CT1@127.0.0.2", "CT1", False),
        ("CT1@10.0.0.7", "CT1", False),
    ],
)
def test_only_those_on_the_list_may_send(
    allowed: str,
    title: str,
    enters: bool,
    listen: Callable[..., Any],
    scanner: Callable[..., Any],
    study: Callable[..., list[Path]],
) -> None:
    node = listen(allow=(Caller.parse("MR1@10.0.0.8"), Caller.parse(allowed)))
    association = scanner(node.port, title=title).associate(study())
    assert association.is_established == enters
    assert association.is_rejected != enters
    if enters:
        assert association.send_c_store(study()[0]).Status == 0
        association.release()
    else:
        assert association.acceptor.primitive.diagnostic == CALLING_AE_TITLE
        assert not node.names("receiving")


def test_an_error_in_the_list_lets_nobody_in(
    listen: Callable[..., Any], scanner: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: str) -> bool:
        raise ValueError

    monkeypatch.setattr(Caller, "is_of", fail)
    node = listen(allow=(Caller("CT1"),))
    assert scanner(node.port).associate().is_rejected


def test_a_study_is_complete_after_a_quiet_time_though_its_association_stays_open(
    listen: Callable[..., Any],
    scanner: Callable[..., Any],
    study: Callable[..., list[Path]],
    eventually: Callable[..., Any],
) -> None:
    node = listen(quiet_seconds=0.3)
    files = study()
    association = scanner(node.port).associate(files)
    for file in files:
        association.send_c_store(file)
    eventually(lambda: node.names("results"))
    association.release()


def test_data_on_the_way_hold_the_study_of_the_latest_object_open(
    listen: Callable[..., Any],
    scanner: Callable[..., Any],
    study: Callable[..., list[Path]],
    monkeypatch: pytest.MonkeyPatch,
    eventually: Callable[..., Any],
) -> None:
    held: list[str] = []
    monkeypatch.setattr(StudyQueue, "hold", lambda queue, key: held.append(key))
    node = listen()
    files = [study(0)[0], study(1)[0]]
    association = scanner(node.port).associate(files)
    association.send_c_echo()
    assert not held
    for file in files:
        association.send_c_store(file)
        (key,) = {name.rpartition("-")[2] for name in node.names("receiving")} - set(held)
        association.send_c_echo()
        eventually(lambda key=key: held[-1:] == [key])
    association.release()


def test_a_study_whose_sending_broke_off_is_waited_for(
    listen: Callable[..., Any],
    scanner: Callable[..., Any],
    study: Callable[..., list[Path]],
    caplog: pytest.LogCaptureFixture,
    eventually: Callable[..., Any],
) -> None:
    node = listen()
    files = study()
    association = scanner(node.port).associate(files)
    association.send_c_store(files[0])
    association.release()
    association = scanner(node.port).associate(files)
    association.send_c_store(files[1])
    assert "broke off" not in caplog.text
    association.dul.socket.socket.close()  # as when the sender is switched off
    eventually(lambda: "broke off" in caplog.text)


def test_a_sender_that_falls_silent_in_the_middle_of_an_object_has_broken_off(
    listen: Callable[..., Any],
    scanner: Callable[..., Any],
    study: Callable[..., list[Path]],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    eventually: Callable[..., Any],
) -> None:
    monkeypatch.setattr("bundle.listen.server._STALL", 0.5)
    association = scanner(listen().port).associate(study())
    association.send_c_store(study()[0])
    association.dul.socket.socket.sendall(b"\x04\0\0\0\1\0half")  # and the connection stays
    eventually(lambda: "broke off" in caplog.text)


def test_a_connection_that_is_made_while_the_node_ends_is_closed(
    listen: Callable[..., Any], scanner: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, ended = threading.Event(), threading.Event()
    finish_request = _Server.finish_request

    def wait(*args: Any) -> None:
        made.set()
        assert ended.wait(60)
        finish_request(*args)

    monkeypatch.setattr(_Server, "finish_request", wait)
    node = listen()
    with socket.create_connection(("127.0.0.1", node.port)) as connection:
        assert made.wait(60)
        node.end()
        ended.set()
        connection.settimeout(20)  # an association is waited for during 30 s
        assert connection.recv(1) == b""


def test_an_object_for_a_study_that_waits_is_added_to_it(
    listen: Callable[..., Any],
    study: Callable[..., list[Path]],
    stand_in: Path,
    eventually: Callable[..., Any],
) -> None:
    (stand_in / "behaviour").write_text("hang")
    node = listen()
    node.send(study(0))
    eventually(lambda: node.names("processing"))
    files = study(1)
    node.send(files[:2])
    (name,) = eventually(lambda: node.names("waiting"))
    node.send(files[1:])
    eventually(lambda: node.names("waiting") == [name] and len(kept(node, "waiting")[0]) == 3)


def test_an_object_that_is_in_work_already_begins_no_second_study(
    listen: Callable[..., Any],
    study: Callable[..., list[Path]],
    stand_in: Path,
    eventually: Callable[..., Any],
) -> None:
    (stand_in / "behaviour").write_text("hang")
    node = listen()
    files = study(slices=4)
    node.send(files[:3])
    eventually(lambda: node.names("processing"))
    assert node.send(files) == [0] * 4
    (late,) = eventually(lambda: [*node.names("receiving"), *node.names("waiting")])
    eventually(lambda: node.names("waiting") == [late])
    (found,) = kept(node, "waiting")
    assert [pydicom.dcmread(path).SOPInstanceUID for path in found] == [pydicom.dcmread(files[3]).SOPInstanceUID]
