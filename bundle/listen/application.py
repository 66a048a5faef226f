"""Runs the application on a study, in a process of its own, and one at a time."""

from __future__ import annotations

import fcntl
import logging
import os
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

_POLL = 0.1  # s

_log = logging.getLogger(__name__)


class Application:
    """A command that takes ``-i IMAGES -o OUTPUT`` and more.

    Its process and what that starts are a group of their own, and it holds the lock file open: as long as the lock is
    held, the group whose number the file tells is alive, even if this process was killed meanwhile.

    Args:
        command: The program and its first arguments.
        options: What comes behind the folders.
        time_limit: seconds.
        lock: The lock file.
    """

    def __init__(self, command: Sequence[str], options: Sequence[str], time_limit: float, lock: Path) -> None:
        self._command, self._options = list(command), list(options)
        self._time_limit = time_limit
        self._lock = lock

    def run(self, images: Path, output: Path, log: Path, stop: threading.Event) -> int | None:
        """Gives the exit code, or None where ``stop`` came first.

        Args:
            log: Takes what the application prints.

        Raises:
            TimeoutError: If it takes too long.
            OSError: If it cannot be started.
        """
        with open(self._lock, "a") as lock, open(log, "wb") as printed:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            lock.truncate(0)
            process = subprocess.Popen(
                [*self._command, "-i", str(images), "-o", str(output), *self._options],
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=[lock.fileno()],
            )
            print(process.pid, file=lock, flush=True)
            try:
                return self._wait(process, stop)
            finally:
                _kill(process.pid)  # the process, or what it has left behind
                process.wait()

    def _wait(self, process: subprocess.Popen[bytes], stop: threading.Event) -> int | None:
        deadline = time.monotonic() + self._time_limit
        while not stop.is_set():
            try:
                return process.wait(_POLL)
            except subprocess.TimeoutExpired:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"it took longer than {self._time_limit / 60:g} minutes") from None
        return None

    def end_orphan(self) -> None:
        """Ends the application that a killed node has left running."""
        with open(self._lock, "a+") as lock:
            if _acquired(lock):
                return
            _log.warning("an application is running that a killed node has left behind: it is ended")
            while not _acquired(lock):
                lock.seek(0)
                if number := lock.read().strip():
                    _kill(int(number))
                time.sleep(_POLL)


def _acquired(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _kill(group: int) -> None:
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return
