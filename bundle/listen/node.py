"""Receives studies, processes them and sends the results, each in a thread of its own."""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from bundle.listen.application import Application
from bundle.listen.queue import (
    DONE,
    IMAGES,
    OUTPUT,
    RESULTS,
    SENDING,
    WAITING,
    StudyQueue,
    sync_tree,
)
from bundle.listen.sender import PeerAwayError, RefusedError, Sender
from bundle.listen.server import Receiver
from bundle.listen.settings import Settings
from bundle.listen.tls import client_context, server_context

WRITTEN, SOME_UNREADABLE, NOTHING_WANTED = 0, 3, 4  # exit codes of the application
LOG = "log.txt"  # in a study's folder: what the application printed
BACK_OFF = (5.0, 600.0)  # s, the first and the longest wait
_TICK = 0.2  # s
_DAY = 24 * 3600

_log = logging.getLogger(__name__)


class Node:
    """DICOM node that runs until ``stop`` is set.

    Args:
        settings: Settings of the node.
        application: Command that takes the arguments of ``python -m bundle deploy``.
        back_off: Shortest and longest wait in seconds before results are sent again to a peer that was away.
    """

    def __init__(
        self, settings: Settings, application: Sequence[str], *, back_off: tuple[float, float] = BACK_OFF
    ) -> None:
        self.stop = threading.Event()
        self._settings = settings
        self._back_off = back_off
        self._queue = StudyQueue(
            settings.queue.resolve(),
            quiet=settings.quiet_seconds,
            patience=settings.patience_minutes * 60,
            max_studies=settings.max_studies,
            min_free=settings.min_free_gib * 2**30,
        )
        self._application = Application(
            [*application, str(settings.model)],
            _options(settings),
            settings.time_limit_minutes * 60,
            self._queue.folder / "application.lock",
        )
        self._receiver = Receiver(settings, self._queue, server_context(settings))
        peer = settings.send_to
        self._sender = None if peer is None else Sender(settings.ae_title, peer, client_context(settings))

    def run(self) -> None:
        """Receives, processes and sends until ``stop`` is set.

        Raises:
            OSError: If the address or a folder cannot be used.
            RuntimeError: If another node uses the queue.
        """
        with self._queue.owned():
            self._application.end_orphan()
            self._queue.recover()
            if self._settings.retry_failed:
                self._queue.retry_failed()
            threads = [threading.Thread(target=self._repeat, args=(self._process_one,), name="process")]
            if self._sender is not None:
                threads.append(threading.Thread(target=self._repeat, args=(self._send_all,), name="send"))
            with self._receiver.running() as port:
                _log.info("%s listens on %s:%d", self._settings.ae_title, self._settings.host, port)
                for thread in threads:
                    thread.start()
                self._repeat(self._look_after)
                _log.info("stopping; unfinished studies continue at the next start")
            if self._sender is not None:
                self._sender.abort()
            for thread in threads:
                thread.join()

    def _repeat(self, step: Callable[[], bool]) -> None:
        """Repeats a step, without a pause where it returns True; an error in one study does not stop the node."""
        while not self.stop.is_set():
            try:
                more = step()
            except Exception as error:  # whose text may name a patient
                _log.error("failed, and will try again: %s in %s", _nameless(error), step.__name__.strip("_"))
                self.stop.wait(self._back_off[0])
                continue
            if not more:
                self.stop.wait(_TICK)

    def _look_after(self) -> bool:
        self._queue.close()
        self._queue.purge(self._settings.keep_days * _DAY)
        return False

    def _process_one(self) -> bool:
        study = self._queue.claim()
        if study is None:
            return False
        try:
            return self._process(study)
        except OSError:  # a fault of the disk or the machine, not of the study
            self._queue.move(study, WAITING)
            raise

    def _process(self, study: Path) -> bool:
        if (study / OUTPUT).exists():  # it failed, or the node was killed, after processing
            self._deliver(study)
            return True
        part = study / f"{OUTPUT}.part"
        shutil.rmtree(part, ignore_errors=True)
        _log.info("study %s: processing", study.name)
        try:
            code = self._application.run(study / IMAGES, part, study / LOG, self.stop)
        except TimeoutError as error:
            self._queue.fail(study, f"the application was killed: {error}")
            return True
        if code is None:
            return False
        if code == NOTHING_WANTED:
            _log.info("study %s: none of its series match the rules; nothing to send", study.name)
            self._queue.move(study, DONE)
        elif code not in (WRITTEN, SOME_UNREADABLE):
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            self._queue.fail(study, f"the application ended with {how}; see {LOG}")
        elif not _results(part):
            self._queue.fail(study, f"the application wrote no results; see {LOG}")
        else:
            if code == SOME_UNREADABLE:
                _log.warning("study %s: some series could not be read; see %s", study.name, LOG)
            sync_tree(part)
            part.rename(study / OUTPUT)
            self._deliver(study)
        return True

    def _deliver(self, study: Path) -> None:
        sync_tree(study)
        if self._sender is None:
            _log.info("study %s: %d results kept in %s", study.name, len(_results(study / OUTPUT)), RESULTS)
            self._queue.move(study, RESULTS)
        else:
            self._queue.move(study, SENDING)

    def _send_all(self) -> bool:
        """Tries to send every study; waits grow from try to try, until the peer accepts a study."""
        assert self._sender is not None
        delay, longest = self._back_off
        while studies := self._queue.studies(SENDING):
            for study in studies:
                files = _results(study / OUTPUT)
                try:
                    if not self._sender.send(files, self.stop):
                        return False
                except PeerAwayError as error:
                    if self.stop.is_set():
                        return False
                    _log.warning("study %s: not sent: %s; next try in %g s", study.name, error, delay)
                    if self.stop.wait(delay):
                        return False
                    delay = min(2 * delay, longest)
                except RefusedError as error:
                    self._queue.fail(study, str(error))
                except OSError:
                    raise
                except Exception as error:  # anything that pydicom may raise on a damaged file
                    self._queue.fail(study, f"its results cannot be read: {type(error).__name__}")
                else:
                    _log.info("study %s: %d results sent", study.name, len(files))
                    self._queue.move(study, DONE)
                    delay = self._back_off[0]
        return False


def _options(settings: Settings) -> list[str]:
    rules = [] if settings.rules is None else ["--rules", str(settings.rules)]
    return [*rules, *(["--secondary-capture"] if settings.secondary_capture else [])]


def _results(output: Path) -> list[Path]:
    return sorted(output.rglob("*.dcm"))


def _nameless(error: Exception) -> str:
    return f"{type(error).__name__} ({error.strerror})" if isinstance(error, OSError) else type(error).__name__
