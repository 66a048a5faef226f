"""SIGTERM as an error, so that a run that is asked to end can say so before it does."""

import signal
import threading
from types import FrameType
from typing import Any


class Terminated(SystemExit):
    """End of the process by SIGTERM, with the exit code that shells give it."""

    def __init__(self) -> None:
        super().__init__(128 + signal.SIGTERM)

    def __str__(self) -> str:
        return "SIGTERM, from the system or another program"


class Termination:
    """Has SIGTERM raise ``Terminated`` in the main thread; outside the main thread SIGTERM stays as it is.

    >>> termination = Termination()
    >>> termination.begin()
    >>> try:
    ...     signal.raise_signal(signal.SIGTERM)
    ... except Terminated as error:
    ...     print(error.code, error)
    ... finally:
    ...     termination.end()
    143 SIGTERM, from the system or another program
    """

    def __init__(self) -> None:
        self._before: Any = None

    def begin(self) -> None:
        """Raises from now on."""
        if self._before is None and threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, _terminate)

    def ignore(self) -> None:
        """Lets SIGTERM do nothing from now on: a second one would break off what the first one has begun."""
        if self._before is not None:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def end(self) -> None:
        """Hands SIGTERM back to whoever had it before."""
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)
            self._before = None


def _terminate(number: int, frame: FrameType | None) -> None:
    raise Terminated
