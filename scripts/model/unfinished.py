"""Folders on their way to their place, of which a killed process leaves none for ever."""

from __future__ import annotations

import logging
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

logger = logging.getLogger(__name__)

_PREFIX = ".new-"
_LOCK = ".lock"  # behind the name of the folder: beside it, so that no folder is there before its lock is held


@contextmanager
def unfinished(parent: Path) -> Iterator[Path]:
    """Makes a hidden folder below ``parent``, which goes in the end; what is to stay is moved out of it.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as parent:
    ...     with unfinished(Path(parent)) as folder:
    ...         folder.is_dir(), folder.name[:5]
    ...     list(Path(parent).iterdir())
    (True, '.new-')
    []
    """
    folder = parent / f"{_PREFIX}{uuid.uuid4().hex}"
    lock = _lock_of(folder)
    with lock:
        try:
            folder.mkdir(mode=0o700)
            yield folder
        finally:
            _remove(folder, lock)


def remove_abandoned(parent: Path) -> None:
    """Removes the unfinished folders below ``parent`` whose processes are gone.

    The system releases the lock of a process that ends, however it ends and on whichever machine. Folders without a
    lock are of older versions, which say nothing of their processes, and stay.
    """
    for file in parent.glob(f"{_PREFIX}*{_LOCK}"):
        folder = file.with_suffix("")
        lock = _lock_of(folder)
        try:
            with lock.acquire(blocking=False):
                _remove(folder, lock)
            logger.info("Removed %s, which a killed training has left", folder)
        except Timeout:
            continue  # its process is at work
        except OSError as error:  # as of another user's
            logger.warning("%s, which a killed training has left, cannot be removed: %s", folder, error)


def _lock_of(folder: Path) -> FileLock:
    return FileLock(folder.with_name(folder.name + _LOCK))


def _remove(folder: Path, lock: FileLock) -> None:
    """Removes a folder, and the lock that is held on it."""
    if folder.exists():
        shutil.rmtree(folder)
    Path(lock.lock_file).unlink(missing_ok=True)
