"""Runs the application on one study at a time, in a process of its own."""

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
    """A command that takes ``-i IMAGES -o OUTPUT`` and further options.

    It runs in a process group of its own and holds the lock file open. As long as the lock is held, the group whose
    number is in the file is alive, even if this process was killed meanwhile.

    Args:
        command: Program and its first arguments.
        options: Arguments that follow the folders.
        time_limit: Longest run, in seconds.
        lock: Path of the lock file.
    """

    def __init__(self, command: Sequence[str], options: Sequence[str], time_limit: float, lock: Path) -> None:
        self._command, self._options = list(command), list(options)
        self._time_limit = time_limit
        self._lock = lock

    def run(self, images: Path, output: Path, log: Path, stop: threading.Event) -> int | None:
        """Runs the application to its end, or until ``stop`` is set.

        Args:
            images: Folder of the DICOM files to read.
            output: Folder for the results.
            log: File for what the application prints.
            stop: Event that ends the run early.

        Returns:
            The exit code, or None if ``stop`` came first.

        Raises:
            TimeoutError: If the run exceeds the time limit.
            OSError: If the application cannot be started.
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
                _kill(process.pid)  # the application, or processes that it left behind
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
        """Kills an application that a killed node left running."""
        with open(self._lock, "a+") as lock:
            if _acquired(lock):
                return
            _log.warning("killing an application that an earlier node left running")
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
