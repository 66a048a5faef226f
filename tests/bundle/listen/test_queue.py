"""Folders of the queue, without a network."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from bundle.listen.queue import STATES, QueueFullError, StudyQueue


@pytest.fixture
def queue_of(tmp_path: Path) -> Iterator[Callable[..., StudyQueue]]:
    """``queue_of(quiet=..., ...)``: a queue in use, always in the same folder; the previous one is abandoned."""
    stack = ExitStack()

    def make(**options: Any) -> StudyQueue:
        stack.close()
        given = {"quiet": 0.0, "patience": 600.0, "max_studies": 10, "min_free": 0.0}
        queue = StudyQueue(tmp_path / "queue", **(given | options))
        stack.enter_context(queue.owned())
        queue.recover()
        return queue

    yield make
    stack.close()


def states(queue: StudyQueue) -> dict[str, int]:
    """Number of studies in each state."""
    return {state: count for state in STATES if (count := len(queue.studies(state)))}


def claimed(queue: StudyQueue) -> Path:
    study = queue.claim()
    assert study is not None
    return study


def test_an_object_is_on_the_disk_before_it_is_acknowledged(
    queue_of: Callable[..., StudyQueue], monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    sync = os.fsync

    def remember(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        sync(descriptor)

    queue = queue_of()
    monkeypatch.setattr(os, "fsync", remember)
    queue.receive("1.2", "1.2.3", b"content")
    (study,) = queue.studies("receiving")
    (file,) = (study / "images").iterdir()
    assert file.read_bytes() == b"content"
    assert [Path(path).suffix for path in synced].count(".part") == 1  # the file, before it got its name
    assert synced[-1] == str(study / "images")  # then its name
    assert {str(study), str(study.parent)} <= set(synced)


def test_a_write_that_fails_leaves_no_file_and_refuses(
    queue_of: Callable[..., StudyQueue], monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = queue_of()
    queue.receive("1.2", "1.2.3", b"first")

    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(QueueFullError, match="No space left on device"):
            queue.receive("1.2", "1.2.4", b"second")
    (study,) = queue.studies("receiving")
    assert [path.read_bytes() for path in study.rglob("*") if path.is_file()] == [b"first"]


def test_a_complete_study_waits_and_the_oldest_is_claimed_first(queue_of: Callable[..., StudyQueue]) -> None:
    queue = queue_of()
    for study in ("1.9", "1.2", "1.5"):
        queue.receive(study, f"{study}.1", study.encode())
    queue.close()
    assert states(queue) == {"waiting": 3}
    contents = [next((claimed(queue) / "images").iterdir()).read_bytes() for _ in range(3)]
    assert contents == [b"1.9", b"1.2", b"1.5"]
    assert queue.claim() is None
    assert states(queue) == {"processing": 3}


def test_a_study_stays_open_until_its_quiet_time_is_over(queue_of: Callable[..., StudyQueue]) -> None:
    queue = queue_of(quiet=600.0)
    queue.receive("1.2", "1.2.3", b"")
    queue.close()
    assert states(queue) == {"receiving": 1}


def test_a_study_that_cannot_be_moved_holds_up_no_other(
    queue_of: Callable[..., StudyQueue], monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = queue_of()
    keys = [queue.receive(study, f"{study}.1", b"") for study in ("1.2", "1.3", "1.4")]
    move = queue.move

    def fail(study: Path, state: str) -> Path:
        if study.name.endswith(keys[0]):
            raise OSError(5, "Input/output error")
        return move(study, state)

    with monkeypatch.context() as patch:
        patch.setattr(queue, "move", fail)
        with pytest.raises(OSError, match="Input/output error"):
            queue.close()
        patch.setattr(queue, "_quiet", 600.0)
        with pytest.raises(OSError, match="Input/output error"):
            queue.close()
        queue.close()
    assert states(queue) == {"receiving": 1, "waiting": 2}


def test_a_study_that_broke_off_stays_open(queue_of: Callable[..., StudyQueue]) -> None:
    queue = queue_of()
    queue.break_off(queue.receive("1.2", "1.2.3", b""))
    queue.close()
    assert states(queue) == {"receiving": 1}
    queue.receive("1.2", "1.2.4", b"")
    queue.close()
    assert states(queue) == {"waiting": 1}


def test_a_study_with_refused_objects_is_complete_when_they_have_come(
    queue_of: Callable[..., StudyQueue], monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = queue_of()
    room = shutil.disk_usage(queue.folder)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: room._replace(free=4))
        for instance in ("1.2.3", "1.2.4"):
            with pytest.raises(QueueFullError, match="GiB are free"):
                queue.receive("1.2", instance, b"12345")
    queue.receive("1.2", "1.2.5", b"12345")
    queue.receive("1.2", "1.2.3", b"12345")
    queue.close()
    assert states(queue) == {"receiving": 1}
    queue.receive("1.2", "1.2.4", b"12345")
    queue.close()
    assert states(queue) == {"waiting": 1}


def test_a_study_whose_refused_objects_do_not_come_fails(
    queue_of: Callable[..., StudyQueue], monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = queue_of(patience=0.0)
    room = shutil.disk_usage(queue.folder)
    queue.receive("1.2", "1.2.3", b"12345")
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: room._replace(free=4))
        with pytest.raises(QueueFullError):
            queue.receive("1.2", "1.2.4", b"12345")
    queue.close()
    (study,) = queue.studies("failed")
    assert (study / "reason.txt").read_text() == "1 of its objects were refused and not sent again\n"


def test_undone_studies_are_bounded_and_others_are_not_counted(queue_of: Callable[..., StudyQueue]) -> None:
    queue = queue_of(max_studies=4)
    for number in range(4):
        queue.receive(f"1.{number}", f"1.{number}.1", b"")
    queue.close()
    for state in ("sending", "processing", "waiting"):
        study = claimed(queue)
        queue.move(study, state)
    with pytest.raises(QueueFullError, match="4 studies are in the queue"):
        queue.receive("1.7", "1.7.1", b"")
    queue.move(queue.studies("sending")[0], "failed")
    queue.receive("1.7", "1.7.1", b"")


def test_the_next_node_goes_on_where_one_was_ended(queue_of: Callable[..., StudyQueue]) -> None:
    queue = queue_of()
    for study in ("1.1", "1.2", "1.3"):
        queue.receive(study, f"{study}.1", b"")
        queue.close()
    study = claimed(queue)
    queue.move(study, "sending")
    queue.claim()
    queue.receive("1.4", "1.4.1", b"whole")
    (open_study,) = queue.studies("receiving")
    (open_study / "half.part").write_bytes(b"ha")
    (queue.folder / "receiving" / "20260101T000000.000000Z-0123456789abcdef" / "images").mkdir(parents=True)

    queue = queue_of()
    assert states(queue) == {"receiving": 1, "waiting": 2, "sending": 1}
    assert [path.read_bytes() for path in open_study.rglob("*") if path.is_file()] == [b"whole"]
    queue.close()
    assert queue.studies("receiving") == [open_study]  # its sender may come back
    queue.receive("1.4", "1.4.1", b"whole")
    queue.close()
    assert states(queue) == {"waiting": 3, "sending": 1}


def test_a_study_that_is_processed_already_takes_no_more(queue_of: Callable[..., StudyQueue]) -> None:
    queue = queue_of()
    queue.receive("1.2", "1.2.1", b"first")
    queue.close()
    study = claimed(queue)
    (study / "output").mkdir()

    queue = queue_of()  # ended before it was moved on
    queue.receive("1.2", "1.2.1", b"first")
    assert states(queue) == {"waiting": 1}
    queue.receive("1.2", "1.2.2", b"late")
    assert states(queue) == {"receiving": 1, "waiting": 1}


def test_the_hashes_of_two_queues_differ(tmp_path: Path) -> None:
    names = []
    for folder in ("one", "two"):
        queue = StudyQueue(tmp_path / folder, quiet=1.0, patience=1.0, max_studies=1, min_free=0.0)
        with queue.owned():
            names.append(queue.receive("1.2", "1.2.3", b""))
    assert names[0] != names[1]


def test_the_images_of_patients_are_for_the_owner_alone(queue_of: Callable[..., StudyQueue], tmp_path: Path) -> None:
    assert queue_of().folder.stat().st_mode & 0o777 == 0o700
    shutil.rmtree(tmp_path / "queue")
    (tmp_path / "queue").mkdir(mode=0o755)  # made by others, such as a mounted disk
    queue = queue_of()
    assert {(queue.folder / state).stat().st_mode & 0o777 for state in STATES} == {0o700}


def test_a_study_that_is_tried_again_and_reopened_outlives_a_kill(queue_of: Callable[..., StudyQueue]) -> None:
    queue = queue_of()
    queue.receive("1.2", "1.2.1", b"first")
    queue.close()
    study = claimed(queue)
    (study / "output.part").mkdir()  # what the application has left
    queue.fail(study, "why")
    queue.retry_failed()
    queue.receive("1.2", "1.2.2", b"second")

    queue = queue_of()
    (study,) = queue.studies("receiving")
    assert {path.read_bytes() for path in (study / "images").iterdir()} == {b"first", b"second"}


def test_a_study_that_cannot_be_claimed_holds_up_no_other(
    queue_of: Callable[..., StudyQueue], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    queue = queue_of()
    for study in ("1.2", "1.3"):
        queue.receive(study, f"{study}.1", study.encode())
    queue.close()
    first, _ = queue.studies("waiting")
    utime = os.utime

    def fail(path: Path) -> None:
        if path == first:
            raise PermissionError(1, "Operation not permitted")
        utime(path)

    monkeypatch.setattr(os, "utime", fail)
    assert next((claimed(queue) / "images").iterdir()).read_bytes() == b"1.3"
    with pytest.raises(PermissionError):
        queue.claim()
    assert f"study {first.name}: cannot be processed: Operation not permitted" in caplog.text


def test_done_studies_are_removed_and_results_without_a_peer_stay(queue_of: Callable[..., StudyQueue]) -> None:
    queue = queue_of()
    for state in ("done", "results", "failed"):
        queue.receive(f"1.{len(state)}", "1.2.3", b"")
        queue.close()
        study = claimed(queue)
        (study / "output").mkdir()
        queue.move(study, state)
    queue.purge(3600.0)
    assert states(queue) == {"results": 1, "done": 1, "failed": 1}
    queue.purge(0.0)
    assert states(queue) == {"results": 1, "failed": 1}
    assert [path.name for path in queue.studies("results")[0].iterdir()] == ["output"]
    assert (queue.studies("failed")[0] / "images").exists()
