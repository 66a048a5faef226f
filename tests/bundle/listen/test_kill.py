"""A node killed at any point loses and repeats nothing; one asked to stop does so cleanly."""

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pydicom
import pytest

INTERRUPTED = """
import argparse, signal, threading
from bundle import listen
from bundle.listen import node
from bundle.listen.settings import read_settings

class Node:
    def __init__(self, *_):
        self.stop = threading.Event()

    def run(self):
        with self.stop._cond:  # as wait does
            signal.raise_signal(signal.SIGTERM)
        assert self.stop.wait(60)

node.Node = Node
parser = argparse.ArgumentParser()
listen.configure(parser)
listen.serve(read_settings(parser.parse_args(["model", "--queue", "queue"])))
"""
OPEN = ("--quiet-seconds", "600")
QUICK = ("--quiet-seconds", "1.5", "--patience-minutes", "0.02")


def images(node: Any, state: str) -> list[int]:
    return [len(list((node.queue / state / name / "images").glob("*.dcm"))) for name in node.names(state)]


def test_killed_while_receiving(
    start_verb: Callable[..., Any],
    scanner: Callable[..., Any],
    pacs: Callable[..., Any],
    study: Callable[..., list[Path]],
    stand_in: Path,
    eventually: Callable[..., Any],
) -> None:
    peer = pacs()
    files = study(slices=40)
    node = start_verb(*OPEN)
    acknowledged: list[Path] = []

    def send() -> None:
        association = scanner(node.port).associate(files)
        for file in files * 50:
            if not association.is_established or association.send_c_store(file).get("Status") != 0:
                return
            acknowledged.append(file)

    sender = threading.Thread(target=send)
    sender.start()
    eventually(lambda: len(acknowledged) > 10)
    node.kill()  # at any point of keeping an object
    sender.join()

    node = start_verb(*OPEN)
    assert node.port
    kept = {pydicom.dcmread(path).SOPInstanceUID for path in node.queue.glob("receiving/*/images/*")}
    assert {pydicom.dcmread(path).SOPInstanceUID for path in set(acknowledged)} <= kept
    assert scanner(node.port).send(files) == [0] * 40
    node.kill()

    node = start_verb(*QUICK, "--send-to", f"PACS@127.0.0.1:{peer.port}")
    eventually(lambda: len(peer.received) == 3)
    eventually(lambda: not node.names("sending") and not node.names("done"))
    assert [line.split()[1] for line in (stand_in / "runs").read_text().splitlines()] == ["40"]


def test_killed_while_a_study_waits_and_another_is_processed(
    start_verb: Callable[..., Any],
    scanner: Callable[..., Any],
    pacs: Callable[..., Any],
    study: Callable[..., list[Path]],
    stand_in: Path,
    is_alive: Callable[[int], bool],
    eventually: Callable[..., Any],
) -> None:
    peer = pacs()
    (stand_in / "behaviour").write_text("hang")
    node = start_verb(*QUICK)
    scanner(node.port).send(study(0))
    eventually(lambda: (stand_in / "runs").read_text())
    scanner(node.port).send(study(1, slices=4))
    eventually(lambda: images(node, "waiting") == [4])
    node.kill()

    (stand_in / "behaviour").write_text("write")
    node = start_verb(*QUICK, "--send-to", f"PACS@127.0.0.1:{peer.port}")
    eventually(lambda: len(peer.received) == 6)
    eventually(lambda: not node.names("sending") and not node.names("done"))
    assert len(set(peer.received)) == 6
    assert "an earlier node left running" in node.text
    runs = [line.split() for line in (stand_in / "runs").read_text().splitlines()]
    assert [count for _, count in runs] == ["3", "3", "4"]
    assert not is_alive(int(runs[0][0]))  # the one that hung
    assert not node.names("failed")


