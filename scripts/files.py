"""Atomic writes, links and hashes of files."""

import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside ``path``, with the same suffixes; the file written there replaces ``path``.

    After an error an older file is unchanged, and nothing half-written is left.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with replacing(Path(folder, "a.txt")) as part:
    ...         _ = part.write_text("whole")
    ...     [path.name for path in Path(folder).iterdir()]
    ['a.txt']
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{uuid.uuid4().hex}-{path.name}")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def link_or_copy(source: str | Path, target: str | Path) -> None:
    """Links a file a second time, which costs no room, or copies it to another disk or one without hard links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy(source, target)


def file_sha256(path: str | Path) -> str:
    """SHA-256 of a file, 64 lower-case hex digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
