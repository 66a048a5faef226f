"""Queue of studies on disk, each a folder that is moved from state to state."""

from __future__ import annotations

import logging
import os
import shutil
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from scripts.dicom.privacy import group_of
from scripts.dicom.salt import FILE as SALT
from scripts.dicom.salt import salt_of

RECEIVING, WAITING, PROCESSING, SENDING = UNDONE = ("receiving", "waiting", "processing", "sending")
RESULTS, DONE, FAILED = ("results", "done", "failed")
STATES = (*UNDONE, RESULTS, DONE, FAILED)
IMAGES, OUTPUT, REASON = "images", "output", "reason.txt"  # in a study's folder

_log = logging.getLogger(__name__)


class QueueFullError(Exception):
    """An object cannot be stored now; its sender has to keep it and try again."""


class StudyQueue:
    """Studies in folders named by the time of their first object and a hash: ``STATE/TIME-HASH/images/HASH.dcm``.

    When a method returns, its changes are on disk. A kill in the middle leaves the state before or after it. Methods
    are safe to call from any thread.

    Args:
        folder: Folder of the queue; created if missing, readable by its owner alone.
        quiet: Seconds without anything new after which a study is complete.
        patience: Seconds instead of ``quiet`` for a study that lacks objects, as its transfer broke off or objects
            were refused.
        max_studies: Largest number of unfinished studies.
        min_free: Bytes to leave free on the disk.
    """

    def __init__(self, folder: Path, *, quiet: float, patience: float, max_studies: int, min_free: float) -> None:
        self.folder = folder
        self._quiet, self._patience = quiet, patience
        self._max_studies, self._min_free = max_studies, min_free
        self._lock = threading.RLock()
        self._due: dict[str, float] = {}  # study hash: time.monotonic() at which it is complete
        self._refused: dict[str, set[str]] = {}  # study hash: file names of refused objects
        self._salt = ""

    @contextmanager
    def owned(self) -> Iterator[None]:
        """Holds the folder for this node alone.

        Raises:
            RuntimeError: If another node uses it.
        """
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for state in STATES:
            (self.folder / state).mkdir(mode=0o700, exist_ok=True)  # the folder itself may exist and be open to all
        lock = FileLock(self.folder / "node.lock", blocking=False)
        try:
            lock.acquire()
        except Timeout as error:
            raise RuntimeError(
                f"{self.folder} is in use by another node. Stop that node, or choose another --queue."
            ) from error
        try:
            self._salt, _ = salt_of(None, self.folder)
            if (self.folder / SALT).exists():
                _sync(self.folder / SALT)
            _sync(self.folder)
            _sync(self.folder.parent)
            yield
        finally:
            lock.release()

    def recover(self) -> None:
        """Takes up what an earlier node left: studies being received stay open, those being processed wait again."""
        with self._lock:
            for part in (self.folder / RECEIVING).glob("*/*.part"):
                if part.is_file():  # not a folder of the application, in a study that is tried again
                    part.unlink()
            for study in self.studies(PROCESSING):
                self.move(study, WAITING)
            for study in self.studies(RECEIVING):
                if any((study / IMAGES).glob("*.dcm")):
                    self._due[_key(study)] = time.monotonic() + self._patience
                else:
                    shutil.rmtree(study)

    def studies(self, state: str) -> list[Path]:
        """Folders of the studies in a state, oldest first."""
        return sorted(path for path in (self.folder / state).iterdir() if path.is_dir())

    def receive(self, study_uid: str, instance_uid: str, content: bytes) -> str:
        """Stores an object.

        A study that waits to be processed is reopened for it. Once processing has begun, the object starts a new study,
        unless the very same object is being processed or sent already.

        Args:
            study_uid: StudyInstanceUID.
            instance_uid: SOPInstanceUID.
            content: Bytes of the file, in the DICOM file format.

        Returns:
            Hash of the study.

        Raises:
            QueueFullError: If there is no room.
        """
        key, name = group_of(study_uid, self._salt), f"{group_of(instance_uid, self._salt)}.dcm"
        with self._lock:
            try:
                if self._is_in_work(key, name, content):
                    return key
                study = self._opened(key, len(content))
                _write(study / IMAGES / name, study / f"{uuid.uuid4().hex}.part", content)
            except (OSError, QueueFullError) as error:
                self._refused.setdefault(key, set()).add(name)
                self._due[key] = time.monotonic() + self._patience
                raise QueueFullError(_reason(error)) from error
            lacking = self._refused.get(key, set())
            lacking.discard(name)
            self._due[key] = time.monotonic() + (self._patience if lacking else self._quiet)
            return key

    def _is_in_work(self, key: str, name: str, content: bytes) -> bool:
        studies = [study for state in (WAITING, PROCESSING, SENDING) for study in self._of(key, state)]
        paths = [study / IMAGES / name for study in studies if not _takes_more(study)]
        return any(path.is_file() and path.read_bytes() == content for path in paths)

    def _opened(self, key: str, size: int) -> Path:
        free = shutil.disk_usage(self.folder).free
        if free - size < self._min_free:
            raise QueueFullError(f"only {free / 2**30:.1f} GiB are free on the disk of the queue")
        for study in self._of(key, RECEIVING):
            return study
        for study in filter(_takes_more, self._of(key, WAITING)):
            return self.move(study, RECEIVING)
        undone = sum(len(self.studies(state)) for state in UNDONE)
        if undone >= self._max_studies:
            raise QueueFullError(f"{undone} studies are in the queue")
        study = self.folder / RECEIVING / f"{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}-{key}"
        (study / IMAGES).mkdir(parents=True)
        _sync(study)
        _sync(study.parent)
        _log.info("study %s: receiving", study.name)
        return study

    def _of(self, key: str, state: str) -> list[Path]:
        return sorted((self.folder / state).glob(f"*-{key}"))

    def hold(self, key: str) -> None:
        """Keeps a study open for another quiet period, as more of it is arriving."""
        with self._lock:
            if key in self._due:
                self._due[key] = max(self._due[key], time.monotonic() + self._quiet)

    def break_off(self, key: str) -> None:
        """Keeps a study open for the longer wait, as its sender was cut off and should come back."""
        with self._lock:
            if key in self._due:
                self._due[key] = time.monotonic() + self._patience
                _log.warning("study with hash %s: the connection broke off; waiting for its sender to try again", key)

    def close(self) -> None:
        """Queues complete studies for processing; fails those whose refused objects never came."""
        with self._lock:
            for key in [key for key, due in self._due.items() if due <= time.monotonic()]:
                self._due[key] += self._quiet  # so that an error in one does not hold up the others
                lacking = self._refused.get(key)
                for study in self._of(key, RECEIVING):
                    if lacking:
                        self.fail(study, f"{len(lacking)} of its objects were refused and not sent again")
                    else:
                        _log.info("study %s: complete, %d objects", study.name, len(list((study / IMAGES).iterdir())))
                        self.move(study, WAITING)
                self._refused.pop(key, None)
                del self._due[key]

    def claim(self) -> Path | None:
        """Takes the study that has waited longest for processing; None if none waits."""
        failed = None
        with self._lock:
            for study in self.studies(WAITING):
                try:
                    (study / REASON).unlink(missing_ok=True)
                    return self.move(study, PROCESSING)
                except OSError as error:  # for instance a folder that another user put there
                    _log.error("study %s: cannot be processed: %s", study.name, error.strerror)
                    failed = error
        if failed is not None:
            raise failed
        return None

    def move(self, study: Path, state: str) -> Path:
        """Moves a study to another state; the folder's modification time says when."""
        with self._lock:
            target = self.folder / state / study.name
            os.utime(study)
            study.rename(target)
            _sync(target.parent)
            _sync(study.parent)
            return target

    def fail(self, study: Path, reason: str) -> None:
        """Moves a study to failed, with the reason in a file for people to read."""
        _log.error("study %s: failed: %s", study.name, reason)
        (study / REASON).write_text(f"{reason}\n", encoding="utf-8")
        _sync(study / REASON)
        self.move(study, FAILED)

    def retry_failed(self) -> None:
        """Queues the failed studies again."""
        for study in self.studies(FAILED):
            self.move(study, WAITING)
            _log.info("study %s: trying again", study.name)

    def purge(self, keep: float) -> None:
        """Removes done studies, and images of studies whose results stay here, after ``keep`` seconds."""
        old = time.time() - keep
        for study in self.studies(DONE):
            if study.stat().st_mtime <= old:
                shutil.rmtree(study)
        for study in self.studies(RESULTS):
            if (study / IMAGES).exists() and study.stat().st_mtime <= old:
                shutil.rmtree(study / IMAGES)


def sync_tree(folder: Path) -> None:
    """Flushes a folder and everything in it to disk."""
    for parent, _, names in os.walk(folder):
        for name in names:
            _sync(Path(parent, name))
        _sync(Path(parent))


def _takes_more(study: Path) -> bool:
    return study.parent.name == WAITING and not (study / OUTPUT).exists()


def _key(study: Path) -> str:
    return study.name.rpartition("-")[2]


def _write(path: Path, part: Path, content: bytes) -> None:
    try:
        with open(part, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    _sync(path.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _reason(error: Exception) -> str:
    return f"{error.strerror}" if isinstance(error, OSError) else str(error)