def test_killed_while_sending(
    start_verb: Callable[..., Any],
    scanner: Callable[..., Any],
    pacs: Callable[..., Any],
    study: Callable[..., list[Path]],
    stand_in: Path,
    eventually: Callable[..., Any],
) -> None:
    reached, go_on = threading.Event(), threading.Event()

    def answer(count: int) -> int:
        if count == 1 and not reached.is_set():
            reached.set()
            assert go_on.wait(60)
        return 0

    peer = pacs(answer=answer)
    node = start_verb(*QUICK, "--send-to", f"PACS@127.0.0.1:{peer.port}")
    scanner(node.port).send(study())
    assert reached.wait(60)
    node.kill()  # the peer has taken one object, and takes another that it cannot acknowledge
    go_on.set()
    eventually(lambda: len(peer.received) == 2)

    node = start_verb(*QUICK, "--send-to", f"PACS@127.0.0.1:{peer.port}")
    eventually(lambda: "3 results sent" in node.text)
    assert len(peer.received) == 5
    assert len(set(peer.received)) == 3  # the same objects
    assert len((stand_in / "runs").read_text().splitlines()) == 1
    assert not node.names("failed")


def test_killed_while_the_peer_is_away(
    start_verb: Callable[..., Any],
    scanner: Callable[..., Any],
    pacs: Callable[..., Any],
    study: Callable[..., list[Path]],
    stand_in: Path,
    eventually: Callable[..., Any],
) -> None:
    peer = pacs().stop()
    node = start_verb(*QUICK, "--send-to", f"PACS@127.0.0.1:{peer.port}")
    scanner(node.port).send(study())
    eventually(lambda: "cannot be reached" in node.text)
    node.kill()
    peer.start()
    node = start_verb(*QUICK, "--send-to", f"PACS@127.0.0.1:{peer.port}")
    eventually(lambda: len(peer.received) == 3)
    assert len((stand_in / "runs").read_text().splitlines()) == 1


@pytest.mark.parametrize("doing", ["receiving", "processing", "sending", "being kept waiting"])
def test_a_signal_ends_it_cleanly_whatever_it_does(
    doing: str,
    start_verb: Callable[..., Any],
    scanner: Callable[..., Any],
    pacs: Callable[..., Any],
    study: Callable[..., list[Path]],
    stand_in: Path,
    is_alive: Callable[[int], bool],
    eventually: Callable[..., Any],
) -> None:
    reached, go_on = threading.Event(), threading.Event()

    def answer(count: int) -> int:
        reached.set()
        assert go_on.wait(60)
        return 0

    peer = pacs(answer=answer)
    if doing != "being kept waiting":
        go_on.set()
    to_peer = ("--send-to", f"PACS@127.0.0.1:{peer.port}")
    if doing == "processing":
        (stand_in / "behaviour").write_text("hang")
    if doing == "sending":
        peer.stop()
    node = start_verb(*(QUICK if doing != "receiving" else OPEN), *to_peer)
    association = scanner(node.port).associate(study())
    for file in study():
        assert association.send_c_store(file).Status == 0
    done = {
        "receiving": lambda: node.names("receiving"),
        "processing": lambda: (stand_in / "runs").read_text(),
        "sending": lambda: "cannot be reached" in node.text,
        "being kept waiting": reached.is_set,
    }
    eventually(done[doing])
    assert node.terminate() == 0
    assert "Traceback" not in node.text
    for line in (stand_in / "runs").read_text().splitlines():
        assert not is_alive(int(line.split()[0]))

    go_on.set()
    (stand_in / "behaviour").write_text("write")
    if doing == "sending":
        peer.start()
    node = start_verb(*QUICK, *to_peer)
    eventually(lambda: "3 results sent" in node.text)
    assert len(set(peer.received)) == 3
    assert not node.names("failed")


def test_no_peer_can_bring_a_traceback_into_the_log(
    start_verb: Callable[..., Any],
    scanner: Callable[..., Any],
    eventually: Callable[..., Any],
) -> None:
    node = start_verb(*OPEN)
    association = scanner(node.port).associate()
    connection = association.dul.socket.socket
    connection.sendall(b"\x04\0\0\0\0\x06" + b"\0\0\0\2\1\3")  # an empty command
    eventually(lambda: "a connection ended with an error: AttributeError" in node.text)
    eventually(lambda: not association.is_established)
    association = scanner(node.port).associate()
    assert association.send_c_echo().Status == 0
    association.release()
    assert node.terminate() == 0
    assert "Traceback" not in node.text


def test_a_signal_at_any_moment_ends_it() -> None:
    subprocess.run([sys.executable, "-c", INTERRUPTED], cwd=Path(__file__).parents[3], check=True, timeout=30)
