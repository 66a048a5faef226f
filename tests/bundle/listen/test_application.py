"""Process that the application runs in."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bundle.listen.application import Application

NODE = """
import sys, threading
from pathlib import Path
from bundle.listen.application import Application
folder = Path(sys.argv[1])
Application([sys.executable, "-c", sys.argv[2]], [], 600.0, folder / "lock").run(
    folder, folder, folder / "log", threading.Event()
)
"""
CHILD = "import os, pathlib, sys, time; pathlib.Path(sys.argv[4], 'pid').write_text(str(os.getpid())); time.sleep(600)"


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., int | None]:
    """``run("code of Python", limit=...)``: exit code of the run."""

    def call(code: str, limit: float = 60.0, stop: threading.Event | None = None) -> int | None:
        application = Application([sys.executable, "-c", code], ["--more", "1"], limit, tmp_path / "lock")
        return application.run(tmp_path / "images", tmp_path, tmp_path / "log", stop or threading.Event())

    return call


def test_the_exit_code_comes_back_and_what_was_printed_is_kept(run: Callable[..., int | None], tmp_path: Path) -> None:
    assert run("import sys; print(sys.argv[1:]); sys.exit(3)") == 3
    assert (tmp_path / "log").read_text() == f"{['-i', str(tmp_path / 'images'), '-o', str(tmp_path), '--more', '1']}\n"


def test_a_crash_is_a_negative_exit_code(run: Callable[..., int | None]) -> None:
    assert run("import os; os.abort()") == -6


def test_what_hangs_is_ended_with_all_that_it_has_started(
    run: Callable[..., int | None],
    tmp_path: Path,
    is_alive: Callable[[int], bool],
    eventually: Callable[..., Any],
) -> None:
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {CHILD!r}, *sys.argv[1:]])"
    with pytest.raises(TimeoutError, match=r"it took longer than 0\.05 minutes"):
        run(code, limit=3.0)
    eventually(lambda: not is_alive(int((tmp_path / "pid").read_text())))


def test_it_is_ended_when_the_node_is_asked_to_end(
    run: Callable[..., int | None],
    tmp_path: Path,
    is_alive: Callable[[int], bool],
    eventually: Callable[..., Any],
) -> None:
    stop = threading.Event()
    stopper = threading.Thread(target=lambda: (eventually((tmp_path / "pid").exists), stop.set()))
    stopper.start()
    assert run(CHILD, stop=stop) is None
    stopper.join()
    eventually(lambda: not is_alive(int((tmp_path / "pid").read_text() or 0)))


def test_what_a_killed_node_has_left_running_is_ended(
    run: Callable[..., int | None],
    tmp_path: Path,
    is_alive: Callable[[int], bool],
    eventually: Callable[..., Any],
) -> None:
    node = subprocess.Popen([sys.executable, "-c", NODE, str(tmp_path), CHILD], cwd=Path(__file__).parents[3])
    pid = int(eventually(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text()))
    eventually(lambda: (tmp_path / "lock").read_text())
    node.kill()
    node.wait()
    assert is_alive(pid)
    with pytest.raises(BlockingIOError):
        run("")
    Application([], [], 1.0, tmp_path / "lock").end_orphan()
    eventually(lambda: not is_alive(pid))
    assert run("") == 0


def test_no_process_is_ended_that_does_not_hold_the_lock(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text(f"{os.getpgid(0)}\n")  # would end these tests
    Application([], [], 1.0, tmp_path / "lock").end_orphan()
